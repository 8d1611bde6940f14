"""The encoders that are evaluated: those of a run, stage by stage, or those of a file; random ones are beside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ikem.config import Config, EncoderConfig
from ikem.data.dataset import PreparedDataset
from ikem.encoders import Encoder, build_encoder, encoders_of
from ikem.pretrain import STAGE1_CHECKPOINT, first_streams
from ikem.seeding import derive_seed
from ikem.training import LAST_CHECKPOINT
from ikem.weights import Weights, read_weights
from ikem_ext import SkeletonLayout
from ikem_ext.layout_mapping import LayoutMapping


@dataclass(frozen=True)
class Stage:
    """Encoders of one origin.

    Attributes:
        name: of the stage.
        encoders: by modality.
        config: of the encoders.
        layout: of the skeletons that they see.
        control: which control they are, or None.
        origin: where they come from, for the record.
    """

    name: str
    encoders: Mapping[str, Encoder]
    config: EncoderConfig
    layout: SkeletonLayout
    control: str | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    def mapping_from(self, layout: SkeletonLayout) -> LayoutMapping | None:
        """Return how joints of a layout are read as those of the encoders' own; None where it is the same.

        Raises:
            ValueError: if the layout says nothing of some of them.
        """
        if layout == self.layout:
            return None
        mapping = SkeletonLayout.mapping(layout, self.layout)
        mapping.require_all()
        return mapping


def stages_of_run(config: Config, dataset: PreparedDataset) -> list[Stage]:
    """Return the random weights that a run's pretraining started from, and the stages that it has trained.

    Raises:
        ValueError: if the run has trained nothing.
    """
    trained = list(_trained_stages(config, dataset))
    if not trained:
        raise ValueError(f"run: {config.run} holds no finished stage of pretraining; run `ikem pretrain` first")
    layout = trained[0].layout
    random = encoders_of(first_streams(config, layout))
    return [Stage("random", random, config.encoder, layout, control="random"), *trained]


def _trained_stages(config: Config, dataset: PreparedDataset) -> Iterator[Stage]:
    for expected, name in (
        ("stage1", f"pretrain/{STAGE1_CHECKPOINT}"),
        ("stage2", f"pretrain/{LAST_CHECKPOINT}"),
        ("student", f"distill/{LAST_CHECKPOINT}"),
    ):
        path = config.run / name
        if path.is_file():
            weights = read_weights(path, dataset.layout)
            if weights.stage == expected:  # the last checkpoint is that of stage 1 where there is no stage 2 yet
                yield _stage(weights, name)


def stages_of_file(path: Path, config: Config, dataset: PreparedDataset, modality: str) -> list[Stage]:
    """Return the encoders that a file holds, after encoders like them with random weights.

    Args:
        path: what `read_weights` takes.
        config: for the seed, and for the encoder of a published file.
        dataset: what they are evaluated on; a published file, which does not say, is of its skeleton.
        modality: of a published encoder that stands alone.

    Raises:
        ValueError: if the file is none of these, or does not fit.
    """
    weights = read_weights(path, dataset.layout, config.encoder, modality)
    torch.manual_seed(derive_seed(config.seed, "random encoders"))
    random = {name: build_encoder(weights.config, weights.layout) for name in weights.encoders}
    return [Stage("random", random, weights.config, weights.layout, control="random"), _stage(weights, str(path))]


def _stage(weights: Weights, file: str) -> Stage:
    origin = {"file": file, "epochs": weights.epochs}
    return Stage(weights.stage, weights.encoders, weights.config, weights.layout, origin=origin)

"""What the encoders begin with."""

from __future__ import annotations

from pathlib import Path

import torch

from ikem.config import Config
from ikem.data.dataset import PreparedDataset
from ikem.encoders import Encoder, build_encoder
from ikem.seeding import derive_seed
from ikem.training import LAST_CHECKPOINT
from ikem.weights import Weights, read_weights


def pretrained_file(config: Config) -> Path | None:
    """Return the file of the encoders that a finetuning begins with; None where they are random."""
    if config.finetune.init == "random":
        return None
    return config.finetune.checkpoint or config.run / "pretrain" / LAST_CHECKPOINT


def initial_weights(config: Config, dataset: PreparedDataset, path: Path | None) -> Weights:
    """Return the encoders that a finetuning begins with.

    Args:
        config: of the run.
        dataset: what is learned from.
        path: of pretrained encoders; None for random ones, which follow from the run's seed.

    Raises:
        ValueError: if the file is none of encoders, or does not fit.
    """
    options = config.finetune
    if path is None:
        torch.manual_seed(derive_seed(config.seed, "finetune"))
        encoders: dict[str, Encoder] = {
            modality: build_encoder(config.encoder, dataset.layout) for modality in options.modalities
        }
        return Weights("random", encoders, config.encoder, dataset.layout)
    weights = read_weights(path, dataset.layout, config.encoder, options.modalities[0])
    if weights.layout != dataset.layout:
        raise ValueError(
            f"finetune.checkpoint: {path} was trained on the skeleton {weights.layout.name!r}, "
            f"the dataset's is {dataset.layout.name!r}"
        )
    if missing := [modality for modality in options.modalities if modality not in weights.encoders]:
        raise ValueError(
            f"finetune.modalities: {path} has encoders of {', '.join(weights.encoders)}, not of {', '.join(missing)}"
        )
    chosen: dict[str, Encoder] = {modality: weights.encoders[modality] for modality in options.modalities}
    return Weights(weights.stage, chosen, weights.config, weights.layout, weights.epochs)

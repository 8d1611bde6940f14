"""Pretraining: momentum contrast per modality, then exchange of knowledge between the modalities.

Wei et al., "Elevating Skeleton-Based Action Recognition with Efficient Multi-Modality Self-Supervision",
arXiv 2309.12009.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ikem.checkpoint import DESCRIPTION, read_checkpoint, weights_within
from ikem.config import Config, EncoderConfig, PretrainConfig, plain
from ikem.data.batches import Batch
from ikem.data.dataset import PreparedDataset
from ikem.encoders import Encoder, build_stream, embed, encoders_of, mlp, unit
from ikem.seeding import derive_seed
from ikem.training import ContrastiveModule, fit, open_data, watches
from ikem.training.negatives import Negatives, by_subject, without_own_clip
from ikem_ext import SkeletonLayout, cross_modal_nce, implicit_exchange, info_nce
from ikem_ext.nn import KeyQueue

STAGE1_CHECKPOINT = "stage1.ckpt"


class Pretraining(ContrastiveModule):
    """Query and key encoders per modality, a queue of keys, and the losses of the two stages.

    Stage 1 is MoCo (He et al., CVPR 2020) for each modality. In stage 2 the modalities exchange: explicitly, through
    the nearest neighbors that the others see, and implicitly, through the joint embedding of all (Wei et al.,
    arXiv 2309.12009, Section 2).

    Args:
        config: of pretraining.
        encoder: of each modality's encoder.
        layout: of the skeletons.
        seed: of the run.
        accuracy_every: contrastive accuracy is measured every so many steps.
        cuda_graphs: launch what is between the views and the losses, and its backward pass, as CUDA graphs.
        subjects: of every clip of the data set, (clips,) int64 from 0 on, where the configuration weighs them.

    Raises:
        ValueError: if CUDA graphs are asked for and the explicit exchange leaves out entries of the queue, which are
            not always as many.
    """

    subjects: Tensor | None

    def __init__(
        self,
        config: PretrainConfig,
        encoder: EncoderConfig,
        layout: SkeletonLayout,
        *,
        seed: int = 1,
        accuracy_every: int = 10,
        cuda_graphs: bool = False,
        subjects: Tensor | None = None,
    ) -> None:
        if cuda_graphs and config.mask_own_clip and config.exchanges and config.explicit:
            raise ValueError(
                "trainer.cuda_graphs: expected false with pretrain.mask_own_clip and a stage 2 that has "
                "pretrain.explicit, where each step leaves out as many entries of the queue as it has to"
            )
        super().__init__(config, config.modalities, encoder, layout, seed, accuracy_every, cuda_graphs)
        self.config = config
        width, joint_width = config.embedding_width, config.embedding_width * len(self.modalities)
        self.query = query_streams(config, encoder, layout)
        features = next(iter(self.encoders.values())).feature_width
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        # Drawn in any case: what is drawn after them, and so stage 1, is the same whatever stage 2 does.
        heads = {
            modality: mlp(features, joint_width, joint_width, encoder.initialization) for modality in self.modalities
        }
        self.exchange_heads = nn.ModuleDict(heads if config.exchanges and config.implicit else {})
        self.weighs = config.mask_own_clip or config.weighs_subjects
        self.queue = KeyQueue(len(self.modalities), config.queue_length, width, with_clips=self.weighs)
        self.register_buffer("subjects", subjects, persistent=False)
        self.num_subjects = 0 if subjects is None else int(subjects.max()) + 1
        self.update_average = get_ema_multi_avg_fn(config.key_momentum)

    @property
    def encoders(self) -> dict[str, Encoder]:
        """What the training is for: the query encoders by modality."""
        return encoders_of(self.query)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step of either stage; the keys enter the queue when the gradients are done with it."""
        query_view, key_view = (self.derive(part, view, self.modalities) for part, view in batch.looks())
        inputs = [query_view, key_view]
        clips = {}
        if self.weighs:
            assert batch.numbers is not None
            clips = {"clips": batch.numbers}
            inputs += [batch.numbers, cast(Tensor, self.all_gather(batch.numbers)).flatten()]
        # Several processes, which alone shuffle, launch no graphs.
        losses, q, k = self.compare(*inputs) if batch.places is None else self(*inputs, places=batch.places)
        return {"loss": self.log_step(losses, q, k, self.queue.queue), "keys": k, **clips}

    def forward(
        self,
        query_view: Tensor,
        key_view: Tensor,
        clips: Tensor | None = None,
        together: Tensor | None = None,
        places: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Map the views (G, N, 3, T, V, M) to the losses (G,) of the stage, queries and keys (G, N, C).

        ``clips`` (N,) are the numbers of the batch's clips, ``together`` those of the batches of all processes, where
        the negatives depend on it. ``places`` (N,) tell where the batch's clips stand among the key views of all
        processes, where these are shuffled.
        """
        features, q = embed(self.query, query_view)
        with torch.no_grad():
            self.update_key_encoders()
            _, k = embed(self.key, key_view)
            if places is not None:
                k = cast(Tensor, self.all_gather(k)).transpose(0, 1).flatten(1, 2)[:, places]
        negatives = None if clips is None else self.negatives(clips)
        if self.stage == 1:
            losses = self.contrast(q, k, negatives)
        else:
            losses = self.exchange(q, k, features, negatives, together)
        return losses, q.detach(), k

    def enqueue(self, outputs: Mapping[str, Tensor]) -> None:
        """Let the new keys replace the oldest ones."""
        self.queue.enqueue(outputs["keys"], outputs.get("clips"))

    def negatives(self, clips: Tensor) -> Negatives:
        """Return the weights of the queue's entries as negatives of queries of these clips (N,)."""
        config, entries = self.config, self.queue.clips
        assert entries is not None
        found = [without_own_clip(clips, entries, config.temperature)] if config.mask_own_clip else []
        if config.weighs_subjects:
            assert self.subjects is not None
            weights = config.same_subject_weight, config.other_subject_weight
            found.append(by_subject(clips, entries, self.subjects, self.num_subjects, *weights, config.temperature))
        return Negatives.joined(found)

    def contrast(self, q: Tensor, k: Tensor, negatives: Negatives | None = None) -> dict[str, Tensor]:
        """Stage 1: every query with its own key against its modality's queue; (G,)."""
        loss = info_nce if negatives is None else negatives.contrast
        return {"contrast": loss(q, k, self.queue.queue, self.config.temperature)}

    def exchange(
        self,
        q: Tensor,
        k: Tensor,
        features: Tensor,
        negatives: Negatives | None = None,
        together: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Stage 2: the explicit and the implicit exchange, (G,) each."""
        queue, temperature = self.queue.queue, self.config.temperature
        if self.config.explicit:
            others = queue
            if together is not None and self.queue.clips is not None:
                others = queue[:, ~torch.isin(self.queue.clips, together)]
            explicit = cross_modal_nce(q, k, others, temperature, topk=self.config.topk, context=self.config.context)
            losses = {"explicit": explicit}
        else:
            losses = self.contrast(q, k, negatives)
        if self.config.implicit:
            heads = zip(self.exchange_heads.values(), features, strict=True)
            h = torch.stack([unit(head(part)) for head, part in heads])
            loss = implicit_exchange if negatives is None else negatives.implicit
            losses["implicit"] = loss(h, k, queue, temperature)
        return losses

    def update_key_encoders(self) -> None:
        """Move the key encoders towards the query encoders; in stage 2 only those of the chosen modalities."""
        following = self.modalities if self.stage == 1 else self.config.exchange_momentum_modalities
        keys, queries = (
            [p for modality in self.modalities if modality in following for p in streams[modality].parameters()]
            for streams in (self.key, self.query)
        )
        if keys:
            self.update_average(keys, queries, 0)

    def describe(self) -> dict[str, Any]:
        """Return what :meth:`from_checkpoint` needs beside encoder and layout, and the stage."""
        return {"kind": "pretrain", "stage": self.stage, "pretrain": plain(self.config)}

    @classmethod
    def from_checkpoint(cls, path: Path) -> Pretraining:
        """Build the module that a checkpoint of `ikem pretrain` holds.

        Raises:
            ValueError: if the file is missing or something else.
        """
        checkpoint = read_checkpoint(path, "pretrain")
        description = checkpoint[DESCRIPTION]
        module = cls(
            PretrainConfig(**description["pretrain"]),
            EncoderConfig(**description["encoder"]),
            SkeletonLayout.from_dict(description["layout"]),
        )
        module.load_state_dict(checkpoint["state_dict"])
        return module


def query_streams(config: PretrainConfig, encoder: EncoderConfig, layout: SkeletonLayout) -> nn.ModuleDict:
    """Return streams by modality, as a pretraining begins with."""
    width = config.embedding_width
    return nn.ModuleDict(
        {modality: build_stream(encoder, layout, encoder.feature_width, width) for modality in config.modalities}
    )


def load_streams(path: Path) -> tuple[nn.ModuleDict, PretrainConfig, SkeletonLayout]:
    """Load the query streams by modality from a checkpoint of `ikem pretrain`, and neither its keys nor its queue.

    Returns:
        The streams; the configuration and the skeleton that they were trained with.

    Raises:
        ValueError: if the file is missing or something else.
    """
    checkpoint = read_checkpoint(path, "pretrain")
    description = checkpoint[DESCRIPTION]
    config, layout = PretrainConfig(**description["pretrain"]), SkeletonLayout.from_dict(description["layout"])
    streams = query_streams(config, EncoderConfig(**description["encoder"]), layout)
    streams.load_state_dict(weights_within(checkpoint["state_dict"], "query"))
    return streams, config, layout


def first_streams(config: Config, layout: SkeletonLayout) -> nn.ModuleDict:
    """Return the query streams with the random weights that a run begins with: what `build_pretraining` draws first."""
    torch.manual_seed(derive_seed(config.seed, "pretrain"))
    return query_streams(config.pretrain, config.encoder, layout)


def build_pretraining(config: Config, layout: SkeletonLayout, subjects: Tensor | None = None) -> Pretraining:
    """Build the module of a run with the random weights that follow from the run's seed.

    What the arguments are: see `Pretraining`.
    """
    torch.manual_seed(derive_seed(config.seed, "pretrain"))
    return Pretraining(
        config.pretrain,
        config.encoder,
        layout,
        seed=config.seed,
        accuracy_every=config.trainer.accuracy_every,
        cuda_graphs=config.trainer.cuda_graphs,
        subjects=subjects,
    )


def subjects_of(dataset: PreparedDataset, clips: NDArray[np.int64]) -> Tensor:
    """Number the subjects of a data set's clips from 0 on: (clips,) int64.

    Args:
        dataset: that has the clips.
        clips: those that are trained on; what stands for others means nothing.

    Raises:
        ValueError: if some of them have no subject, or all the same.
    """
    names = [dataset.clips[clip].subject for clip in clips]
    if unknown := sum(name is None for name in names):
        raise ValueError(
            f"pretrain.same_subject_weight: expected 1, as {unknown} of {len(names)} training clips of "
            f"{dataset.folder} say nothing of their subject"
        )
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    if len(order) < 2:
        raise ValueError(
            f"pretrain.same_subject_weight: expected 1, as {dataset.folder} has training clips of one subject"
        )
    subjects = torch.zeros(len(dataset), dtype=torch.int64)
    subjects[torch.from_numpy(clips)] = torch.tensor([order[name] for name in names])
    return subjects


def pretrain(config: Config, *, overwrite: bool = False) -> Path:
    """Pretrain the run's encoders on the training part of its protocol, or go on where an interrupted run stopped.

    Args:
        config: of the run.
        overwrite: start afresh, whatever the run's folder holds.

    Returns:
        The last checkpoint, ``<run>/pretrain/last.ckpt``; ``stage1.ckpt`` beside it is the end of stage 1.

    Raises:
        ValueError: if the configuration does not fit the dataset, or differs from the stored run's.
    """
    data = open_data(config, key_encoders=True)
    weighs = config.pretrain.weighs_subjects
    subjects = subjects_of(data.dataset, data.batches.clips) if weighs else None
    module = build_pretraining(config, data.dataset.layout, subjects)
    return fit(
        module,
        data,
        config,
        "pretrain",
        keep={config.pretrain.stage1_epochs: STAGE1_CHECKPOINT},
        measures=watches(config, data.dataset),
        overwrite=overwrite,
    )

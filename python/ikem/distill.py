"""Relational cross-modality distillation: a student of few modalities learns from the frozen teacher of all.

Wei et al., arXiv 2309.12009, Section 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ikem.checkpoint import DESCRIPTION, read_checkpoint, weights_within
from ikem.config import Config, DistillConfig, EncoderConfig, plain
from ikem.data.batches import Batch
from ikem.encoders import Encoder, build_stream, embed, encoders_of, unit
from ikem.pretrain import load_streams
from ikem.seeding import derive_seed
from ikem.training import LAST_CHECKPOINT, ContrastiveModule, fit, open_data, watches
from ikem_ext import SkeletonLayout, relational_distillation
from ikem_ext.nn import KeyQueue


class Teacher(nn.Module):
    """Pretrained streams, frozen and always in eval mode.

    Args:
        streams: G streams by modality.
    """

    def __init__(self, streams: nn.ModuleDict) -> None:
        super().__init__()
        self.streams = streams
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Teacher:
        """Stay in eval mode: neither dropout nor drifting statistics in what the student learns from."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (G, N, 3, T, V, M) to the embeddings per modality (G, N, C) and their concatenation (N, G * C)."""
        _, q = embed(self.streams, x)
        return q, unit(q.transpose(0, 1).flatten(1))


class Distillation(ContrastiveModule):
    """Teacher, student, and the queues of what the teacher saw.

    Args:
        config: of distillation.
        encoder: of the student's encoders.
        teacher: the pretrained streams by modality.
        embedding_width: C, of the teacher.
        layout: of the skeletons.
        seed: of the run.
        accuracy_every: contrastive accuracy is measured every so many steps.
        cuda_graphs: launch what is between the views and the losses, and its backward pass, as CUDA graphs.
    """

    def __init__(
        self,
        config: DistillConfig,
        encoder: EncoderConfig,
        teacher: nn.ModuleDict,
        embedding_width: int,
        layout: SkeletonLayout,
        *,
        seed: int = 1,
        accuracy_every: int = 10,
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__(config, config.modalities, encoder, layout, seed, accuracy_every, cuda_graphs)
        self.config = config
        self.teacher_modalities = tuple(teacher)
        width = embedding_width * len(teacher)
        self.teacher = Teacher(teacher)
        self.student = student_streams(config, encoder, layout, width)
        self.guide_queue = KeyQueue(len(teacher), config.queue_length, embedding_width)
        self.teacher_queue = KeyQueue(1, config.queue_length, width)

    @property
    def encoders(self) -> dict[str, Encoder]:
        """What the training is for: the student's encoders by modality."""
        return encoders_of(self.student)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The teacher sees the first view, the student the second."""
        teacher_view, student_view = (
            self.derive(batch, view, modalities)
            for view, modalities in zip(batch.views, (self.teacher_modalities, self.modalities), strict=True)
        )
        losses, h, t, q = self.compare(teacher_view, student_view)
        students = len(self.modalities)
        keys, queue = t.expand(students, -1, -1), self.teacher_queue.queue.expand(students, -1, -1)
        return {"loss": self.log_step(losses, h, keys, queue), "guide": q, "teacher": t[None]}

    def forward(self, teacher_view: Tensor, student_view: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """Map the views to the losses (S,) and to h, t and q as `distill` takes them."""
        q, t = self.teacher(teacher_view)
        _, h = embed(self.student, student_view)
        return self.distill(h, t, q), h.detach(), t, q

    def enqueue(self, outputs: Mapping[str, Tensor]) -> None:
        """Let what the teacher saw replace the oldest entries, once the gradients are done with the queues."""
        self.guide_queue.enqueue(outputs["guide"])
        self.teacher_queue.enqueue(outputs["teacher"])

    def distill(self, h: Tensor, t: Tensor, q: Tensor) -> dict[str, Tensor]:
        """Contrast the students (S, N, G * C) with the teacher (N, G * C), guided by its modalities (G, N, C); (S,)."""
        return {
            "distillation": relational_distillation(
                h,
                t,
                self.teacher_queue.queue[0],
                q,
                self.guide_queue.queue,
                self.config.temperature,
                topk=self.config.topk,
            )
        }

    def describe(self) -> dict[str, Any]:
        """Return what :func:`load_student` needs beside encoder and layout."""
        return {"kind": "distill", "distill": plain(self.config), "width": self.teacher_queue.keys.shape[-1]}


def student_streams(config: DistillConfig, encoder: EncoderConfig, layout: SkeletonLayout, width: int) -> nn.ModuleDict:
    """Return the student's streams by modality, whose embeddings are as wide as the teacher's, G * C."""
    return nn.ModuleDict({modality: build_stream(encoder, layout, width, width) for modality in config.modalities})


def load_student(path: Path) -> nn.ModuleDict:
    """Load the student's streams by modality from a checkpoint of `ikem distill`.

    Raises:
        ValueError: if the file is missing or something else.
    """
    checkpoint = read_checkpoint(path, "distill")
    description = checkpoint[DESCRIPTION]
    student = student_streams(
        DistillConfig(**description["distill"]),
        EncoderConfig(**description["encoder"]),
        SkeletonLayout.from_dict(description["layout"]),
        description["width"],
    )
    student.load_state_dict(weights_within(checkpoint["state_dict"], "student"))
    return student


def distill(config: Config, *, overwrite: bool = False) -> Path:
    """Distil the run's pretrained streams into its student, or go on where an interrupted run stopped.

    Args:
        config: of the run.
        overwrite: start afresh, whatever the run's folder holds.

    Returns:
        The last checkpoint, ``<run>/distill/last.ckpt``.

    Raises:
        ValueError: if there is no teacher, its skeleton is not the dataset's, or the configuration differs from the
            stored run's.
    """
    data = open_data(config)
    path = config.distill.teacher or config.run / "pretrain" / LAST_CHECKPOINT
    teacher, pretrained, layout = load_streams(path)
    if layout != data.dataset.layout:
        raise ValueError(
            f"distill.teacher: {path} was trained on the skeleton {layout.name!r}, "
            f"the dataset's is {data.dataset.layout.name!r}"
        )
    torch.manual_seed(derive_seed(config.seed, "distill"))
    module = Distillation(
        config.distill,
        config.encoder,
        teacher,
        pretrained.embedding_width,
        layout,
        seed=config.seed,
        accuracy_every=config.trainer.accuracy_every,
        cuda_graphs=config.trainer.cuda_graphs,
    )
    measures = watches(config, data.dataset)
    return fit(module, data, config, "distill", keep={}, measures=measures, overwrite=overwrite)

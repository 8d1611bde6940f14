"""The published steps: a loop over bones, a matrix of logits for every pair of modalities, queues that are cloned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ikem.config import DistillConfig
from ikem.data.batches import Batch
from ikem.data.views import View
from ikem.encoders import unit
from ikem_ext import MODALITIES

from .. import published_losses
from ..compiling import Compiler, eager
from ..contrast import WIDTH
from ..modalities import published as published_modalities
from .batch import NTU, Sizes
from .published_encoder import PublishedEncoder, published_head
from .run import Step

MOMENTUM = 0.999


def encode(encoder: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Call an encoder: the function that all encoders are compiled through."""
    return encoder(x)


class PublishedStep(Step):
    """What the published steps share."""

    def __init__(self, compiler: Compiler) -> None:
        super().__init__()
        self.compiler = compiler
        self.encode = self.compiler(encode)
        self.enqueued = 0

    def embed(self, encoders: nn.ModuleDict, batch: Batch, view: View) -> tuple[list[Tensor], list[Tensor]]:
        """Features and embeddings of a view, modality by modality."""
        of_batch = slice(None) if batch.clips is None else batch.clips
        derived = published_modalities(
            batch.joints[of_batch],
            batch.num_frames[of_batch],
            NTU,
            shear=view.shear,
            crop_start=view.crop_start,
            crop_padding=view.crop_padding,
        )
        of = dict(zip(MODALITIES, derived, strict=True))
        pairs = [self.encode(encoder, of[modality]) for modality, encoder in encoders.items()]
        return [features for features, _ in pairs], [embedding for _, embedding in pairs]

    def add_queue(self, name: str, length: int, width: int) -> None:
        """Random unit vectors."""
        self.register_buffer(name, normalize(torch.randn(length, width), dim=1))

    @torch.no_grad()
    def enqueue(self, keys: dict[str, Tensor]) -> None:
        """Replace the oldest entries of the queues by name; their length is a multiple of the batch."""
        for name, new in keys.items():
            queue = getattr(self, name)
            queue[self.enqueued : self.enqueued + len(new)] = new
        self.enqueued = (self.enqueued + len(new)) % len(queue)


class PublishedStage1(PublishedStep):
    """Momentum contrast of each modality."""

    following: Sequence[str] = MODALITIES
    loss: Callable[..., Tensor] = staticmethod(published_losses.info_nce)

    def __init__(self, sizes: Sizes, compiler: Compiler = eager) -> None:
        super().__init__(compiler)
        self.query, self.key = (
            nn.ModuleDict({modality: PublishedEncoder(WIDTH, dropout=sizes.dropout) for modality in MODALITIES})
            for _ in range(2)
        )
        self.key.load_state_dict(self.query.state_dict())
        self.key.requires_grad_(False)
        for modality in MODALITIES:
            self.add_queue(f"queue_{modality}", sizes.keys, WIDTH)
        self.contrast = self.compiler(self.loss)

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss before the step."""
        first, second = batch.views
        features, q = self.embed(self.query, batch, first)
        with torch.no_grad():
            for modality in self.following:
                pairs = zip(self.query[modality].parameters(), self.key[modality].parameters(), strict=True)
                for query, key in pairs:
                    key.data = key.data * MOMENTUM + query.data * (1 - MOMENTUM)
            _, k = self.embed(self.key, batch, second)
        queues = [getattr(self, f"queue_{modality}").clone().detach() for modality in MODALITIES]
        loss = self.contrasted(features, torch.stack(q), torch.stack(k), queues)
        self.update(loss)
        self.enqueue({f"queue_{modality}": keys for modality, keys in zip(MODALITIES, k, strict=True)})
        return loss.detach()

    def contrasted(self, features: list[Tensor], q: Tensor, k: Tensor, queues: list[Tensor]) -> Tensor:
        """The loss."""
        return self.contrast(q, k, queues)


class PublishedStage2(PublishedStage1):
    """Explicit and implicit exchange."""

    following = ("motion", "acceleration", "angular_velocity")
    loss = staticmethod(published_losses.exchange)

    def __init__(self, sizes: Sizes, compiler: Compiler = eager) -> None:
        super().__init__(sizes, compiler)
        joined = WIDTH * len(MODALITIES)
        self.exchange_heads = nn.ModuleDict({modality: published_head(joined, joined) for modality in MODALITIES})

    def contrasted(self, features: list[Tensor], q: Tensor, k: Tensor, queues: list[Tensor]) -> Tensor:
        """The loss."""
        heads = zip(self.exchange_heads.values(), features, strict=True)
        h = torch.stack([unit(head(part)) for head, part in heads])
        return self.contrast(q, h, k, queues)


class PublishedDistillation(PublishedStep):
    """Relational distillation, the teacher in eval mode as in ours."""

    teacher_queue: Tensor

    def __init__(self, sizes: Sizes, compiler: Compiler = eager) -> None:
        super().__init__(compiler)
        joined = WIDTH * len(MODALITIES)
        self.teacher = nn.ModuleDict({modality: PublishedEncoder(WIDTH) for modality in MODALITIES})
        self.teacher.requires_grad_(False)
        self.student = nn.ModuleDict(
            {
                modality: PublishedEncoder(joined, hidden=joined, dropout=sizes.dropout)
                for modality in DistillConfig().modalities
            }
        )
        for modality in MODALITIES:
            self.add_queue(f"queue_{modality}", sizes.keys, WIDTH)
        self.add_queue("teacher_queue", sizes.keys, joined)
        self.contrast = self.compiler(published_losses.distillation)

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss before the step."""
        first, second = batch.views
        with torch.no_grad():
            _, q = self.embed(self.teacher.eval(), batch, first)
            t = normalize(torch.cat(q, dim=1), dim=1)
        _, h = self.embed(self.student, batch, second)
        queues = [getattr(self, f"queue_{modality}").clone().detach() for modality in MODALITIES]
        loss = self.contrast(torch.stack(h), t, self.teacher_queue.clone().detach(), torch.stack(q), queues)
        self.update(loss)
        guides = {f"queue_{modality}": guide for modality, guide in zip(MODALITIES, q, strict=True)}
        self.enqueue({**guides, "teacher_queue": t})
        return loss.detach()

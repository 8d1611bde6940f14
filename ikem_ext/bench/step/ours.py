"""Our steps: the methods that the training calls, without the Trainer's log."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from ikem.config import DistillConfig, EncoderConfig, PretrainConfig
from ikem.data.batches import Batch
from ikem.distill import Distillation
from ikem.pretrain import Pretraining
from ikem.training import ContrastiveModule
from ikem.training.memory import keep_freed_memory

from ..contrast import WIDTH
from .batch import NTU, Sizes
from .run import Step


class Ours(Step):
    """The training's own methods, in the order of the Trainer."""

    def __init__(self, module: ContrastiveModule) -> None:
        super().__init__()
        self.module = module
        # The log is left out: it costs little, and its accuracy is measured at every tenth step only.
        module.log_step = lambda losses, *_: torch.stack(list(losses.values())).sum()  # type: ignore[method-assign]

    def start(self) -> None:
        """As the Trainer starts."""
        if next(self.parameters()).device.type == "cpu":
            keep_freed_memory()
        self.optimizer = self.module.configure_optimizers()["optimizer"]

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss before the step; where graphs are captured, which is at the second one, first make that."""
        if self.module.captured is not None and self.module.captured.graphs is None:
            self.train_on(batch)
        return self.train_on(batch)

    def train_on(self, batch: Batch) -> Tensor:
        """Make a step and return the loss before it."""
        self.module.on_train_batch_start(batch, 0)
        outputs = cast("dict[str, Tensor]", self.module.training_step(batch, 0))
        self.update(outputs["loss"])
        self.module.on_train_batch_end(outputs, batch, 0)
        return outputs["loss"].detach()


def pretraining(stage: int) -> Callable[[Sizes], Pretraining]:
    """What makes the pretraining in one of its stages."""

    def make(sizes: Sizes) -> Pretraining:
        config = PretrainConfig(queue_length=sizes.keys, exchange_epoch=0 if stage == 2 else 150)
        return Pretraining(config, EncoderConfig(dropout=sizes.dropout), NTU, cuda_graphs=sizes.cuda_graphs)

    return make


def distillation(sizes: Sizes) -> Distillation:
    """The distillation of a random teacher."""
    encoder = EncoderConfig(dropout=sizes.dropout)
    teacher = Pretraining(PretrainConfig(queue_length=1), encoder, NTU).query
    config = DistillConfig(queue_length=sizes.keys)
    return Distillation(config, encoder, teacher, WIDTH, NTU, cuda_graphs=sizes.cuda_graphs)

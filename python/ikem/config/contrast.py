"""What contrastive trainings have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ikem.config.checks import require, require_one_of
from ikem.config.schedule import ScheduleConfig


@dataclass
class OptimizationConfig(ScheduleConfig):
    """Contrastive learning with queues, shared by pretraining and distillation.

    Attributes:
        optimizer: ``sgd``, with momentum; or ``adamw``, whose weight decay spares biases and norms, and which wants a
            learning rate of its own, such as 1e-3.
        learning_rate: peak learning rate.
        queue_length: embeddings kept as negatives, per modality.
        temperature: of the softmax over similarities.
        topk: how many of a queue's most similar entries count as positives in another modality.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.1
    queue_length: int = 32768
    temperature: float = 0.07
    topk: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of(f"{self._section}.optimizer", self.optimizer, ("sgd", "adamw"))
        self._require_at_least_1("queue_length", "topk")
        self._require_positive("learning_rate", "temperature")
        require(self.topk <= self.queue_length, f"{self._section}.topk: expected <= queue_length, got {self.topk}")

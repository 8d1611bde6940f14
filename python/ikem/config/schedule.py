"""The course of a training: what all of them have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ikem.config.checks import require_at_least, require_positive


@dataclass
class ScheduleConfig:
    """The course of stochastic gradient descent, shared by all trainings.

    Attributes:
        epochs: length of training. A run may be given more, finished or not, where that changes no epoch that has
            begun: the constant parts of ``step`` allow it, ``cosine`` does not. So may the schedule's later milestones.
        schedule: ``step`` multiplies the learning rate by ``decay`` at each milestone; ``cosine`` takes it to 0.
        milestones: epochs, for ``step``.
        decay: factor, for ``step``.
        warmup_epochs: the learning rate rises linearly over these first epochs.
        sgd_momentum: of the optimizer.
        weight_decay: L2 penalty of the optimizer.
    """

    epochs: int = 300
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[int, ...] = (250,)
    decay: float = 0.1
    warmup_epochs: int = 0
    sgd_momentum: float = 0.9
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        self._require_at_least_1("epochs")

    @property
    def _section(self) -> str:
        return type(self).__name__.removesuffix("Config").lower()

    def _require_at_least_1(self, *names: str) -> None:
        for name in names:
            require_at_least(f"{self._section}.{name}", getattr(self, name), 1)

    def _require_positive(self, *names: str) -> None:
        for name in names:
            require_positive(f"{self._section}.{name}", getattr(self, name))

    @property
    def exchanges(self) -> bool:
        """Whether the training has a stage 2."""
        return False

    def stage(self, epoch: int) -> int:
        """Return the part of the training, from 1, that an epoch belongs to."""
        return 1

"""How the linear probe learns, and how published codes have it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ikem.config.preset import Augmentation


@dataclass(frozen=True)
class ProbeConfig(Augmentation):
    """How the linear probe learns: SGD with momentum 0.9 on the features of frozen encoders.

    Attributes:
        epochs: length of training.
        learning_rate: peak learning rate.
        schedule: ``step`` multiplies the learning rate by 0.1 at each milestone; ``cosine`` takes it to 0.
        milestones: epochs, for ``step``.
        weight_decay: L2 penalty on the weights.
        batch_size: clips per step. With ``batch_norm`` a last batch of one clip is left out.
        batch_norm: features are normalized over each batch, with no weights of its own, before the classifier.
        least_window: in every epoch another part of each training clip, at least this share of it and 64 frames, is
            stretched to its full length; of test clips the middle 95 % are seen. 1 for all of every clip.
        rotate_degrees: in every epoch training clips are turned about each axis by up to this angle.
    """

    epochs: int
    learning_rate: float
    schedule: Literal["step", "cosine"]
    milestones: tuple[int, ...]
    weight_decay: float
    batch_size: int
    batch_norm: bool
    least_window: float
    rotate_degrees: float

    def learning_rate_at(self, epoch: float) -> float:
        """Return the learning rate at a point of time, counted in epochs.

        Example:
            >>> probe = PROBES["crosclr"]
            >>> probe.learning_rate_at(79.9), round(probe.learning_rate_at(80), 3)
            (3.0, 0.3)
        """
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        return self.learning_rate * 0.1 ** sum(epoch >= milestone for milestone in self.milestones)


#: The linear probes of published codes, by name (docs/evaluation.md says where they come from).
PROBES = {
    "crosclr": ProbeConfig(100, 3.0, "step", (80,), 0.0, 128, False, 1.0, 0.0),
    "cmd": ProbeConfig(80, 0.1, "step", (50, 70), 0.0, 64, False, 0.5, 0.0),
    "mamp": ProbeConfig(100, 0.1, "cosine", (), 0.0, 256, True, 0.5, 17.2),  # 0.3 rad
}

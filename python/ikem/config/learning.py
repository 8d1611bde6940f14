"""How whole encoders learn from labels, and how published codes have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ikem.config.checks import require, require_at_least, require_one_of, require_share
from ikem.config.preset import Augmentation
from ikem.config.schedule import ScheduleConfig


@dataclass
class LearningConfig(ScheduleConfig, Augmentation):
    """How encoders and heads learn from labels.

    Attributes:
        optimizer: ``sgd``, with momentum; or ``adamw``, whose weight decay spares biases and norms.
        nesterov: Nesterov's momentum, for ``sgd``.
        encoder_learning_rate: peak learning rate of the encoders.
        head_learning_rate: peak learning rate of the heads.
        layer_decay: of pretrained encoders block b of B learns at ``layer_decay ** (B + 1 - b)`` times their learning
            rate, and the norm of the coordinates as a block 0.
        label_smoothing: this share of a clip's label is spread over all classes.
        batch_size: clips per step, over all processes together; None for `data.batch_size`.
        pretraining_views: clips are seen by the random views of pretraining, the `views` section.
        least_window: without these, in every step another part of each clip, at least this share of it and 64 frames,
            is stretched to its full length, and of test clips the middle 95 % is seen; 1 for all of every clip.
        rotate_degrees: without these, clips are turned about each axis by up to this angle.
    """

    epochs: int = 100
    milestones: tuple[int, ...] = (80,)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    nesterov: bool = False
    encoder_learning_rate: float = 0.1
    head_learning_rate: float = 0.1
    layer_decay: float = 1.0
    label_smoothing: float = 0.0
    batch_size: int | None = None
    pretraining_views: bool = True
    least_window: float = 1.0
    rotate_degrees: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("encoder_learning_rate", "head_learning_rate")
        require_one_of("finetune.optimizer", self.optimizer, ("sgd", "adamw"))
        require(
            not self.nesterov or (self.optimizer == "sgd" and self.sgd_momentum > 0),
            "finetune.nesterov: expected finetune.optimizer sgd and finetune.sgd_momentum > 0 with it",
        )
        require_share("finetune.layer_decay", self.layer_decay)
        require(
            0 <= self.label_smoothing < 1, f"finetune.label_smoothing: expected in [0, 1), got {self.label_smoothing}"
        )
        if self.batch_size is not None:
            require_at_least("finetune.batch_size", self.batch_size, 2)
        require_share("finetune.least_window", self.least_window)
        require(self.rotate_degrees >= 0, f"finetune.rotate_degrees: expected >= 0, got {self.rotate_degrees}")
        require(
            not self.pretraining_views or (self.least_window == 1 and self.rotate_degrees == 0),
            "finetune.least_window, finetune.rotate_degrees: expected finetune.pretraining_views false with them; the "
            "views of pretraining have windows and turns of their own",
        )

    @property
    def _section(self) -> str:
        return "finetune"


#: How published codes finetune, by name (docs/evaluation.md says where they come from), and this project's own way.
LEARNING = {
    "default": LearningConfig(),
    "aimclr": LearningConfig(80, milestones=(10, 30, 50), nesterov=True, batch_size=128, pretraining_views=False),
    "hiclr": LearningConfig(
        70, milestones=(30, 55), warmup_epochs=5, nesterov=True, batch_size=64, pretraining_views=False
    ),
    "cmd": LearningConfig(
        80,
        milestones=(50, 70),
        weight_decay=0.0,
        encoder_learning_rate=0.01,
        head_learning_rate=0.01,
        batch_size=64,
        pretraining_views=False,
        least_window=0.5,
    ),
    "mamp": LearningConfig(
        100,
        schedule="cosine",
        warmup_epochs=5,
        weight_decay=0.05,
        optimizer="adamw",
        encoder_learning_rate=3e-4,
        head_learning_rate=3e-4,
        layer_decay=0.8,
        label_smoothing=0.1,
        batch_size=48,
        pretraining_views=False,
        least_window=0.5,
        rotate_degrees=17.2,  # 0.3 rad
    ),
}

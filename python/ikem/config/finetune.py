"""Finetuning: which encoders and labels, and what it has of its own beside a published way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ikem.config.checks import (
    require,
    require_at_least,
    require_one_of,
    require_share,
    require_shares,
)
from ikem.config.learning import LEARNING, LearningConfig
from ikem.config.modalities import THREE_STREAMS, Modality, checked_modalities
from ikem.config.preset import with_options


@dataclass
class FinetuneConfig:
    """Supervised training of whole encoders, each with a new linear head, from pretrained or from random weights.

    Attributes:
        preset: how they learn: ``default``, or as in a published code: ``aimclr`` (AimCLR, ActCLR), ``hiclr``, ``cmd``
            or ``mamp``. Each of the options from ``epochs`` to ``rotate_degrees`` replaces what the preset says.
        init: ``pretrained``; ``random``: the supervised baseline; or ``both``, one after the other.
        checkpoint: of the pretrained encoders, whatever `ikem evaluate --checkpoint` takes; by default the last one of
            this run's pretraining.
        modalities: whose encoders are trained, each with a loss of its own.
        semi: shares of the training labels, such as [0.01, 0.05, 0.1, 0.2]; one finetuning for each of them and each
            draw (semi-supervised). Of 1.0, all labels, there is one.
        draws: how often the labels of each share in ``semi`` are drawn.
        labels: share of the training labels of a single finetuning.
        draw: number of its draw, where ``labels`` is less than 1. The clips of a share are among those of a larger one.
        draw_by: shares are of each ``class`` (AimCLR's way), or of all clips, ``clip`` by clip (MAMP's way).
        every_class: a share holds at least one clip of each class.
        equal_steps: an epoch has as many steps as with all labels, however few there are; as in published codes it has
            what the labelled clips make, which of a few dozen are one or two: too few to learn from random weights.
        epochs: length of training.
        schedule: ``step`` multiplies the learning rate by ``decay`` at each milestone; ``cosine`` takes it to 0.
        milestones: epochs, for ``step``.
        decay: factor, for ``step``.
        warmup_epochs: the learning rate rises linearly over these first epochs.
        optimizer: ``sgd``, or ``adamw``, whose weight decay spares biases and norms.
        sgd_momentum: of ``sgd``.
        nesterov: Nesterov's momentum, for ``sgd``.
        weight_decay: L2 penalty of ``sgd``; of ``adamw`` its own.
        encoder_learning_rate: peak learning rate of the encoders.
        head_learning_rate: peak learning rate of the heads.
        layer_decay: of pretrained encoders each block learns at this fraction of the learning rate of the one after it.
        label_smoothing: this share of a clip's label is spread over all classes.
        batch_size: clips per step, over all processes together; by default `data.batch_size`.
        pretraining_views: clips are seen by the random views of pretraining, the `views` section.
        least_window: without these, another part of each clip, at least this share of it and 64 frames, is stretched to
            its full length in every step, and the middle 95 % of test clips are seen; 1 for all of every clip.
        rotate_degrees: without these, clips are turned about each axis by up to this angle.
    """

    preset: Literal["default", "aimclr", "hiclr", "cmd", "mamp"] = "default"
    init: Literal["pretrained", "random", "both"] = "pretrained"
    checkpoint: Path | None = None
    modalities: tuple[Modality, ...] = THREE_STREAMS
    semi: tuple[float, ...] = ()
    draws: int = 5
    labels: float = 1.0
    draw: int = 0
    draw_by: Literal["class", "clip"] = "class"
    every_class: bool = True
    equal_steps: bool = False
    epochs: int | None = None
    schedule: Literal["step", "cosine"] | None = None
    milestones: tuple[int, ...] | None = None
    decay: float | None = None
    warmup_epochs: int | None = None
    optimizer: Literal["sgd", "adamw"] | None = None
    sgd_momentum: float | None = None
    nesterov: bool | None = None
    weight_decay: float | None = None
    encoder_learning_rate: float | None = None
    head_learning_rate: float | None = None
    layer_decay: float | None = None
    label_smoothing: float | None = None
    batch_size: int | None = None
    pretraining_views: bool | None = None
    least_window: float | None = None
    rotate_degrees: float | None = None

    def __post_init__(self) -> None:
        require(self.preset in LEARNING, f"finetune.preset: expected one of {', '.join(LEARNING)}, got {self.preset}")
        require_one_of("finetune.init", self.init, ("pretrained", "random", "both"))
        require(
            self.init != "random" or self.checkpoint is None,
            "finetune.checkpoint: expected none with finetune.init random, which begins with random weights",
        )
        self.modalities = checked_modalities("finetune.modalities", self.modalities)
        require_shares("finetune.semi", self.semi)
        require_at_least("finetune.draws", self.draws, 1)
        require_share("finetune.labels", self.labels)
        require_at_least("finetune.draw", self.draw, 0)
        require(
            not self.semi or (self.labels == 1 and self.draw == 0),
            "finetune.semi: expected none with finetune.labels or finetune.draw, which are of a single finetuning",
        )
        require_one_of("finetune.draw_by", self.draw_by, ("class", "clip"))
        _ = self.learning  # checks what it is made of

    @property
    def learning(self) -> LearningConfig:
        """The preset, with what the other options replace of it.

        Example:
            >>> FinetuneConfig(preset="mamp", epochs=10).learning.epochs, FinetuneConfig(preset="mamp").learning.epochs
            (10, 100)
        """
        return with_options(LEARNING, self)

    @property
    def name(self) -> str:
        """What tells it from other finetunings of a run.

        Example:
            >>> FinetuneConfig(init="random").name, FinetuneConfig(labels=0.05, draw=3).name
            ('random', 'pretrained-0.05-3')
        """
        return self.init if self.labels == 1 else f"{self.init}-{self.labels:g}-{self.draw}"

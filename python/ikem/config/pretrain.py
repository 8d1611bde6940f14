"""Pretraining."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ikem.config.checks import require
from ikem.config.contrast import OptimizationConfig
from ikem.config.modalities import Modality, checked_modalities
from ikem_ext import MODALITIES


@dataclass
class PretrainConfig(OptimizationConfig):
    """Momentum contrast per modality (stage 1), then exchange of knowledge between modalities (stage 2).

    With ``explicit`` and ``implicit`` off, this is MoCo for each modality; with ``implicit`` off, CrosSCLR's exchange.

    Attributes:
        modalities: the streams that are trained.
        exchange_epoch: the first epoch of stage 2.
        explicit: in stage 2, learn from the other modalities' nearest neighbors (else the loss of stage 1 goes on).
        implicit: in stage 2, learn from the six modalities' joint embedding, through the exchange head.
        context: in the explicit exchange, contrast with products of two modalities' similarities as well.
        key_momentum: of the key encoders.
        exchange_momentum_modalities: in stage 2 only these key encoders, of those that are trained, go on following.
        embedding_width: C.
        mask_own_clip: entries of the queue that come from a query's own clip, seen in an earlier epoch, are no
            negatives of it. In the explicit exchange the entries of all clips of the step's batch are left out for all
            its queries, as neighbors too.
        same_subject_weight: what the exponentials of negatives of the query's own subject are multiplied by.
        other_subject_weight: and those of other subjects; 0 restricts the negatives to the own one. Neither is defined
            for the explicit exchange.
    """

    modalities: tuple[Modality, ...] = MODALITIES  # type: ignore[assignment]
    exchange_epoch: int = 150
    explicit: bool = True
    implicit: bool = True
    context: bool = True
    key_momentum: float = 0.999
    exchange_momentum_modalities: tuple[Modality, ...] = ("motion", "acceleration", "angular_velocity")
    embedding_width: int = 128
    mask_own_clip: bool = False
    same_subject_weight: float = 1.0
    other_subject_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("same_subject_weight", "other_subject_weight"):
            weight = getattr(self, name)
            require(0 <= weight < math.inf, f"pretrain.{name}: expected a finite number >= 0, got {weight}")
            require(
                weight == 1 or not (self.exchanges and self.explicit),
                f"pretrain.{name}: expected 1 with a stage 2 that has pretrain.explicit, whose products of "
                f"similarities have no weights, got {weight}",
            )
        require(
            self.same_subject_weight + self.other_subject_weight > 0,
            "pretrain.same_subject_weight: expected > 0 with pretrain.other_subject_weight 0, got 0",
        )
        self.modalities = checked_modalities("pretrain.modalities", self.modalities)
        require(0 <= self.key_momentum <= 1, f"pretrain.key_momentum: expected in [0, 1], got {self.key_momentum}")
        require(
            len(self.modalities) > 1 or not self.exchanges,
            "pretrain.modalities: an exchange needs at least two; with one, set pretrain.explicit and "
            "pretrain.implicit to false",
        )

    @property
    def weighs_subjects(self) -> bool:
        """Whether it matters to negatives whose they are."""
        return (self.same_subject_weight, self.other_subject_weight) != (1, 1)

    @property
    def exchanges(self) -> bool:
        """Whether the run has a stage 2."""
        return (self.explicit or self.implicit) and self.exchange_epoch < self.epochs

    @property
    def stage1_epochs(self) -> int:
        """How many epochs each modality learns alone."""
        return self.exchange_epoch if self.exchanges else self.epochs

    def stage(self, epoch: int) -> int:
        """Return 1 while each modality learns alone, 2 once they exchange."""
        return 2 if self.exchanges and epoch >= self.exchange_epoch else 1

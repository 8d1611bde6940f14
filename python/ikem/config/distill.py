"""Distillation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ikem.config.contrast import OptimizationConfig
from ikem.config.modalities import THREE_STREAMS, Modality, checked_modalities


@dataclass
class DistillConfig(OptimizationConfig):
    """Relational distillation of the frozen, pretrained streams into a student of fewer modalities.

    Attributes:
        modalities: the student's streams.
        teacher: checkpoint of pretraining; by default the last one of this run.
    """

    epochs: int = 150
    milestones: tuple[int, ...] = (125,)
    modalities: tuple[Modality, ...] = THREE_STREAMS
    teacher: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.modalities = checked_modalities("distill.modalities", self.modalities)

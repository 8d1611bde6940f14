"""Which modalities there are, and which are chosen of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ikem.config.checks import require
from ikem_ext import MODALITIES

Modality = Literal["joint", "motion", "bone", "acceleration", "rotation_axis", "angular_velocity"]

THREE_STREAMS: tuple[Modality, ...] = ("joint", "motion", "bone")


def checked_modalities(name: str, modalities: Sequence[Modality]) -> tuple[Modality, ...]:
    """Return some modalities, each of them once."""
    require(len(modalities) > 0, f"{name}: expected at least one of {', '.join(MODALITIES)}")
    require(len(set(modalities)) == len(modalities), f"{name}: expected each once, got {', '.join(modalities)}")
    unknown = [modality for modality in modalities if modality not in MODALITIES]
    require(not unknown, f"{name}: expected some of {', '.join(MODALITIES)}, got {', '.join(unknown)}")
    return tuple(modalities)

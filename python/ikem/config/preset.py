"""What the two sections share that learn from labels: a preset, and options that replace parts of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

Preset = TypeVar("Preset")


class Augmentation:
    """How a preset has its clips seen."""

    least_window: float
    rotate_degrees: float

    @property
    def augments(self) -> bool:
        """Whether clips are cut and turned anew in every epoch, and test clips are seen by their middle."""
        return self.least_window < 1 or self.rotate_degrees > 0


def with_options(presets: Mapping[str, Preset], section: Any) -> Preset:
    """Return the preset that a section names, with what the section's options say otherwise; None leaves it.

    Example:
        >>> from ikem.config import PROBES, EvaluateConfig
        >>> with_options(PROBES, EvaluateConfig(preset="cmd", epochs=10)).epochs
        10
    """
    preset = presets[section.preset]
    names = [item.name for item in dataclasses.fields(preset)]  # type: ignore[arg-type]
    given = {name: value for name in names if (value := getattr(section, name)) is not None}
    return dataclasses.replace(preset, **given)  # type: ignore[type-var]

"""What `accelerate` did, and why it left what it left."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn


@dataclass(frozen=True)
class Replaced:
    """A unit that was replaced.

    Args:
        name: the unit's, as in ``model.named_modules()``.
        original: the module that stood there.
        unit: the module that stands there now.
    """

    name: str
    original: nn.Module
    unit: nn.Module

    def __str__(self) -> str:
        project = type(self.unit).__module__.rpartition(".")[2]
        return f"{self.name}: {project}.{type(self.unit).__name__}"


@dataclass(frozen=True)
class Left:
    """A module that was left as it is.

    Args:
        name: the module's, as in ``model.named_modules()``.
        reason: why it was left.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}" if self.name else f"the model: {self.reason}"


@dataclass
class Acceleration:
    """What :func:`accelerate` did; ``print`` shows it all.

    Args:
        replaced: the units that were replaced.
        left: those that have the name of a unit and were left as they are.
        unknown: modules that look like graph convolutions by what they hold, but are none that is known.
    """

    replaced: list[Replaced] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    unknown: list[Left] = field(default_factory=list)
    _places: list[tuple[nn.Module, str, Replaced]] = field(default_factory=list, repr=False)

    def undo(self) -> None:
        """Puts the original modules back, with the state and the mode that their replacements are in."""
        for parent, name, replaced in self._places:
            original, unit = replaced.original, replaced.unit
            original.training = unit.training
            original._parameters.update({key: unit._parameters[key] for key in original._parameters})
            original._buffers.update({key: unit._buffers[key] for key in original._buffers})
            parent._modules[name] = original
        self._places.clear()

    def __str__(self) -> str:
        lines = [f"replaced {len(self.replaced)}, left {len(self.left)}"]
        if self.unknown:
            lines[0] += f", unknown {len(self.unknown)}"
        for title, units in (("replaced", self.replaced), ("left", self.left), ("unknown", self.unknown)):
            lines += [f"  {title:8} {unit}" for unit in units]
        if len(lines) == 1:
            lines.append("  no module looks like a graph convolution of another project")
        return "\n".join(lines)

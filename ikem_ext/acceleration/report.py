"""What `accelerate` did, and why it left what it left."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from .inference import Folding


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
        project = type(self.unit).__module__.split(".")[2]
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


@dataclass(frozen=True)
class Place:
    """Where a module stood.

    Args:
        parent: the module that held it.
        name: the name that it had there.
        before: the module.
    """

    parent: nn.Module
    name: str
    before: nn.Module

    def put_back(self) -> None:
        """Puts the module there again."""
        self.parent._modules[self.name] = self.before


@dataclass
class Acceleration:
    """What :func:`accelerate` did; ``print`` shows it all.

    Args:
        replaced: the units and blocks that were replaced.
        left: those that have the name of one and were left as they are; for inference also batch norms that could not
            become a part of the convolution before them.
        unknown: modules that look like graph convolutions by what they hold, but are none that is known.
        folded: for inference, the names of the batch norms that became a part of a convolution.
    """

    replaced: list[Replaced] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    unknown: list[Left] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)
    _places: list[Place] = field(default_factory=list, repr=False)
    _units: list[tuple[nn.Module, nn.Module]] = field(default_factory=list, repr=False)
    _folding: Folding | None = field(default=None, repr=False)

    def undo(self) -> None:
        """Puts the original modules back, with the state and the mode that their replacements are in.

        After ``inference=True`` they have the state from before, to the bit, on the device and in the dtype of now, and
        the model may be trained again.
        """
        if self._folding is not None:
            self._folding.undo()
        for place in self._places:
            place.put_back()
        for original, unit in self._units:
            original.training = unit.training
            original._parameters.update({key: unit._parameters[key] for key in original._parameters})
            original._buffers.update({key: unit._buffers[key] for key in original._buffers})
        self._folding = None
        self._places.clear()
        self._units.clear()

    def take(self, folding: Folding) -> None:
        """Takes down what was folded, and that what was replaced is a copy, where norms of it were."""
        self._folding = folding
        self.folded += folding.norms
        self.left += folding.left
        self.replaced = [replace(each, unit=folding.now.get(each.unit, each.unit)) for each in self.replaced]

    def __str__(self) -> str:
        lines = [f"replaced {len(self.replaced)}, left {len(self.left)}"]
        if self.unknown:
            lines[0] += f", unknown {len(self.unknown)}"
        if self._folding is not None:
            lines[0] += f", folded {len(self.folded)}"
        lists = (("replaced", self.replaced), ("left", self.left), ("unknown", self.unknown), ("folded", self.folded))
        for title, units in lists:
            lines += [f"  {title:8} {unit}" for unit in units]
        if len(lines) == 1:
            lines.append("  no module looks like a graph convolution of another project")
        return "\n".join(lines)

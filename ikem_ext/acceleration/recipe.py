"""How one of our units takes over the parts of an original."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Arguments = tuple[Tensor, ...]

# The containers of its parts, which a module keeps for itself. All else is shared, hooks among it, so that the handle
# of a hook still removes it.
OWN = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


@dataclass(frozen=True)
class Recipe:
    """How units of one class are recognized and replaced.

    Args:
        unit: the class of ours, named as the original, whose attributes have the names of the original's too.
        needs: attributes that tell the original from others of its name; those of modules inside with a dot between.
        sizes: channels and joints of the features that a unit takes.
        constants: tensors of the original that are plain attributes, and become buffers of the unit.
        derived: attributes that the unit has beyond the original's.
        calls: what a unit is called with beyond features, in every way in which it can be called.
        inside: modules that the unit calls, and that may become units of ours in their turn.
    """

    unit: type[nn.Module]
    needs: tuple[str, ...]
    sizes: Callable[[Any], tuple[int, int]]
    constants: tuple[str, ...] = ()
    derived: Callable[[Any], dict[str, Any]] = lambda original: {}
    calls: Callable[[Any], tuple[Arguments, ...]] = lambda unit: ((),)
    inside: tuple[str, ...] = ()

    def fits(self, module: nn.Module) -> bool:
        """Whether the module has what the original has."""
        return all(_has(module, path) for path in self.needs)

    def replace(self, original: nn.Module) -> nn.Module:
        """A unit with the very parameters, buffers, modules inside, hooks and mode of the original."""
        unit = self.unit.__new__(self.unit)  # not initialized: all that it has is the original's
        vars(unit).update({name: copy.copy(value) if name in OWN else value for name, value in vars(original).items()})
        vars(unit).update(self.derived(original))
        like = next(original.parameters())
        for name in self.constants:
            if isinstance(constant := vars(unit).pop(name, None), Tensor):
                unit.register_buffer(name, constant.detach().to(like), persistent=False)
        return unit

    def arguments(self, unit: nn.Module, clips: int, frames: int) -> list[Arguments]:
        """Random arguments to call the unit with, in every way."""
        channels, joints = self.sizes(unit)
        features = random_like(next(unit.parameters()), clips, channels, frames, joints)
        return [(features, *others) for others in self.calls(unit)]


@dataclass(frozen=True)
class Plan:
    """What becomes of a module: a unit by this recipe, in which modules become units by plans of their own."""

    recipe: Recipe
    inside: dict[str, Plan]

    def build(self, original: nn.Module) -> nn.Module:
        """The unit; the original stays as it is."""
        unit = self.recipe.replace(original)
        for name, plan in self.inside.items():
            unit._modules[name] = plan.build(original.get_submodule(name))
        return unit


def _has(module: Any, path: str) -> bool:
    *outer, last = path.split(".")
    for name in outer:
        module = getattr(module, name, None)
    return hasattr(module, last)


def random_like(like: Tensor, *shape: int) -> Tensor:
    """Normal numbers, always the same, that leave the user's random state alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like)

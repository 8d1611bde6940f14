"""Which units are known, and how one of ours takes over the parts of the original."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import agcn, ctrgcn, msg3d, pyskl, stgcn

Arguments = tuple[Tensor, ...]

# The containers of its parts, which the original keeps for itself. All else is shared, hooks among it, so that the
# handle of a hook still removes it.
_OWN = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


@dataclass(frozen=True)
class Recipe:
    """How units of one class are recognized and replaced.

    Args:
        unit: the class of ours, named as the original, whose attributes have the names of the original's too.
        needs: attributes that tell the original from others of its name.
        sizes: channels and joints of the features that a unit takes.
        constants: tensors of the original that are plain attributes, and become buffers of the unit.
        derived: attributes that the unit has beyond the original's.
        calls: what a unit is called with beyond features, in every way in which it can be called.
    """

    unit: type[nn.Module]
    needs: tuple[str, ...]
    sizes: Callable[[Any], tuple[int, int]]
    constants: tuple[str, ...] = ()
    derived: Callable[[Any], dict[str, Any]] = lambda original: {}
    calls: Callable[[Any], tuple[Arguments, ...]] = lambda unit: ((),)

    def fits(self, module: nn.Module) -> bool:
        """Whether the module has what the original has."""
        return all(hasattr(module, name) for name in self.needs)

    def replace(self, original: nn.Module) -> nn.Module:
        """A unit with the very parameters, buffers, modules inside, hooks and mode of the original."""
        unit = self.unit.__new__(self.unit)  # not initialized: all that it has is the original's
        vars(unit).update({name: copy.copy(value) if name in _OWN else value for name, value in vars(original).items()})
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


def random_like(like: Tensor, *shape: int) -> Tensor:
    """Normal numbers, always the same, that leave the user's random state alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like)


def recipes_for(module: nn.Module) -> list[Recipe]:
    """Those for classes of the module's name; none for what is ours already."""
    return [] if is_ours(module) else [recipe for recipe in RECIPES if recipe.unit.__name__ == type(module).__name__]


def is_ours(module: nn.Module) -> bool:
    """Whether the module is a unit of :mod:`ikem_ext.nn`."""
    return isinstance(module, tuple(recipe.unit for recipe in RECIPES))


def _channels_and_joints(unit: Any) -> tuple[int, int]:
    return unit.in_c, (unit.A if hasattr(unit, "A") else unit.PA).shape[-1]


def _refinement(unit: type[nn.Module], *needs: str) -> Recipe:
    return Recipe(
        unit,
        ("conv1", "conv2", "conv3", "conv4", "in_channels", *needs),
        sizes=lambda unit: (unit.in_channels, 5),
        calls=lambda unit: ((), (random_like(unit.conv1.weight, 5, 5), random_like(unit.conv1.weight, 1))),
    )


def _input_of_scales(original: Any) -> dict[str, Any]:
    conv = next(each for each in original.mlp.modules() if isinstance(each, nn.Conv2d))
    return {"in_channels": conv.in_channels // original.num_scales}


RECIPES = (
    Recipe(
        stgcn.ConvTemporalGraphical,
        ("conv", "kernel_size"),
        sizes=lambda unit: (unit.conv.in_channels, 5),
        calls=lambda unit: ((random_like(unit.conv.weight, unit.kernel_size, 5, 5),),),
    ),
    Recipe(
        agcn.unit_gcn,
        ("conv_a", "conv_b", "conv_d", "PA", "A", "num_subset", "down", "bn"),
        sizes=lambda unit: (unit.conv_d[0].in_channels, unit.PA.shape[-1]),
        constants=("A",),
    ),
    Recipe(
        ctrgcn.unit_gcn,
        ("convs", "alpha", "adaptive", "in_c", "down", "bn"),
        sizes=_channels_and_joints,
        constants=("A",),
    ),
    _refinement(ctrgcn.CTRGC, "mid_channels"),
    Recipe(
        msg3d.MultiScale_GraphConv,
        ("A_powers", "num_scales", "use_mask", "mlp"),
        sizes=lambda unit: (unit.in_channels, unit.A_powers.shape[-1]),
        constants=("A_powers",),
        derived=_input_of_scales,
    ),
    Recipe(
        pyskl.unit_gcn,
        ("conv", "A", "adaptive", "conv_pos", "with_res", "num_subsets", "in_channels", "out_channels", "bn", "act"),
        sizes=lambda unit: (unit.in_channels, unit.A.shape[-1]),
        calls=lambda unit: ((), (random_like(unit.A, *unit.A.shape),)),
    ),
    Recipe(
        pyskl.unit_aagcn,
        ("conv_d", "A", "adaptive", "attention", "in_c", "down", "bn"),
        sizes=_channels_and_joints,
    ),
    Recipe(pyskl.unit_ctrgcn, ("convs", "A", "alpha", "in_c", "down", "bn"), sizes=_channels_and_joints),
    _refinement(pyskl.CTRGC),
    Recipe(
        pyskl.MSGCN,
        ("A", "PA", "num_scales", "mlp"),
        sizes=lambda unit: (unit.in_channels, unit.A.shape[-1]),
        derived=_input_of_scales,
    ),
)

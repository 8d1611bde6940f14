"""Which units are known."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..nn import TemporalConv, agcn, ctrgcn, msg3d, pyskl, stgcn
from .recipe import Recipe, random_like


def recipes_for(module: nn.Module) -> list[Recipe]:
    """Those for classes of the module's name; none for what is ours already."""
    return [] if is_ours(module) else [recipe for recipe in RECIPES if recipe.unit.__name__ == type(module).__name__]


def is_ours(module: nn.Module) -> bool:
    """Whether the module is a unit or a block of :mod:`ikem_ext.nn`, or has the name of one there."""
    return isinstance(module, (TemporalConv, *(recipe.unit for recipe in RECIPES)))


def is_graph_convolution(module: nn.Module) -> bool:
    """Whether the module is a graph convolution that is known, or named like one."""
    units = tuple(recipe.unit for recipe in GRAPH_CONVOLUTIONS)
    return isinstance(module, units) or type(module).__name__ in {unit.__name__ for unit in units}


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
    return {"in_channels": _first_convolution(original.mlp).in_channels // original.num_scales}


def _first_convolution(module: nn.Module) -> nn.Conv2d:
    return next(each for each in module.modules() if isinstance(each, nn.Conv2d))


GRAPH_CONVOLUTIONS = (
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


def _temporal(unit: type[nn.Module], *needs: str) -> Recipe:
    return Recipe(unit, ("conv", "bn", *needs), sizes=lambda unit: (unit.conv.in_channels, 5))


def _multi_scale(unit: type[nn.Module], *needs: str) -> Recipe:
    return Recipe(unit, ("branches", *needs), sizes=lambda unit: (_first_convolution(unit.branches).in_channels, 5))


# Of two recipes for classes of one name the first is tried first: it asks for more.
TEMPORAL_UNITS = (
    _temporal(pyskl.unit_tcn, "drop", "norm_cfg"),
    _temporal(agcn.unit_tcn),
    _temporal(msg3d.TemporalConv),
    _multi_scale(msg3d.MultiScale_TemporalConv, "residual", "act"),
    _multi_scale(ctrgcn.MultiScale_TemporalConv, "residual"),
    _multi_scale(pyskl.mstcn, "transform", "bn", "drop", "in_channels"),
    _multi_scale(pyskl.MSTCN, "residual", "act", "drop"),
)


def _block(unit: type[nn.Module], gcn: str, tcn: str, graph: type[nn.Module], *needs: str) -> Recipe:
    """A block's, of units by those names, which is called as its graph convolution is."""
    recipe = next(each for each in GRAPH_CONVOLUTIONS if each.unit is graph)
    return Recipe(
        unit,
        (gcn, tcn, "residual", "relu", *needs),
        sizes=lambda block: recipe.sizes(getattr(block, gcn)),
        calls=lambda block: recipe.calls(getattr(block, gcn)),
        inside=(gcn, tcn, "residual"),
    )


BLOCKS = (
    _block(stgcn.st_gcn, "gcn", "tcn", stgcn.ConvTemporalGraphical),
    _block(agcn.TCN_GCN_unit, "gcn1", "tcn1", agcn.unit_gcn, "tcn1.conv"),
    _block(ctrgcn.TCN_GCN_unit, "gcn1", "tcn1", ctrgcn.unit_gcn, "tcn1.branches"),
    _block(pyskl.STGCNBlock, "gcn", "tcn", pyskl.unit_gcn),
    _block(pyskl.AAGCNBlock, "gcn", "tcn", pyskl.unit_aagcn),
    _block(pyskl.CTRGCNBlock, "gcn1", "tcn1", pyskl.unit_ctrgcn),
)

RECIPES = (*GRAPH_CONVOLUTIONS, *TEMPORAL_UNITS, *BLOCKS)

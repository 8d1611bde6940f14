"""The units of other projects: the published formulation against ours, with the same parameters.

The functions named ``published_...`` compute what a unit of `ikem_ext.nn` computes in the way of its project's code:
subset by subset, 1x1 convolutions apart from sums over joints; layer by layer, branch by branch. They take the unit for
its parameters, so that the tests, too, have them to compare with.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from ikem_ext import LAYOUTS
from ikem_ext.nn import agcn, ctrgcn, msg3d, pyskl, stgcn
from ikem_ext.nn._temporal_units import NormalizedConv

from .measure import OURS, Case, Function, forward, forward_and_backward, with_compiled


def published_conv_temporal_graphical(unit: Any, x: Tensor, adjacency: Tensor) -> Tensor:
    """ST-GCN."""
    transformed = unit.conv(x).unflatten(1, (unit.kernel_size, -1))
    return torch.einsum("nkctv,kvw->nctw", transformed, adjacency).contiguous()


def published_agcn(unit: Any, x: Tensor) -> Tensor:
    """2s-AGCN."""
    adjacency = unit.A + unit.PA

    def subset(k: int) -> Tensor:
        attention = _scores(x, unit.conv_a[k], unit.conv_b[k]).softmax(-2)
        return unit.conv_d[k](_aggregated(x, attention + adjacency[k]))

    y = unit.bn(reduce(torch.add, map(subset, range(unit.num_subset))))
    y += unit.down(x)
    return relu(y)


def published_aagcn(unit: Any, x: Tensor) -> Tensor:
    """AAGCN, as PYSKL has it."""

    def subset(k: int) -> Tensor:
        adjacency = unit.A[k]
        if unit.adaptive:
            adjacency = adjacency + torch.tanh(_scores(x, unit.conv_a[k], unit.conv_b[k])) * unit.alpha
        return unit.conv_d[k](_aggregated(x, adjacency))

    y = relu(unit.bn(reduce(torch.add, map(subset, range(unit.num_subset)))) + unit.down(x), inplace=True)
    if unit.attention:
        y = y * torch.sigmoid(unit.conv_sa(y.mean(-2))).unsqueeze(-2) + y
        y = y * torch.sigmoid(unit.conv_ta(y.mean(-1))).unsqueeze(-1) + y
        y = y * torch.sigmoid(unit.fc2c(relu(unit.fc1c(y.mean(-1).mean(-1)))))[..., None, None] + y
    return y


def published_ctrgc(
    unit: Any, x: Tensor, adjacency: Tensor | None = None, alpha: Tensor | float = 1, equation: str = "ncuv,nctv->nctu"
) -> Tensor:
    """CTR-GCN."""
    m1, m2, transformed = unit.conv1(x).mean(-2), unit.conv2(x).mean(-2), unit.conv3(x)
    refined = unit.conv4(torch.tanh(m1.unsqueeze(-1) - m2.unsqueeze(-2))) * alpha
    if adjacency is not None:
        refined = refined + adjacency
    return torch.einsum(equation, refined, transformed)


def published_pyskl_ctrgc(unit: Any, x: Tensor, adjacency: Tensor | None = None, alpha: Tensor | float = 1) -> Tensor:
    """CTR-GCN, as PYSKL has it: summed over the other axis."""
    return published_ctrgc(unit, x, adjacency, alpha, "ncuv,nctu->nctv")


def published_ctrgcn(unit: Any, x: Tensor) -> Tensor:
    """CTR-GCN."""
    return _sum_of_refinements(unit, x, unit.PA if unit.adaptive else unit.A, published_ctrgc)


def published_pyskl_ctrgcn(unit: Any, x: Tensor) -> Tensor:
    """CTR-GCN, as PYSKL has it."""
    return _sum_of_refinements(unit, x, unit.A, published_pyskl_ctrgc)


def _sum_of_refinements(unit: Any, x: Tensor, adjacency: Tensor, subset: Function) -> Tensor:
    parts = (subset(each, x, part, unit.alpha) for each, part in zip(unit.convs, adjacency, strict=True))
    y = unit.bn(reduce(torch.add, parts))
    if unit.down is not None:
        y += unit.down(x)
    return relu(y, inplace=True)


def published_multi_scale(unit: Any, x: Tensor) -> Tensor:
    """MS-G3D."""
    adjacency = unit.A_powers + unit.A_res if unit.use_mask else unit.A_powers
    aggregated = torch.einsum("vu,nctu->nctv", adjacency, x).unflatten(-1, (unit.num_scales, -1))
    return unit.mlp(aggregated.permute(0, 3, 1, 2, 4).flatten(1, 2))


def published_pyskl_multi_scale(unit: Any, x: Tensor) -> Tensor:
    """MS-G3D, as PYSKL has it."""
    return unit.mlp(torch.einsum("kvu,nctv->nkctu", unit.A + unit.PA, x).flatten(1, 2))


def published_pyskl_gcn(unit: Any, x: Tensor) -> Tensor:
    """PYSKL's ST-GCN."""
    adjacency = unit.A
    if unit.adaptive == "offset":
        adjacency = adjacency + unit.PA
    elif unit.adaptive == "importance":
        adjacency = adjacency * unit.PA
    if unit.conv_pos == "pre":
        transformed = unit.conv(x).unflatten(1, (unit.num_subsets, -1))
        y = torch.einsum("nkctv,kvw->nctw", transformed, adjacency).contiguous()
    else:
        y = unit.conv(torch.einsum("nctv,kvw->nkctw", x, adjacency).flatten(1, 2))
    return unit.act(unit.bn(y) + (unit.down(x) if unit.with_res else 0))


def published_tcn(unit: Any, x: Tensor) -> Tensor:
    """The temporal unit of 2s-AGCN, CTR-GCN, MS-G3D and PYSKL."""
    return reduce(_layer, (unit._modules[name] for name in unit.layers), x)


def published_multi_scale_tcn(unit: Any, x: Tensor) -> Tensor:
    """MS-G3D's multi-scale temporal unit, CTR-GCN's, and PYSKL's of both."""
    y = torch.cat([_layer(x, branch) for branch in unit.branches], 1)
    if unit.residual is not None:
        y += _layer(x, unit.residual)
    return reduce(_layer, (unit._modules[name] for name in ("act", "drop") if name in unit._modules), y)


def published_mstcn(unit: Any, x: Tensor) -> Tensor:
    """PYSKL's."""
    y = torch.cat([_layer(x, branch) for branch in unit.branches], 1)
    return reduce(_layer, (unit.transform, unit.bn, unit.drop), y)


def published_end_of_block(block: Any, y: Tensor, x: Tensor) -> Tensor:
    """What a block of any project makes of its input and of what its temporal unit gave."""
    return relu(y if block.residual is None else y + _layer(x, block.residual))


def _layer(x: Tensor, layer: nn.Module) -> Tensor:
    """What a layer gives when its convolutions are PyTorch's own."""
    if isinstance(layer, nn.Conv2d):
        return nn.Conv2d.forward(layer, x)
    if isinstance(layer, nn.Sequential):
        return reduce(_layer, layer, x)
    return published_tcn(layer, x) if isinstance(layer, NormalizedConv) else layer(x)


def _scores(x: Tensor, conv_a: nn.Module, conv_b: nn.Module) -> Tensor:
    a = conv_a(x).permute(0, 3, 1, 2).flatten(2)
    return a @ conv_b(x).flatten(1, 2) / a.shape[-1]


def _aggregated(x: Tensor, adjacency: Tensor) -> Tensor:
    return (x.flatten(1, 2) @ adjacency).view_as(x)


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    """Each unit: forward in evaluation mode, and forward and backward in training mode."""
    bodies, channels, frames = (4, 16, 10) if quick else (64 if device.type == "cpu" else 256, 64, 50)
    torch.manual_seed(0)
    adjacency = LAYOUTS["ntu25"].adjacency().to(device, dtype).requires_grad_()
    joints = adjacency.shape[-1]
    x = torch.randn(bodies, channels, frames, joints).to(device, dtype).requires_grad_()
    cotangent = torch.randn_like(x)
    for name, unit, weights, published in _units(channels, adjacency):
        unit.to(device, dtype)
        # ST-GCN's unit takes its adjacency as an argument, with a gradient under learned edge importance.
        arguments = [x, adjacency] if isinstance(unit, stgcn.ConvTemporalGraphical) else [x]
        variants: dict[str, Function] = {OURS: unit, "published": partial(published, unit)}
        functions = with_compiled(
            {variant: partial(_call, function, len(arguments)) for variant, function in variants.items()},
            () if quick else ("published",),
        )
        for passes, run, leaves, arrays, times in (
            ("forward", forward, arguments, 2, 1),
            (
                "forward and backward",
                partial(forward_and_backward, cotangent=cotangent),
                [*arguments, *unit.parameters()],
                5,
                3,
            ),
        ):
            unit.train(times > 1)
            yield Case(
                "layers",
                f"{name}, {channels} channels, {frames} frames, {bodies} bodies",
                {variant: partial(run, function, leaves) for variant, function in functions.items()},
                bytes_moved=arrays * x.nbytes,
                operations=times * 2 * bodies * frames * joints * weights,
                parameters={
                    "bodies": bodies, "joints": joints, "channels": channels, "frames": frames, "dtype": str(dtype),
                },
                passes=passes,
            )  # fmt: skip


def _units(channels: int, adjacency: Tensor) -> Iterator[tuple[str, nn.Module, int, Function]]:
    """Name, unit, how many weights meet each joint of each frame, and the published formulation."""
    for name, unit, parts, published in _graph_units(channels, adjacency):
        yield name, unit, parts * channels**2, published
    for name, unit, published in _temporal_units(channels):
        yield name, unit, sum(each.weight.numel() for each in unit.modules() if isinstance(each, nn.Conv2d)), published


def _graph_units(channels: int, adjacency: Tensor) -> Iterator[tuple[str, nn.Module, int, Function]]:
    """Name, unit, the parts of its graph and its published formulation."""
    widths, parts = (channels, channels), len(adjacency)
    edges = (adjacency[1:].sum(0) > 0).cpu().numpy()
    yield (
        "stgcn ConvTemporalGraphical",
        stgcn.ConvTemporalGraphical(*widths, parts),
        parts,
        published_conv_temporal_graphical,
    )
    yield "agcn unit_gcn", agcn.unit_gcn(*widths, adjacency), parts, published_agcn
    yield "ctrgcn CTRGC", ctrgcn.CTRGC(*widths), 1, published_ctrgc
    yield "ctrgcn unit_gcn", ctrgcn.unit_gcn(*widths, adjacency), parts, published_ctrgcn
    yield "msg3d MultiScale_GraphConv", msg3d.MultiScale_GraphConv(13, *widths, edges), 13, published_multi_scale
    for conv_pos in ("pre", "post"):
        unit = pyskl.unit_gcn(*widths, adjacency, conv_pos=conv_pos)
        yield f"pyskl unit_gcn ({conv_pos})", unit, parts, published_pyskl_gcn
    yield "pyskl unit_aagcn", pyskl.unit_aagcn(*widths, adjacency), parts, published_aagcn
    yield "pyskl unit_ctrgcn", pyskl.unit_ctrgcn(*widths, adjacency), parts, published_pyskl_ctrgcn
    yield "pyskl MSGCN", pyskl.MSGCN(13, *widths, edges), 13, published_pyskl_multi_scale


def _temporal_units(channels: int) -> Iterator[tuple[str, nn.Module, Function]]:
    widths = (channels, channels)
    yield "agcn unit_tcn", agcn.unit_tcn(*widths), published_tcn
    unit = ctrgcn.MultiScale_TemporalConv(*widths, 5, dilations=(1, 2), residual=False)
    yield "ctrgcn MultiScale_TemporalConv", unit, published_multi_scale_tcn
    yield "pyskl mstcn", pyskl.mstcn(*widths), published_mstcn


def _call(function: Function, arguments: int, *leaves: Tensor) -> Tensor:
    """What the function gives for the first leaves; the others are the unit's parameters, which it has itself."""
    y = function(*leaves[:arguments])
    return y[0] if isinstance(y, tuple) else y


PARTS = (cases,)

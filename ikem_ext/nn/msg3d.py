"""MS-G3D's multi-scale units under their names, computing through :func:`ikem_ext.graph_conv` and others."""
# ruff: noqa: N801, N803

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..graph_conv import graph_conv
from ._temporal_units import MultiScaleConv, NormalizedConv, over_time_shortcut, plus
from ._units import biased, check_features
from .folding import fold_slots

__all__ = ["MLP", "MultiScale_GraphConv", "MultiScale_TemporalConv", "TemporalConv"]


class MultiScale_GraphConv(nn.Module):
    r"""Graph convolution over neighborhoods of several sizes, one part of the adjacency for each.

    .. math:: y = \mathrm{act}\Big(\mathrm{bn}\big(b + \sum_s W_s\, x\, (\hat A_s + R_s)^\top\big)\Big)

    With disentangled aggregation :math:`\hat A_s` connects the joints that are exactly s edges apart, and each with
    itself; else it is the s-th power of the adjacency with self-loops. It is normalized by degrees on both sides.

    Args:
        num_scales: S.
        in_channels: C_in.
        out_channels: C_out.
        A_binary: 1 where an edge is, without self-loops, (V, V).
        disentangled_agg: whether aggregation is disentangled.
        use_mask: whether there is a learned R, the parameter ``A_res``.
        dropout: probability with which, in training, an aggregated feature is dropped before W. Then the aggregated
            features, S times the input, are written to memory and nothing is gained.
        activation: ``relu``, ``leakyrelu``, ``tanh``, or ``linear`` or None for none.

    Raises:
        ValueError: A_binary is not square, or the activation is unknown.

    Source: Liu et al., "Disentangling and Unifying Graph Convolutions for Skeleton-Based Action Recognition", CVPR
    2020, section 3.2.

    Example:
        >>> from ikem_ext import get_layout
        >>> bones = get_layout("ntu25").adjacency()[1:].sum(0) > 0
        >>> unit = MultiScale_GraphConv(13, 3, 96, bones.numpy())
        >>> unit(torch.randn(2, 3, 50, 25)).shape
        torch.Size([2, 96, 50, 25])
    """

    A_powers: Tensor

    def __init__(
        self,
        num_scales: int,
        in_channels: int,
        out_channels: int,
        A_binary: Tensor | npt.NDArray,
        disentangled_agg: bool = True,
        use_mask: bool = True,
        dropout: float = 0,
        activation: str | None = "relu",
    ) -> None:
        super().__init__()
        self.num_scales = num_scales
        self.in_channels = in_channels
        self.use_mask = use_mask
        edges = edge_matrix("A_binary", A_binary)
        scales = (
            [*map(_normalized, neighborhoods(edges, num_scales))] if disentangled_agg else _powers(edges, num_scales)
        )
        powers = torch.as_tensor(np.concatenate(scales)).to(torch.get_default_dtype())
        self.register_buffer("A_powers", powers, persistent=False)
        if use_mask:
            self.A_res = nn.Parameter(torch.empty_like(self.A_powers).uniform_(-1e-6, 1e-6))
        self.mlp = MLP(in_channels * num_scales, [out_channels], dropout=dropout, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C_in, T, V) to (N, C_out, T, V)."""
        check_features(x, self.in_channels, self.A_powers.shape[-1])
        adjacency = self.A_powers.to(x.dtype)
        if self.use_mask:
            adjacency = adjacency + self.A_res.to(x.dtype)
        return multi_scale_graph_conv(x, adjacency.unflatten(0, (self.num_scales, -1)).mT, self.mlp)

    def fold_norms(self) -> None:
        """Makes the norms of ``mlp`` parts of its convolutions, for :func:`ikem_ext.nn.folded`."""
        fold_mlp(self.mlp)


class MLP(nn.Module):
    """Layers of dropout (if there is any), 1x1 convolution, batch norm and activation.

    Args:
        in_channels: C_in.
        out_channels: the channels after each layer.
        activation: as of :class:`MultiScale_GraphConv`, or what makes the module.
        dropout: probability; where it is 0, there are no such modules.

    Raises:
        ValueError: the activation is unknown.

    Source: Liu et al., CVPR 2020, the published code.

    Example:
        >>> MLP(6, [16, 8])(torch.randn(2, 6, 50, 25)).shape
        torch.Size([2, 8, 50, 25])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: Sequence[int],
        activation: str | Callable[[], nn.Module] | None = "relu",
        dropout: float = 0,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for before, after in pairwise([in_channels, *out_channels]):
            if dropout > 0.001:  # as published: it decides the names in the state dict
                self.layers.append(nn.Dropout(dropout))
            made = activation() if callable(activation) else _activation(activation)
            self.layers.extend((nn.Conv2d(before, after, 1), nn.BatchNorm2d(after), made))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C_in, T, V) to (N, out_channels[-1], T, V)."""
        for layer in self.layers:
            x = layer(x)
        return x


class TemporalConv(NormalizedConv):
    """Convolution over time, then batch norm.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: in frames.
        stride: in frames.
        dilation: in frames.

    Source: Liu et al., CVPR 2020, section 3.4; CTR-GCN's unit of this name is the same.

    Example:
        >>> TemporalConv(16, 16, 3, dilation=4)(torch.randn(2, 16, 50, 25)).shape
        torch.Size([2, 16, 50, 25])
    """


class MultiScale_TemporalConv(MultiScaleConv):
    r"""Branches of a few channels each: dilated convolutions, a maximum over three frames, and a 1x1 convolution.

    .. math:: y = \mathrm{act}\big([b_1(x), ..., b_{D + 2}(x)] + \mathrm{residual}(x)\big)

    Args:
        in_channels: C_in.
        out_channels: C_out, a multiple of the number of branches, D + 2.
        kernel_size: of the dilated convolutions, in frames.
        stride: in frames.
        dilations: in frames, D of them.
        residual: whether there is a shortcut: the identity where shapes agree, else convolution and batch norm.
        residual_kernel_size: of that convolution, in frames.
        activation: as of :class:`MultiScale_GraphConv`; ``act``, the one behind the sum, may be replaced by another
            module, as the published network does.

    Raises:
        ValueError: C_out is no such multiple, or the activation is unknown.

    Source: Liu et al., CVPR 2020, section 3.4.

    Example:
        >>> MultiScale_TemporalConv(96, 192, stride=2)(torch.randn(2, 96, 50, 25)).shape
        torch.Size([2, 192, 25, 25])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilations: Sequence[int] = (1, 2, 3, 4),
        residual: bool = True,
        residual_kernel_size: int = 1,
        activation: str | None = "relu",
    ) -> None:
        check_branches(out_channels, dilations)
        act = partial(_activation, activation)
        super().__init__(in_channels, out_channels, kernel_size, stride, dilations, TemporalConv, act)
        projection = partial(TemporalConv, kernel_size=residual_kernel_size)
        self.residual = over_time_shortcut(in_channels, out_channels, stride, residual, projection)
        self.act = act()

    def with_residual(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """See `TemporalUnit`."""
        return plus(self.activated(x, self.act), residual, relu)


def check_branches(out_channels: int, dilations: Sequence[int]) -> None:
    """Requires as many channels for each branch of a multi-scale temporal convolution."""
    branches = len(dilations) + 2
    if out_channels % branches:
        raise ValueError(f"out_channels: expected a multiple of the number of branches, {branches}, got {out_channels}")


def multi_scale_graph_conv(x: Tensor, adjacency: Tensor, mlp: nn.Module) -> Tensor:
    """What S parts of a graph (S, V, W), from joint to joint, aggregate, S times the channels of x, through an MLP.

    The MLP may be another project's: of it there are ``layers``, as :class:`MLP` has them.
    """
    first, *rest = cast(nn.ModuleList, mlp.layers)
    if isinstance(first, nn.Dropout):
        if first.training:
            return mlp(torch.einsum("nctv,svw->nsctw", x, adjacency).flatten(1, 2))
        first, *rest = rest
    conv = cast(nn.Conv2d, first)
    assert conv.bias is not None
    weight = conv.weight.unflatten(1, (len(adjacency), -1))[..., 0, 0].transpose(0, 1)
    y = biased(graph_conv(x, weight, None, adjacency), conv.bias)
    for layer in rest:
        y = layer(y)
    return y


def fold_mlp(mlp: nn.Module) -> None:
    """Makes norms parts of the convolutions before them; the MLP is as of `multi_scale_graph_conv`."""
    layers = cast(nn.ModuleList, mlp.layers)
    fold_slots([(layers, name) for name in layers._modules])


def _activation(name: str | None) -> nn.Module:
    if name == "relu":
        return nn.ReLU(inplace=True)
    if name == "leakyrelu":
        return nn.LeakyReLU(0.2, inplace=True)
    if name == "tanh":
        return nn.Tanh()
    if name in ("linear", None):
        return nn.Identity()
    raise ValueError(f"activation: expected relu, leakyrelu, tanh, linear or None, got {name!r}")


def edge_matrix(argument: str, adjacency: Tensor | npt.NDArray) -> npt.NDArray:
    """The numbers of a matrix (V, V) of edges, given as an argument of that name."""
    if isinstance(adjacency, Tensor) and adjacency.is_meta:
        raise ValueError(f"{argument}: expected values to take powers of, got a tensor on the meta device")
    edges = np.asarray(adjacency)
    if edges.ndim != 2 or edges.shape[0] != edges.shape[1]:
        raise ValueError(f"{argument}: expected shape (V, V), got {edges.shape}")
    return edges.astype(np.float64) if edges.dtype == bool else edges


# The arithmetic below is done in the dtype in which the edges come, as the published code does it, so that rounding to
# float32 gives the same numbers.


def neighborhoods(edges: npt.NDArray, num_scales: int) -> list[npt.NDArray]:
    """For each number of hops the pairs of joints that are exactly so far apart, and self-loops: 1, else 0, (V, V)."""
    identity = np.eye(len(edges), dtype=edges.dtype)
    within = [np.minimum(np.linalg.matrix_power(edges + identity, hops), 1) for hops in range(num_scales)]
    apart = [now - before for before, now in pairwise(within)]
    return [identity, *(each + identity for each in apart)]


def _powers(edges: npt.NDArray, num_scales: int) -> list[npt.NDArray[np.float32]]:
    normalized = _normalized(edges + np.eye(len(edges)))
    return [np.linalg.matrix_power(normalized, scale) for scale in range(num_scales)]


def _normalized(adjacency: npt.NDArray) -> npt.NDArray[np.float32]:
    """Divided by the square roots of the degrees of both joints."""
    factors = (adjacency.sum(-1) ** -0.5).astype(np.float64)
    return (factors[:, None] * adjacency * factors).astype(np.float32)

"""CTR-GCN's units and block under their names, computing through :func:`ikem_ext.graph_conv` and others."""
# ruff: noqa: N801, N803

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy.typing as npt
import torch
from torch import Tensor, nn

from ._temporal_units import MultiScaleConv, end_of_block, over_time_shortcut
from ._units import (
    RefinedGraphConv,
    check_features,
    fold_scale,
    graph_parts,
    initialize,
    initialize_norm,
    refined_graph_conv,
    shortcut,
)
from .agcn import unit_tcn
from .folding import is_foldable
from .msg3d import TemporalConv, check_branches
from .normalized import normalized, shortened

__all__ = ["CTRGC", "MultiScale_TemporalConv", "TCN_GCN_unit", "TemporalConv", "unit_gcn", "unit_tcn"]


class CTRGC(RefinedGraphConv):
    r"""Graph convolution whose adjacency is refined for every clip and channel.

    .. math:: y[n,c,t,u] = \sum_v \Big(\alpha\, \mathrm{conv4}\big(\tanh(m_1[u] - m_2[v])\big)[n,c] + A[u,v]\Big)\, \mathrm{conv3}(x)[n,c,t,v]

    with :math:`m_1, m_2` the means over time of ``conv1(x)`` and ``conv2(x)``.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        rel_reduction: relations have C_in // rel_reduction channels, but 8 where C_in is 3 or 9.
        mid_reduction: in the original signature; nothing depends on it.

    Source: Chen et al., "Channel-Wise Topology Refinement Graph Convolution for Skeleton-Based Action Recognition",
    ICCV 2021, section 3.2.

    Example:
        >>> CTRGC(16, 32)(torch.randn(2, 16, 50, 25), A=torch.eye(25), alpha=0.5).shape
        torch.Size([2, 32, 50, 25])
    """  # noqa: E501

    sum_over_v = True

    def __init__(self, in_channels: int, out_channels: int, rel_reduction: int = 8, mid_reduction: int = 1) -> None:
        coordinates = in_channels in (3, 9)
        super().__init__(in_channels, out_channels, 8 if coordinates else in_channels // rel_reduction)
        self.mid_channels = 16 if coordinates else in_channels // mid_reduction


class unit_gcn(nn.Module):
    """The sum of a CTRGC for each part of the adjacency, then batch norm, shortcut and ReLU.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        A: adjacency (K, V, V), an array or tensor, held in the default dtype.
        coff_embedding: in the original signature; nothing depends on it.
        adaptive: the adjacency is the parameter ``PA``; else it stays fixed and is not in the state dict.
        residual: whether there is a shortcut, ``down``: the identity, or 1x1 convolution and batch norm where the
            widths differ.

    Raises:
        ValueError: A has another shape.

    Source: Chen et al., ICCV 2021, section 3.3.

    Example:
        >>> from ikem_ext import get_layout
        >>> unit = unit_gcn(3, 64, get_layout("ntu25").adjacency())
        >>> unit(torch.randn(2, 3, 50, 25)).shape
        torch.Size([2, 64, 50, 25])
    """

    A: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        A: Tensor | npt.NDArray,
        coff_embedding: int = 4,
        adaptive: bool = True,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.inter_c = out_channels // coff_embedding
        self.out_c = out_channels
        self.in_c = in_channels
        self.adaptive = adaptive
        adjacency = graph_parts(A)
        self.num_subset = len(adjacency)
        self.convs = nn.ModuleList(CTRGC(in_channels, out_channels) for _ in range(self.num_subset))
        self.down = shortcut(in_channels, out_channels) if residual else None
        if adaptive:
            self.PA = nn.Parameter(adjacency)
        else:
            self.register_buffer("A", adjacency, persistent=False)
        self.alpha = nn.Parameter(torch.zeros(1))
        self.bn = nn.BatchNorm2d(out_channels)
        initialize(self)
        initialize_norm(self.bn, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C_in, T, V) to (N, C_out, T, V)."""
        adjacency = self.PA if self.adaptive else self.A
        check_features(x, self.in_c, adjacency.shape[-1])
        y = refined_graph_conv(x, self.convs, adjacency, self.alpha, sum_over_v=CTRGC.sum_over_v)
        residual = None if self.down is None else shortened(self.down, x)
        if not isinstance(residual, Tensor):  # the original's own ``down``, where it has none, gives the number 0
            residual = None
        return normalized(self.bn, y, residual=residual, relu=True)

    def fold_norms(self) -> None:
        """Leaves of ``bn`` the shift alone, for :func:`ikem_ext.nn.folded`."""
        if is_foldable(self.bn):
            self.register_module("bn", fold_scale([each.conv3 for each in self.convs], self.bn))


class MultiScale_TemporalConv(MultiScaleConv):
    r"""Branches of a few channels each: dilated convolutions, a maximum over three frames, and a 1x1 convolution.

    .. math:: y = [b_1(x), ..., b_{D + 2}(x)] + \mathrm{residual}(x)

    Args:
        in_channels: C_in.
        out_channels: C_out, a multiple of the number of branches, D + 2.
        kernel_size: of the dilated convolutions, in frames; or one for each.
        stride: in frames.
        dilations: in frames, D of them.
        residual: whether there is a shortcut: the identity where shapes agree, else convolution and batch norm.
        residual_kernel_size: of that convolution, in frames.

    Raises:
        ValueError: C_out is no such multiple, or there are not as many kernel sizes as dilations.

    Source: Chen et al., ICCV 2021, section 3.4; after Liu et al., CVPR 2020.

    Example:
        >>> unit = MultiScale_TemporalConv(64, 64, kernel_size=5, stride=2, dilations=[1, 2], residual=False)
        >>> unit(torch.randn(2, 64, 50, 25)).shape
        torch.Size([2, 64, 25, 25])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int = 1,
        dilations: Sequence[int] = (1, 2, 3, 4),
        residual: bool = True,
        residual_kernel_size: int = 1,
    ) -> None:
        check_branches(out_channels, dilations)
        act = partial(nn.ReLU, inplace=True)
        super().__init__(in_channels, out_channels, kernel_size, stride, dilations, TemporalConv, act)
        projection = partial(TemporalConv, kernel_size=residual_kernel_size)
        self.residual = over_time_shortcut(in_channels, out_channels, stride, residual, projection)
        self.apply(_initialize)


def _initialize(module: nn.Module) -> None:
    """A convolution from N(0, 2 / fan_out), its bias 0; a batch norm's weight from N(1, 0.02), its bias 0."""
    if isinstance(module, nn.Conv2d):
        initialize(module)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class TCN_GCN_unit(nn.Module):
    r"""A block: graph convolution, then multi-scale temporal convolution, around a shortcut.

    .. math:: y = \mathrm{relu}\big(\mathrm{tcn1}(\mathrm{gcn1}(x)) + \mathrm{residual}(x)\big)

    Args:
        in_channels: C_in.
        out_channels: C_out.
        A: adjacency, as of :class:`unit_gcn`.
        stride: of the temporal convolution, in frames.
        residual: whether there is a shortcut: the identity where shapes agree, else 1x1 convolution and batch norm.
        adaptive: as of :class:`unit_gcn`.
        kernel_size: as of :class:`MultiScale_TemporalConv`.
        dilations: likewise.

    Raises:
        ValueError: from the two units.

    Source: Chen et al., ICCV 2021, section 3.4.

    Example:
        >>> from ikem_ext import get_layout
        >>> block = TCN_GCN_unit(3, 64, get_layout("ntu25").adjacency(), stride=2)
        >>> block(torch.randn(2, 3, 50, 25)).shape
        torch.Size([2, 64, 25, 25])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        A: Tensor | npt.NDArray,
        stride: int = 1,
        residual: bool = True,
        adaptive: bool = True,
        kernel_size: int | Sequence[int] = 5,
        dilations: Sequence[int] = (1, 2),
    ) -> None:
        super().__init__()
        self.gcn1 = unit_gcn(in_channels, out_channels, A, adaptive=adaptive)
        self.tcn1 = MultiScale_TemporalConv(out_channels, out_channels, kernel_size, stride, dilations, residual=False)
        projection = partial(unit_tcn, kernel_size=1)
        self.residual = over_time_shortcut(in_channels, out_channels, stride, residual, projection)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C_in, T, V) to (N, C_out, ceil(T / stride), V)."""
        return end_of_block(self, "tcn1", self.gcn1(x), x)

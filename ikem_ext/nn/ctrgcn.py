"""CTR-GCN's graph convolution under its names, computing through :func:`ikem_ext.graph_conv`."""
# ruff: noqa: N801, N803

from __future__ import annotations

import numpy.typing as npt
import torch
from torch import Tensor, nn

from ._units import (
    RefinedGraphConv,
    check_features,
    graph_parts,
    initialize,
    initialize_norm,
    refined_graph_conv,
    scale_convolutions,
    shortcut,
)
from .folding import Shift, scale_and_shift
from .normalized import normalized, shortened

__all__ = ["CTRGC", "unit_gcn"]


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
        scale, shift = scale_and_shift(self.bn)
        scale_convolutions((each.conv3 for each in self.convs), scale)
        self.register_module("bn", Shift(shift))

"""2s-AGCN's units and block under their names, computing through :func:`ikem_ext.graph_conv` and others."""
# ruff: noqa: N801, N803

from __future__ import annotations

from functools import partial

import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..graph_conv import graph_conv
from ._temporal_units import NormalizedConv, end_of_block, over_time_shortcut
from ._units import (
    biased,
    check_features,
    fold_into_sum,
    graph_parts,
    initialize,
    initialize_branches,
    initialize_norm,
    pairwise_products,
    shortcut,
    stacked,
)
from .folding import is_foldable
from .normalized import normalized, shortened

__all__ = ["TCN_GCN_unit", "unit_gcn", "unit_tcn"]


class unit_gcn(nn.Module):
    r"""Adaptive graph convolution: fixed, learned and attention-made adjacencies, summed.

    .. math:: y = \mathrm{relu}\big(\mathrm{bn}(\sum_k W_k\, x\, (A_k + PA_k + C_k) + b_k) + \mathrm{down}(x)\big)

    with :math:`C_k` the softmax over v of the mean over channels and frames of ``conv_a[k](x)[v] * conv_b[k](x)[w]``.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        A: fixed adjacency (num_subset, V, V), an array or tensor, held in the default dtype and not in the state dict;
            further parts are ignored, though ``PA`` has them, too.
        coff_embedding: the attention works on C_out // coff_embedding channels.
        num_subset: K.

    Raises:
        ValueError: A has another shape, or too few parts.

    Source: Shi et al., "Two-Stream Adaptive Graph Convolutional Networks for Skeleton-Based Action Recognition",
    CVPR 2019, eq. 3.

    Example:
        >>> from ikem_ext import get_layout
        >>> unit = unit_gcn(3, 64, get_layout("ntu25").adjacency())
        >>> unit(torch.randn(2, 3, 50, 25)).shape
        torch.Size([2, 64, 50, 25])
    """

    A: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, A: Tensor | npt.NDArray, coff_embedding: int = 4, num_subset: int = 3
    ) -> None:
        super().__init__()
        self.inter_c = out_channels // coff_embedding
        self.num_subset = num_subset
        adjacency = graph_parts(A)
        if len(adjacency) < num_subset:
            raise ValueError(f"A: expected at least num_subset={num_subset} parts, got {len(adjacency)}")
        self.PA = nn.Parameter(torch.full_like(adjacency, 1e-6))
        self.register_buffer("A", adjacency, persistent=False)
        self.conv_a, self.conv_b, self.conv_d = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for _ in range(num_subset):
            self.conv_a.append(nn.Conv2d(in_channels, self.inter_c, 1))
            self.conv_b.append(nn.Conv2d(in_channels, self.inter_c, 1))
            self.conv_d.append(nn.Conv2d(in_channels, out_channels, 1))
        self.down = shortcut(in_channels, out_channels)
        self.bn = nn.BatchNorm2d(out_channels)
        initialize(self)
        initialize_norm(self.bn, 1e-6)
        initialize_branches(self.conv_d)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C_in, T, V) to (N, C_out, T, V)."""
        weight, bias = stacked(self.conv_d)
        check_features(x, weight.shape[-1], self.A.shape[-1])
        attention = pairwise_products(x, self.conv_a, self.conv_b).softmax(-2)
        y = graph_conv(x, weight, None, attention + (self.A + self.PA)[: self.num_subset])
        return normalized(self.bn, biased(y, bias.sum(0)), residual=shortened(self.down, x), relu=True)

    def fold_norms(self) -> None:
        """Makes ``bn`` a part of ``conv_d``, for :func:`ikem_ext.nn.folded`."""
        if is_foldable(self.bn):
            fold_into_sum(self.conv_d, self.bn)
            self.register_module("bn", nn.Identity())


class unit_tcn(NormalizedConv):
    """Convolution over time, then batch norm.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: in frames.
        stride: in frames.

    Source: Shi et al., CVPR 2019, section 4.3; CTR-GCN's unit of this name is the same.

    Example:
        >>> unit_tcn(64, 128, stride=2)(torch.randn(2, 64, 50, 25)).shape
        torch.Size([2, 128, 25, 25])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 9, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)
        initialize(self)


class TCN_GCN_unit(nn.Module):
    r"""A block: graph convolution, then temporal convolution, around a shortcut.

    .. math:: y = \mathrm{relu}\big(\mathrm{tcn1}(\mathrm{gcn1}(x)) + \mathrm{residual}(x)\big)

    Args:
        in_channels: C_in.
        out_channels: C_out.
        A: adjacency, as of :class:`unit_gcn`.
        stride: of the temporal convolution, in frames.
        residual: whether there is a shortcut: the identity where shapes agree, else 1x1 convolution and batch norm.

    Raises:
        ValueError: from :class:`unit_gcn`.

    Source: Shi et al., CVPR 2019, section 4.3.

    Example:
        >>> from ikem_ext import get_layout
        >>> block = TCN_GCN_unit(3, 64, get_layout("ntu25").adjacency(), stride=2)
        >>> block(torch.randn(2, 3, 50, 25)).shape
        torch.Size([2, 64, 25, 25])
    """

    def __init__(
        self, in_channels: int, out_channels: int, A: Tensor | npt.NDArray, stride: int = 1, residual: bool = True
    ) -> None:
        super().__init__()
        self.gcn1 = unit_gcn(in_channels, out_channels, A)
        self.tcn1 = unit_tcn(out_channels, out_channels, stride=stride)
        projection = partial(unit_tcn, kernel_size=1)
        self.residual = over_time_shortcut(in_channels, out_channels, stride, residual, projection)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C_in, T, V) to (N, C_out, ceil(T / stride), V)."""
        return end_of_block(self, "tcn1", self.gcn1(x), x)

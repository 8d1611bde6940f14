"""2s-AGCN's graph convolution under its names, computing through :func:`ikem_ext.graph_conv`."""
# ruff: noqa: N801, N803

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..graph_conv import graph_conv
from ._units import (
    biased,
    check_features,
    graph_parts,
    initialize,
    initialize_branches,
    initialize_norm,
    pairwise_products,
    scale_convolutions,
    shortcut,
    stacked,
)
from .folding import scale_and_shift
from .normalized import normalized, shortened

__all__ = ["unit_gcn"]


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
        scale, shift = scale_and_shift(self.bn)
        scale_convolutions(self.conv_d, scale)
        first: Any = self.conv_d[0]
        first.bias += shift
        self.register_module("bn", nn.Identity())

"""One stream of 2s-AGCN (Shi et al., CVPR 2019) as an encoder."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from ikem.encoders.encoder import TEMPORAL_KERNEL, Encoder, shortcut
from ikem_ext.nn import agcn


class TemporalConv(nn.Sequential):
    """2s-AGCN's temporal convolution over nine frames, with batch norm.

    Args:
        channels: C.
        stride: of time.
    """

    def __init__(self, channels: int, stride: int) -> None:
        conv = nn.Conv2d(channels, channels, (TEMPORAL_KERNEL, 1), (stride, 1), (TEMPORAL_KERNEL // 2, 0))
        super().__init__(conv, nn.BatchNorm2d(channels))


class AGCNBlock(nn.Module):
    """A unit of graph convolution with its own norm and activation, then temporal convolution, around a residual.

    The arguments are those of `ikem.encoders.st_gcn.Block`.
    """

    unit: ClassVar[type[nn.Module]] = agcn.unit_gcn
    temporal_conv: ClassVar[type[nn.Module]] = TemporalConv

    def __init__(
        self, in_channels: int, out_channels: int, adjacency: Tensor, *, stride: int, dropout: float, residual: bool
    ) -> None:
        super().__init__()
        self.graph = self.unit(in_channels, out_channels, adjacency)
        self.temporal = self.temporal_conv(out_channels, stride)
        self.dropout = nn.Dropout(dropout)
        self.residual = shortcut(in_channels, out_channels, stride) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, T, V) to (N, C_out, ceil(T / stride), V)."""
        y = self.dropout(self.temporal(self.graph(x)))
        if self.residual is not None:
            y = y + self.residual(x)
        return functional.relu(y, inplace=True)


class AGCN(Encoder):
    """Adaptive graph convolutional network, one stream of 2s-AGCN, as an encoder.

    Its graph convolution is :class:`ikem_ext.nn.agcn.unit_gcn`; widths are multiples of 4.

    Example:
        >>> import torch
        >>> from ikem_ext.skeleton import get_layout
        >>> AGCN(get_layout("ntu25"), base_width=4, feature_width=24)(torch.zeros(2, 3, 16, 25, 2)).shape
        torch.Size([2, 24])
    """

    block = AGCNBlock

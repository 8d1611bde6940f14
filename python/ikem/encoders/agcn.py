"""One stream of 2s-AGCN (Shi et al., CVPR 2019) as an encoder."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from ikem.encoders.encoder import TEMPORAL_KERNEL, Encoder, shortcut
from ikem_ext.nn import TemporalConv, agcn, normalized
from ikem_ext.nn.normalized import convolved_before, shortened


class TemporalUnit(nn.Sequential):
    """2s-AGCN's temporal convolution over nine frames, with batch norm.

    Args:
        channels: C.
        stride: of time.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(TemporalConv(channels, channels, TEMPORAL_KERNEL, stride), nn.BatchNorm2d(channels))


class AGCNBlock(nn.Module):
    """A unit of graph convolution with its own norm and activation, then temporal convolution, around a residual.

    The arguments are those of `ikem.encoders.st_gcn.Block`.
    """

    unit: ClassVar[type[nn.Module]] = agcn.unit_gcn
    temporal_unit: ClassVar[type[nn.Module]] = TemporalUnit

    def __init__(
        self, in_channels: int, out_channels: int, adjacency: Tensor, *, stride: int, dropout: float, residual: bool
    ) -> None:
        super().__init__()
        self.graph = self.unit(in_channels, out_channels, adjacency)
        self.temporal: Any = self.temporal_unit(out_channels, stride)
        self.dropout = nn.Dropout(dropout)
        self.residual = shortcut(in_channels, out_channels, stride) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, T, V) to (N, C_out, ceil(T / stride), V)."""
        return self.convolved(
            self.graph(x),
            dropout=self.dropout.p if self.dropout.training else 0.0,
            residual=None if self.residual is None else shortened(self.residual, x),
            relu=True,
        )

    def convolved(self, x: Tensor, **then: Any) -> Tensor:
        """Convolve over time and normalize; what follows as of `ikem_ext.nn.normalized`."""
        conv, norm = self.temporal
        y, moments = convolved_before(norm, conv, x)
        return normalized(norm, y, **then, moments=moments)


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

"""CTR-GCN (Chen et al., ICCV 2021) as an encoder."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from ikem.encoders.agcn import AGCNBlock
from ikem.encoders.encoder import Encoder
from ikem_ext.nn import PointwiseConv, TemporalConv, ctrgcn
from ikem_ext.nn.multi_scale import MaxOverFrames, multi_scale_conv
from ikem_ext.nn.normalized import normalized_apart


class MultiScaleTemporalConv(nn.Module):
    """Four branches, each with a quarter of the channels: two dilated convolutions, a maximum, and a 1x1 convolution.

    Args:
        channels: C, a multiple of 4.
        stride: of time.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        width = channels // 4

        def reduced(*then: nn.Module) -> nn.Sequential:
            entry = nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
            return nn.Sequential(*entry, *then, nn.BatchNorm2d(width))

        def dilated(dilation: int) -> nn.Module:
            return TemporalConv(width, width, 5, stride, dilation=dilation)

        self.branches = nn.ModuleList(
            (
                reduced(dilated(1)),
                reduced(dilated(2)),
                reduced(MaxOverFrames(3, stride)),
                nn.Sequential(PointwiseConv(channels, width, stride), nn.BatchNorm2d(width)),
            )
        )

    def forward(self, x: Tensor, *, dropout: float = 0.0, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """Map (N, C, T, V) to (N, C, ceil(T / stride), V); what follows as of `ikem_ext.nn.normalized`."""
        *reduced, (pointwise, norm) = (list(cast(nn.Sequential, branch)) for branch in self.branches)
        entries, then, norms = zip(*((each[:2], each[3], each[4]) for each in reduced), strict=True)
        y = multi_scale_conv(x, entries, then, pointwise)
        norms, widths = (*norms, norm), [y.shape[1] // 4] * 4
        return normalized_apart(norms, widths, y, dropout=dropout, residual=residual, relu=relu)


class CTRGCNBlock(AGCNBlock):
    """The block of CTR-GCN, with its own graph and temporal convolution."""

    unit = ctrgcn.unit_gcn
    temporal_unit = MultiScaleTemporalConv

    def convolved(self, x: Tensor, **then: Any) -> Tensor:
        """Convolve over time; the branches have norms of their own."""
        return self.temporal(x, **then)


class CTRGCN(Encoder):
    """Channel-wise topology refinement graph convolutional network as an encoder.

    Its graph convolution is :class:`ikem_ext.nn.ctrgcn.unit_gcn`; widths are multiples of 8.

    Example:
        >>> import torch
        >>> from ikem_ext.skeleton import get_layout
        >>> CTRGCN(get_layout("ntu25"), base_width=8, feature_width=24)(torch.zeros(2, 3, 16, 25, 2)).shape
        torch.Size([2, 24])
    """

    block = CTRGCNBlock

"""Convolution of single frames and joints, with a stride in time."""

from __future__ import annotations

from .temporal_conv import TemporalConv


class PointwiseConv(TemporalConv):
    r"""A 1x1 convolution with a stride in time: on the CPU it computes through :func:`ikem_ext.temporal_conv`.

    .. math:: y[n,:,t,v] = W\, x[n,:,s t,v] + b

    Results, to rounding, names in the state dict, shapes and initialization are those of
    ``Conv2d(C_in, C_out, 1, (s, 1))``, which other devices run. On the CPU PyTorch's own (oneDNN) sums the gradient of
    the weight in an order that depends on the number of threads and, with AVX-512, writes beyond its memory: where
    channels are innermost and fewer than 16, and frames many, the backward pass gathers the frames that the stride
    leaves into a scratchpad that is too small for them.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        stride: s, in frames.

    Example:
        >>> import torch
        >>> PointwiseConv(8, 16, stride=2)(torch.randn(2, 8, 25, 15)).shape
        torch.Size([2, 16, 13, 15])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, 1, stride)

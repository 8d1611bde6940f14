"""Convolution of single frames and joints, with a stride in time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d


class PointwiseConv(nn.Conv2d):
    r"""A 1x1 convolution with a stride in time: on the CPU it takes every s-th frame and convolves without a stride.

    .. math:: y[n,:,t,v] = W\, x[n,:,s t,v] + b

    Results, names in the state dict, shapes and initialization are those of ``Conv2d(C_in, C_out, 1, (s, 1))``, which
    other devices run. On the CPU PyTorch's own (oneDNN, with AVX-512) writes beyond its memory: where channels are
    innermost and fewer than 16, and frames many, the backward pass gathers the frames that the stride leaves into a
    scratchpad that is too small for them.

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
        super().__init__(in_channels, out_channels, 1, (stride, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C_in, T, V) to (N, C_out, ceil(T / s), V), in the memory layout of the input."""
        if x.device.type != "cpu":
            return super().forward(x)
        return conv2d(every(self.stride[0], x), self.weight, self.bias)


def every(step: int, x: Tensor) -> Tensor:
    """The frames 0, step, 2 step, ... of (N, C, T, V), dense, in its memory layout; so is the gradient."""
    if step == 1:
        return x
    if x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1)[:, ::step].contiguous().permute(0, 3, 1, 2)
    return x[:, :, ::step].contiguous()

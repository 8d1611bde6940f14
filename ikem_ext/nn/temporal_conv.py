"""Convolution over frames, whose parameters are those of a two-dimensional convolution."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor, nn

from ..temporal_conv import temporal_conv


class _Settings(TypedDict):
    stride: int
    padding: int
    dilation: int


class TemporalConv(nn.Conv2d):
    """A convolution with a (K, 1) kernel: on the CPU it computes through :func:`ikem_ext.temporal_conv`.

    Names in the state dict, shapes and initialization are those of
    ``Conv2d(C_in, C_out, (K, 1), (stride, 1), (padding, 0), (dilation, 1))``, and so are results, to rounding. Other
    devices run that. So does CUDA, by cuDNN: the operation has kernels there too, which nobody has measured beside it.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: K, in frames.
        stride: in frames.
        padding: frames of zeros on either side; by default as many as keep the number of frames, K being odd.
        dilation: in frames.
        bias: whether there is one.

    Example:
        >>> import torch
        >>> TemporalConv(16, 32, 9, stride=2)(torch.randn(2, 16, 25, 15)).shape
        torch.Size([2, 32, 13, 15])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        bias: bool = True,
    ) -> None:
        padding = dilation * (kernel_size - 1) // 2 if padding is None else padding
        super().__init__(
            in_channels, out_channels, (kernel_size, 1), (stride, 1), (padding, 0), (dilation, 1), bias=bias
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C_in, T, V) to (N, C_out, T', V), in the memory layout of the input."""
        if x.device.type != "cpu":
            return super().forward(x)
        return temporal_conv(x, self.taps, self.bias, **self.settings)

    @property
    def taps(self) -> Tensor:
        """The weight, (C_out, C_in, K), as :func:`ikem_ext.temporal_conv` takes it."""
        return self.weight[..., 0]

    @property
    def settings(self) -> _Settings:
        """Stride, padding and dilation, as :func:`ikem_ext.temporal_conv` takes them."""
        stride, padding, dilation = (int(each[0]) for each in (self.stride, self.padding, self.dilation))
        return {"stride": stride, "padding": padding, "dilation": dilation}

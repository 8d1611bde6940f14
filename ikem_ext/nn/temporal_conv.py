"""Convolution over frames, whose parameters are those of a two-dimensional convolution."""

from __future__ import annotations

from typing import TypedDict, TypeGuard, cast

from torch import Tensor, nn

from ..temporal_conv import temporal_conv


class Settings(TypedDict):
    """What :func:`ikem_ext.temporal_conv` takes beside tensors, in frames."""

    stride: int
    padding: int
    dilation: int


class TemporalConv(nn.Conv2d):
    """A convolution with a (K, 1) kernel: on the CPU it computes through :func:`ikem_ext.temporal_conv`.

    Names in the state dict, shapes and initialization are those of
    ``Conv2d(C_in, C_out, (K, 1), (stride, 1), (padding, 0), (dilation, 1))``, and so are results, to rounding. Other
    devices run that. So does CUDA, by cuDNN: the operation has kernels there too, which on an H100 are slower from 64
    channels on.

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
        if not convolves_natively(self, x):
            return super().forward(x)
        return temporal_conv(x, self.taps, self.bias, **self.settings)

    @property
    def taps(self) -> Tensor:
        """The weight, (C_out, C_in, K), as :func:`ikem_ext.temporal_conv` takes it."""
        return self.weight[..., 0]

    @property
    def settings(self) -> Settings:
        """Stride, padding and dilation, as :func:`ikem_ext.temporal_conv` takes them."""
        return settings(self)


def convolve(conv: nn.Module, x: Tensor) -> Tensor:
    """What a two-dimensional convolution of any make gives.

    On the CPU PyTorch's own, where it spans frames alone, computes as :class:`TemporalConv` does.
    """
    if not convolves_natively(conv, x):
        return conv(x)
    return temporal_conv(x, conv.weight[..., 0], conv.bias, **settings(conv))


def settings(conv: nn.Conv2d) -> Settings:
    """Those of a convolution over frames."""
    padding = cast(tuple[int, int], conv.padding)
    return {"stride": conv.stride[0], "padding": padding[0], "dilation": conv.dilation[0]}


def convolves_natively(conv: nn.Module, x: Tensor) -> TypeGuard[nn.Conv2d]:
    """Whether a layer convolves ``x`` by :func:`ikem_ext.temporal_conv`: over frames, on the CPU.

    On CUDA PyTorch's own is faster (results/h100.md).
    """
    return x.device.type == "cpu" and is_over_frames(conv)


def is_over_frames(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether :func:`ikem_ext.temporal_conv` does on the CPU what the module does, and not slower.

    A :class:`TemporalConv`, or PyTorch's own over single joints, with zeros around, and all channels together; not one
    over all single frames, which PyTorch's does as fast.
    """
    if not isinstance(conv, nn.Conv2d) or type(conv).forward is not nn.Conv2d.forward:
        return type(conv).forward is TemporalConv.forward
    if conv.groups != 1 or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return False
    joints_alone = conv.kernel_size[1] == conv.stride[1] == 1 and conv.padding[1] == 0
    return joints_alone and max(conv.kernel_size[0], conv.stride[0]) > 1

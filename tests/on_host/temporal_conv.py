"""`temporal_conv` by its CUDA kernels on the host."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from operation_checks import DTYPES
from torch import Tensor

from ikem_ext.temporal_conv import Norm

from . import address, empty_like_x, is_channels_last, pointer


class Arguments(ctypes.Structure):
    """The structure of the same name in temporal_conv_on_host.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in "clips in_channels out_channels frames out_frames joints taps".split()),
        *((name, ctypes.c_int64) for name in "stride dilation padding allow_tf32 channels_last training".split()),
        ("eps", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in "x weight bias x_strides weight_strides".split()),
        *((name, ctypes.c_void_p) for name in "norm_weight norm_bias norm_mean norm_variance".split()),
    )


class HostTemporalConv:
    """`temporal_conv` and its gradients by the CUDA kernels on the host."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.temporal_conv_forward.restype = ctypes.c_char_p
        self._library.temporal_conv_backward.restype = ctypes.c_char_p

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        allow_tf32: bool = False,
        norm: Norm | None = None,
        training: bool = True,
        moments: bool = False,
    ) -> Any:
        """What the operation returns, differentiable in all inputs."""
        settings = stride, padding, dilation, allow_tf32
        wide = torch.promote_types(x.dtype, torch.float32)
        *numbers, eps = (None, None, None, 0.0) if norm is None else (*(each.to(wide) for each in norm[:3]), norm[3])

        class OnHost(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *values: Tensor | None) -> tuple[Tensor, Tensor]:
                made = self.forward(*values, numbers[2], eps, training, *settings)
                ctx.save_for_backward(*values)
                ctx.mark_non_differentiable(made[1])
                return made

            @staticmethod
            def backward(ctx: Any, grad_y: Tensor, _: None) -> tuple[Tensor | None, ...]:
                x, weight, _, *norm = ctx.saved_tensors
                for_x, for_weight, for_bias, *for_norm = ctx.needs_input_grad
                wanted = for_x or any(for_norm), for_weight, for_bias
                gradients = self.backward(grad_y, x, weight, *norm, numbers[2], eps, training, *settings, *wanted)
                asked = ctx.needs_input_grad
                return tuple(each if want else None for each, want in zip(gradients, asked, strict=True))

        y, made = OnHost.apply(x, weight, bias, *numbers[:2])
        return (y, made) if moments else y

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> tuple[Tensor, Tensor]:
        """As `ikem_ext::temporal_conv_normed`."""
        arguments, _kept = self._arguments(x, weight, bias, *settings)
        y = empty_like_x(x, (arguments.clips, arguments.out_channels, arguments.out_frames, arguments.joints))
        moments = torch.full((2, len(weight)), torch.nan, dtype=torch.promote_types(x.dtype, torch.float32))
        self._call("temporal_conv_forward", arguments, y, moments)
        return y, moments

    def backward(self, grad_y: Tensor, x: Tensor, weight: Tensor, *settings: Any) -> tuple[Tensor | None, ...]:
        """As `ikem_ext::temporal_conv_normed_backward`, with None for what is not asked for."""
        *settings, for_x, for_weight, for_bias = settings
        if for_x and settings[0] is not None:
            x = x.contiguous(memory_format=torch.channels_last if is_channels_last(x) else torch.contiguous_format)
        arguments, _kept = self._arguments(x, weight, None, *settings)
        gradients = [
            torch.empty_strided(x.shape, x.stride(), dtype=x.dtype) if for_x else None,
            torch.empty_like(weight, memory_format=torch.contiguous_format) if for_weight else None,
            weight.new_empty(len(weight)) if for_bias else None,
            *(None if each is None or not for_x else torch.empty_like(each) for each in settings[:2]),
        ]
        for each in gradients:
            if each is not None:
                each.fill_(torch.nan)
        self._call("temporal_conv_backward", arguments, grad_y, *gradients)
        return tuple(gradients)

    def _arguments(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        norm_moments: Tensor | None,
        eps: float,
        training: bool,
        stride: int,
        padding: int,
        dilation: int,
        allow_tf32: bool,
    ) -> tuple[Arguments, Any]:
        """And what has to live as long as they do."""
        clips, in_channels, frames, joints = x.shape
        out_channels, _, taps = weight.shape
        out_frames = (frames + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
        strides = torch.tensor(x.stride()), torch.tensor(weight.stride())
        numbers = [None if each is None else each.contiguous() for each in (norm_weight, norm_bias)]
        numbers += [None] * 2 if norm_moments is None else [each.contiguous() for each in norm_moments]
        sizes = (
            clips, in_channels, out_channels, frames, out_frames, joints, taps, stride, dilation, padding, allow_tf32,
            is_channels_last(x), training, eps,
        )  # fmt: skip
        addresses = map(address, (x, weight, bias, *strides, *numbers))
        return Arguments(*sizes, *addresses), (strides, numbers)

    def _call(self, function: str, arguments: Arguments, y: Tensor, *others: Tensor | None) -> None:
        strides = torch.tensor(y.stride())
        error = getattr(self._library, function)(
            DTYPES.index(y.dtype), ctypes.byref(arguments), pointer(y), pointer(strides), *map(pointer, others)
        )
        assert error is None, error

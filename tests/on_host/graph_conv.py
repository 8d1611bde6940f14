"""`graph_conv` by its CUDA kernels on the host."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from operation_checks import DTYPES
from torch import Tensor

from . import address, empty_like_x, pointer

NAMES = ("x", "weight", "bias", "adjacency")
ORDERS = ("aggregate first", "transform first")


class Arguments(ctypes.Structure):
    """The structure of the same name in graph_conv_on_host.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in "groups clips parts in_channels out_channels frames joints".split()),
        *((name, ctypes.c_int64) for name in "out_joints per_clip per_channel transform_first allow_tf32".split()),
        *((name, ctypes.c_void_p) for name in NAMES),
        *((f"{name}_strides", ctypes.c_void_p) for name in NAMES),
    )


class HostGraphConv:
    """`graph_conv` and its gradients by the CUDA kernels on the host."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.graph_conv_forward.restype = ctypes.c_char_p
        self._library.graph_conv_backward.restype = ctypes.c_char_p

    def __call__(
        self, *values: Tensor | None, order: str, allow_tf32: bool = False, found: list[Tensor] | None = None
    ) -> Tensor:
        """The output, differentiable in all inputs; its moments are put among those ``found``, if wanted."""

        class OnHost(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *values: Tensor | None) -> Tensor:
                ctx.save_for_backward(*values)
                y, moments = self.forward(values, order, allow_tf32, found is not None)
                if found is not None:
                    found.append(moments)
                return y

            @staticmethod
            def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
                return self.backward(grad_y, ctx.saved_tensors, ctx.needs_input_grad, order, allow_tf32)

        return OnHost.apply(*values)

    def forward(
        self, values: tuple[Tensor | None, ...], order: str, allow_tf32: bool, with_moments: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        x, weight, _, adjacency = values
        moments = None
        if with_moments:
            wide = torch.promote_types(x.dtype, torch.float32)
            moments = torch.full((*x.shape[:-4], 2, weight.shape[-2]), torch.nan, dtype=wide)
        y = empty_like_x(x, (*x.shape[:-3], weight.shape[-2], x.shape[-2], adjacency.shape[-1]))
        arguments, _strides = self._arguments(values, order, allow_tf32)
        strides = strides_of(y, x.dim() == 5)
        error = self._library.graph_conv_forward(
            DTYPES.index(x.dtype), ctypes.byref(arguments), pointer(y), pointer(strides), pointer(moments)
        )
        assert error is None, error
        return y, moments

    def backward(
        self,
        grad_y: Tensor,
        values: tuple[Tensor | None, ...],
        wanted: tuple[bool, ...],
        order: str,
        allow_tf32: bool,
    ) -> tuple[Tensor | None, ...]:
        arguments, _strides = self._arguments(values, order, allow_tf32)
        x = values[0]
        strides = strides_of(grad_y, x.dim() == 5)
        gradients = [
            torch.full_like(value, torch.nan, memory_format=torch.contiguous_format) if asked else None
            for value, asked in zip(values, wanted, strict=True)
        ]
        if wanted[0]:
            gradients[0] = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype).fill_(torch.nan)
        error = self._library.graph_conv_backward(
            DTYPES.index(x.dtype), ctypes.byref(arguments), pointer(grad_y), ctypes.c_void_p(strides.data_ptr()),
            *(pointer(gradient) for gradient in gradients),
        )  # fmt: skip
        assert error is None, error
        return tuple(gradients)

    def _arguments(self, values: tuple[Tensor | None, ...], order: str, allow_tf32: bool) -> tuple[Arguments, Any]:
        x, weight, _, adjacency = values
        grouped = x.dim() == 5
        per_clip, per_channel = (adjacency.dim() - grouped >= axes for axes in (4, 5))
        strides = [
            strides_of(x, grouped), strides_of(weight, grouped),
            None if values[2] is None else strides_of(values[2], grouped),
            strides_of(adjacency, grouped, per_clip, True, per_channel, True, True),
        ]  # fmt: skip
        sizes = (
            x.shape[0] if grouped else 1, x.shape[-4], weight.shape[-3], x.shape[-3], weight.shape[-2], x.shape[-2],
            x.shape[-1], adjacency.shape[-1], per_clip, per_channel, order == ORDERS[1], allow_tf32,
        )  # fmt: skip
        return Arguments(*sizes, *(address(value) for value in values), *(address(each) for each in strides)), strides


def strides_of(tensor: Tensor, grouped: bool, *present: bool) -> Tensor:
    """Strides by axis, 0 for those that the tensor does not have."""
    own = iter(tensor.stride())
    present = present or (True,) * (tensor.dim() - grouped)
    return torch.tensor([next(own) if axis else 0 for axis in (grouped, *present)])

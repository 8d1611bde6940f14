"""`batch_norm` by its CUDA kernels on the host."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from operation_checks import DTYPES
from torch import Tensor

from . import address

EPS = 1e-5


class Arguments(ctypes.Structure):
    """The structure of the same name in batch_norm_on_host.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in "outer channels inner training relu seed".split()),
        *((name, ctypes.c_double) for name in "dropout eps".split()),
        *((name, ctypes.c_void_p) for name in "x weight bias mean variance residual".split()),
    )


class HostBatchNorm:
    """`batch_norm` and its gradients by the CUDA kernels on the host."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.batch_norm_forward.restype = ctypes.c_char_p
        self._library.batch_norm_backward.restype = ctypes.c_char_p

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor | None = None,
        variance: Tensor | None = None,
        *,
        seed: int = 0,
        dropout: float = 0.0,
        residual: Tensor | None = None,
        relu: bool = False,
        as_bytes: bool = False,
    ) -> Tensor:
        """The output, differentiable; by the batch unless mean and variance are given. ``as_bytes``: the backward pass
        learns from bytes what went through the ReLU, else from the output.
        """
        options = {"relu": relu, "seed": seed, "dropout": dropout, "eps": EPS}

        class OnHost(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
                y, *used = self.forward(x, weight, bias, mean, variance, residual, **options)
                through = y if relu and not as_bytes else None
                positive = (y > 0).view(torch.int8) if relu and as_bytes else None
                ctx.save_for_backward(x, weight, bias, residual, through, positive, *used)
                return y

            @staticmethod
            def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
                x, weight, bias, residual, y, through, *used = ctx.saved_tensors
                given = {**options, "training": mean is None}
                return self.backward(grad_y, x, y, through, weight, bias, *used, residual, **given)

        return OnHost.apply(x, weight, bias, residual)

    def forward(self, x: Tensor, *tensors: Tensor | None, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The output, and by which mean and variance; of weight, bias, mean, variance and residual."""
        y, *used = empty_like(x), *(torch.full_like(tensors[0], torch.nan) for _ in range(2))
        self._run("forward", x, self._arguments(x, *tensors, **options), y, *used)
        return y, *used

    def backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        y: Tensor | None,
        through: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        residual: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor | None, ...]:
        """The gradients of x, weight, bias and residual."""
        call = self._arguments(x, weight, bias, mean, variance, residual, **options)
        grads = [empty_like(x), *(torch.full_like(weight, torch.nan) for _ in range(2))]
        grads.append(None if residual is None else empty_like(x))
        self._run("backward", x, call, torch.empty_like(x).copy_(grad_y), y, through, *grads)
        return tuple(grads)

    def _run(self, name: str, x: Tensor, arguments: Arguments, *tensors: Tensor | None) -> None:
        function = getattr(self._library, f"batch_norm_{name}")
        pointers = (ctypes.c_void_p(address(tensor)) for tensor in tensors)
        error = function(DTYPES.index(x.dtype), ctypes.byref(arguments), *pointers)
        assert error is None, error

    def _arguments(self, x: Tensor, *tensors: Tensor | None, training: bool = False, **options: Any) -> Arguments:
        n, channels, *positions = x.shape
        inner = positions[0] * positions[1]
        last = channels > 1 and x.stride(1) == 1 and not x.is_contiguous()
        sizes = (n * inner, channels, 1) if last else (n, channels, inner)
        settings = {**options, "training": training}
        return Arguments(
            *sizes, *(settings[name] for name, _ in Arguments._fields_[3:8]), address(x), *map(address, tensors)
        )


def empty_like(x: Tensor) -> Tensor:
    """Filled with NaN, in memory as x is."""
    return torch.empty_like(x).fill_(torch.nan)

"""The operations of a block by their CUDA kernels on the host, in the place of those for the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import is_channels_last
from .batch_norm import HostBatchNorm
from .graph_conv import ORDERS, HostGraphConv
from .temporal_conv import HostTemporalConv

WITHOUT_NORM = None, None, None, 0.0, True


def there(tensor: Tensor | None, like: Tensor) -> Tensor:
    """Operations return an empty tensor for what is not asked for."""
    return like.new_empty(0) if tensor is None else tensor


class HostOperations:
    """The operations of a block under their names, by the kernels for CUDA; notes down which were called."""

    def __init__(self, library: Callable[[str], Path]) -> None:
        self._graph_conv = HostGraphConv(library("graph_conv"))
        self._temporal_conv = HostTemporalConv(library("temporal_conv"))
        self._batch_norm = HostBatchNorm(library("batch_norm"))
        self.called: set[str] = set()

    def put_in_place(self, library: torch.library.Library) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns that kernels are overridden
            for name in (
                "graph_conv", "graph_conv_moments", "graph_conv_backward", "temporal_conv", "temporal_conv_backward",
                "temporal_conv_normed", "temporal_conv_normed_backward", "batch_norm", "batch_norm_backward",
            ):  # fmt: skip
                library.impl(name, self._noted(name), "CPU")

    def _noted(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.called.add(name)
            return getattr(self, name)(*arguments)

        return call

    @staticmethod
    def _order(weight: Tensor) -> str:
        """Sums over the joints where there are fewer channels."""
        return ORDERS[weight.shape[-1] > weight.shape[-2]]

    def graph_conv(self, *arguments: Any) -> Tensor:
        *values, allow_tf32 = arguments
        return self._graph_conv.forward(values, self._order(values[1]), allow_tf32)[0]

    def graph_conv_moments(self, *arguments: Any) -> tuple[Tensor, Tensor | None]:
        *values, allow_tf32 = arguments
        return self._graph_conv.forward(values, self._order(values[1]), allow_tf32, with_moments=True)

    def graph_conv_backward(self, grad_y: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        values, wanted, allow_tf32 = arguments[:4], arguments[4:8], arguments[8]
        gradients = self._graph_conv.backward(grad_y, values, wanted, self._order(values[1]), allow_tf32)
        return tuple(there(each, grad_y) for each in gradients)

    def temporal_conv(self, x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
        return self._temporal_conv.forward(x, weight, bias, *WITHOUT_NORM, *settings)[0]

    def temporal_conv_backward(self, grad_y: Tensor, x: Tensor, weight: Tensor, *settings: Any) -> tuple[Tensor, ...]:
        gradients = self._temporal_conv.backward(grad_y, x, weight, *WITHOUT_NORM, *settings)
        return tuple(there(each, grad_y) for each in gradients[:3])

    def temporal_conv_normed(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        return self._temporal_conv.forward(*arguments)

    def temporal_conv_normed_backward(self, grad_y: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        return tuple(there(each, grad_y) for each in self._temporal_conv.backward(grad_y, *arguments))

    def batch_norm(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor | None,
        variance: Tensor | None,
        residual: Tensor | None,
        seed: Tensor | None,
        dropout: float,
        eps: float,
        relu: bool,
        training: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, residual = (None if each is None else dense(each, x) for each in (x, residual))
        options = {"dropout": dropout, "eps": eps, "relu": relu, "seed": 0 if seed is None else int(seed)}
        given = (None if each is None else each.contiguous() for each in (mean, variance))
        return self._batch_norm.forward(x, weight, bias, *given, residual, **options)

    def batch_norm_backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        y: Tensor | None,
        weight: Tensor,
        mean: Tensor,
        variance: Tensor,
        seed: Tensor | None,
        dropout: float,
        eps: float,
        training: bool,
        for_residual: bool,
    ) -> tuple[Tensor, ...]:
        x, grad_y, y = (None if each is None else dense(each, x) for each in (x, grad_y, y))
        through = y if y is not None and y.dtype == torch.int8 else None
        options = {"dropout": dropout, "eps": eps, "relu": False, "seed": 0 if seed is None else int(seed)}
        gradients = self._batch_norm.backward(
            grad_y, x, None if through is not None else y, through, weight, None, mean.contiguous(),
            variance.contiguous(), x if for_residual else None, training=training, **options,
        )  # fmt: skip
        return tuple(there(each, x) for each in gradients)


def dense(tensor: Tensor, x: Tensor) -> Tensor:
    """In memory as x is, if that is dense, or contiguous."""
    return tensor.contiguous(memory_format=torch.channels_last if is_channels_last(x) else torch.contiguous_format)

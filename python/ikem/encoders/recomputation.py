"""Functions that keep their input alone and are made again in the backward pass.

Unlike `torch.utils.checkpoint` they make only what is cheap again, and running statistics take part once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ikem_ext.nn import TemporalConv

Make = Callable[[Tensor, bool], Tensor]


class _Again:
    """Makes again, for the backward pass, what the forward pass made of a function's first argument."""

    def __init__(self, make: Make, x: Tensor) -> None:
        self.make = make
        device = x.device.type
        enabled = torch.is_autocast_enabled(device)
        self.autocast = torch.autocast(device, torch.get_autocast_dtype(device), enabled=enabled, cache_enabled=False)

    def __call__(self, x: Tensor) -> tuple[Tensor, GradientEdge, Tensor]:
        """Return ``x`` as a leaf, and what ``make`` makes of it, running statistics apart: as an edge, and detached."""
        with torch.enable_grad(), self.autocast:
            x = x.detach().requires_grad_()
            made = self.make(x, False)
        return x, get_gradient_edge(made), made.detach()


def _gradients(
    made: GradientEdge, inputs: Sequence[Tensor], wanted: Sequence[bool], grad: Tensor
) -> Iterator[Tensor | None]:
    asked = [each for each, want in zip(inputs, wanted, strict=True) if want]
    found = iter(torch.autograd.grad((made,), asked, (grad,)) if asked else ())
    return (next(found) if want else None for want in wanted)


class _Remade(torch.autograd.Function):
    """``make(x, True)``, of which only ``x`` is kept: the backward pass differentiates ``make(x, False)``."""

    @staticmethod
    def forward(ctx: Any, make: Make, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.again = _Again(make, x)
        ctx.save_for_backward(x, *parameters)
        return make(x, True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        x, edge, made = ctx.again(x)
        del made  # its gradient does not need it
        return None, *_gradients(edge, [x, *parameters], ctx.needs_input_grad[1:], grad)


class _ConvOfRemade(torch.autograd.Function):
    """``conv(make(x, True))``, of which only ``x`` is kept; the convolution itself is not made again."""

    @staticmethod
    def forward(
        ctx: Any, make: Make, conv: TemporalConv, weight: Tensor, bias: Tensor, x: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.again, ctx.conv = _Again(make, x), conv
        ctx.save_for_backward(weight, x, *parameters)
        return conv(make(x, True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, x, *parameters = ctx.saved_tensors
        for_weight, for_bias, *wanted = ctx.needs_input_grad[2:]
        x, edge, made = ctx.again(x)
        dtype = made.dtype
        grad_made, grad_weight, grad_bias = _conv_gradients(
            ctx.conv, grad, made.to(grad.dtype), weight.to(grad.dtype), (any(wanted), for_weight, for_bias)
        )
        del made  # but for its norm, whose gradient needs it
        return (
            None,
            None,
            grad_weight.to(weight.dtype) if for_weight else None,
            grad_bias.to(weight.dtype) if for_bias else None,
            *_gradients(edge, [x, *parameters], wanted, grad_made.to(dtype) if any(wanted) else grad),
        )


def _conv_gradients(
    conv: TemporalConv, grad: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``conv(x)`` for x, weight and bias; of those not wanted anything."""
    if x.device.type == "cpu":
        grad_x, grad_weight, grad_bias = torch.ops.ikem_ext.temporal_conv_backward(
            grad, x, weight[..., 0], *conv.settings.values(), False, *wanted
        )
        return grad_x, grad_weight[..., None], grad_bias
    return torch.ops.aten.convolution_backward(
        grad, x, weight, [len(weight)], conv.stride, conv.padding, conv.dilation, False, (0, 0), 1, wanted
    )


def remade(make: Make, x: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """Return ``make(x, True)`` and keep ``x`` alone; the backward pass differentiates ``make(x, False)``.

    Args:
        make: of x and whether running statistics take part.
        x: the input.
        parameters: what else ``make`` is to be differentiated for.
    """
    return _Remade.apply(make, x, *parameters)


def conv_of_remade(make: Make, conv: TemporalConv, x: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """Return ``conv(make(x, True))`` as `remade` does; the convolution itself is not made again."""
    return _ConvOfRemade.apply(make, conv, conv.weight, conv.bias, x, *parameters)

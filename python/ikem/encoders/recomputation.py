"""Functions that keep their input alone and are made again in the backward pass.

Unlike `torch.utils.checkpoint` they make only what is cheap again, and running statistics take part once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ikem_ext import temporal_conv
from ikem_ext.nn import TemporalConv
from ikem_ext.nn.normalized import convolved_before, prologue, update_statistics
from ikem_ext.nn.temporal_conv import convolves_natively

Make = Callable[[Tensor, bool], Tensor]


class BeforeNorm(Protocol):
    """A module that makes, if a norm behind it takes them, the moments of what it makes."""

    def __call__(self, x: Tensor) -> Tensor:
        """Make it alone."""

    def before(self, norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Make both, or it and None."""


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


class _ConvOfNormed(torch.autograd.Function):
    """``conv(relu(norm(make(x))))`` and its moments, of which only ``x`` is kept, and what the norm went by.

    The backward pass makes ``make(x)`` again, and of the norm what it needs as it reads that.
    """

    @staticmethod
    def forward(
        ctx: Any,
        make: BeforeNorm,
        conv: TemporalConv,
        norm: nn.BatchNorm2d,
        weight: Tensor,
        bias: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        x: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        made, moments = make.before(norm, x)
        given = prologue(norm, made, moments)
        assert given is not None, "a norm that does not compute natively"
        ctx.again = _Again(lambda x, _: make(x), x)
        ctx.conv, ctx.norm_settings = conv, (norm.eps, norm.training)
        ctx.save_for_backward(weight, norm_weight, norm_bias, given[2], x, *parameters)
        y, moments_of_y = temporal_conv(
            made, conv.taps, bias, **conv.settings, norm=given, training=norm.training, moments=True
        )
        if moments is not None:
            update_statistics(norm, made, moments)
        ctx.mark_non_differentiable(moments_of_y)
        return y, moments_of_y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        weight, norm_weight, norm_bias, moments, x, *parameters = ctx.saved_tensors
        for_weight, for_bias, *for_norm = ctx.needs_input_grad[3:7]
        wanted = ctx.needs_input_grad[7:]
        x, edge, made = ctx.again(x)
        wide = torch.promote_types(grad.dtype, torch.float32)
        numbers = (each.to(wide) for each in (norm_weight, norm_bias, moments))
        grad_made, grad_weight, grad_bias, *grads_norm = torch.ops.ikem_ext.temporal_conv_normed_backward(
            grad,
            made.to(grad.dtype),
            weight.to(grad.dtype)[..., 0],
            *numbers,
            *ctx.norm_settings,
            *ctx.conv.settings.values(),
            False,
            any(wanted) or any(for_norm),
            for_weight,
            for_bias,
        )
        dtype = made.dtype
        del made  # its gradient does not need it
        return (
            *(None,) * 3,
            grad_weight[..., None].to(weight.dtype) if for_weight else None,
            grad_bias.to(weight.dtype) if for_bias else None,
            *(each.to(norm_weight.dtype) if want else None for each, want in zip(grads_norm, for_norm, strict=True)),
            *_gradients(edge, [x, *parameters], wanted, grad_made.to(dtype)),
        )


class _NormOfConv(torch.autograd.Function):
    """``norm(conv(x))``, of which only ``x`` is kept, and what the norm went by; of the norm nothing is made again."""

    @staticmethod
    def forward(
        ctx: Any,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d,
        norm_weight: Tensor,
        norm_bias: Tensor,
        x: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        made, moments = convolved_before(norm, conv, x)
        wide = torch.promote_types(made.dtype, torch.float32)
        norm_weight, norm_bias = norm_weight.to(wide), norm_bias.to(wide)
        given: Sequence[Tensor | None] = (None, None) if moments is None else moments.unbind()
        if not norm.training:
            given = [each.to(wide) for each in (norm.running_mean, norm.running_var) if each is not None]
        y, mean, variance = torch.ops.ikem_ext.batch_norm(
            made, norm_weight, norm_bias, *given, None, None, 0.0, norm.eps, False, norm.training
        )
        if norm.training:
            update_statistics(norm, made, torch.stack((mean, variance)))
        ctx.again = _Again(lambda x, _: conv(x), x)
        ctx.norm_settings = norm.eps, norm.training
        ctx.save_for_backward(norm_weight, mean, variance, x, *parameters)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        norm_weight, mean, variance, x, *parameters = ctx.saved_tensors
        x, edge, made = ctx.again(x)
        grad_made, *grads_norm, _ = torch.ops.ikem_ext.batch_norm_backward(
            grad, made, None, norm_weight, mean, variance, None, 0.0, *ctx.norm_settings, False
        )
        del made
        for_norm = ctx.needs_input_grad[2:4]
        return (
            *(None,) * 2,
            *(each if want else None for each, want in zip(grads_norm, for_norm, strict=True)),
            *_gradients(edge, [x, *parameters], ctx.needs_input_grad[4:], grad_made),
        )


def _conv_gradients(
    conv: TemporalConv, grad: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``conv(x)`` for x, weight and bias; of those not wanted anything."""
    if convolves_natively(conv, x):
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


def norm_of_conv(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Return ``norm(conv(x))`` and keep ``x`` alone.

    Args:
        conv: the convolution.
        norm: computes natively (:func:`ikem_ext.nn.normalized.computes_natively`).
        x: the input.
    """
    return _NormOfConv.apply(conv, norm, norm.weight, norm.bias, x, *conv.parameters())


def conv_of_normed(
    make: BeforeNorm,
    norm: nn.BatchNorm2d,
    conv: TemporalConv,
    x: Tensor,
    parameters: Iterable[Tensor],
) -> tuple[Tensor, Tensor]:
    """Return ``conv(relu(norm(make(x))))`` and its moments and keep ``x`` alone.

    Args:
        make: the module before the norm.
        norm: computes natively (:func:`ikem_ext.nn.normalized.computes_natively`).
        conv: convolves natively (:func:`ikem_ext.nn.temporal_conv.convolves_natively`).
        x: the input.
        parameters: what ``make`` is to be differentiated for.
    """
    return _ConvOfNormed.apply(make, conv, norm, conv.weight, conv.bias, norm.weight, norm.bias, x, *parameters)


def conv_of_remade(make: Make, conv: TemporalConv, x: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """Return ``conv(make(x, True))`` as `remade` does; the convolution itself is not made again."""
    return _ConvOfRemade.apply(make, conv, conv.weight, conv.bias, x, *parameters)

"""Convolution over time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from . import _library
from ._checks import Shapes, cast_floating, check_same, not_for_torchscript
from ._features import empty_features
from ._transforms import mapped_first, one_by_one, register_derivatives, register_vmap, save

__all__ = ["temporal_conv"]


@not_for_torchscript
def temporal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Tensor:
    r"""Convolves the frames of every joint, as a two-dimensional convolution with a (K, 1) kernel does.

    .. math:: y[n,o,t,v] = b[o] + \sum_c \sum_k W[o,c,k]\, x[n,c,\, s t + d k - p,\, v]

    with stride s, dilation d and p frames of zeros on either side. It is computed in frequencies, frames being taken as
    a circle; each frequency is a product of matrices over the channels. This takes a quarter to a half of the
    multiplications of nine taps, with an error of the same size, since the transforms are orthogonal. In bfloat16, on
    processors that multiply it, what is multiplied in frequencies is rounded to it, too: the error is up to twice that
    of a sum over taps.

    Args:
        x: features, (N, C_in, T, V), on the CPU.
        weight: W, (C_out, C_in, K).
        bias: b, (C_out,), or None for none.
        stride: s, in frames.
        padding: p, in frames.
        dilation: d, in frames.

    Returns:
        (N, C_out, T', V) with T' = (T + 2 p - d (K - 1) - 1) // s + 1, in the dtype of ``x`` and summed in float32 or
        wider; in memory channels last if ``x`` is. Differentiable in all inputs, in reverse and in forward mode, as
        often as wanted, by autograd and ``torch.func`` alike, and mapped by ``torch.vmap``. Under autocast all inputs
        are cast to autocast's dtype. The same input gives the same bits each time, for any number of threads.

    Raises:
        ValueError: the shapes do not fit together, an argument is out of range, or the inputs lie on different devices,
            or not on the CPU: it is not built for CUDA, where ``torch.nn.functional.conv2d`` and
            :func:`ikem_ext.reference.temporal_conv` serve.
        TypeError: the dtypes differ or are not floating, or an input is sparse or nested.

    Source: the convolution of Yan et al., "Spatial Temporal Graph Convolutional Networks for Skeleton-Based Action
    Recognition", AAAI 2018, section 3.6; in frequencies as by Mathieu et al., "Fast Training of Convolutional Networks
    through FFTs", ICLR 2014, with tiles as by Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
    CVPR 2016.

    Example:
        >>> import torch, ikem_ext
        >>> x, weight = torch.randn(2, 16, 50, 25), torch.randn(32, 16, 9)
        >>> ikem_ext.temporal_conv(x, weight, stride=2, padding=4).shape
        torch.Size([2, 32, 25, 25])
    """
    check_temporal_conv(x, weight, bias, stride, padding, dilation)
    dtype = _library.autocast_dtype(x.device)
    if dtype is not None:
        x, weight, bias = (cast_floating(each, dtype) for each in (x, weight, bias))
    check_same(("x", x), weight=weight, bias=bias)
    _library.require_cpu("temporal_conv", x)
    return torch.ops.ikem_ext.temporal_conv(x, weight, bias, stride, padding, dilation)


def check_temporal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, dilation: int
) -> None:
    """Requires shapes and numbers that :func:`temporal_conv` takes."""
    shapes = Shapes()
    shapes.check("x", x, "N C_in T V")
    shapes.check("weight", weight, "C_out C_in K")
    if bias is not None:
        shapes.check("bias", bias, "C_out")
    for name, value, least in (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)):
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
    span = dilation * (weight.shape[2] - 1) + 1
    if x.shape[2] + 2 * padding < span or weight.shape[2] == 0:
        raise ValueError(
            f"weight: expected taps that span 1 to {x.shape[2] + 2 * padding} frames, those of x and of the padding, "
            f"got {weight.shape[2]} that span {span}"
        )


@torch.library.register_fake("ikem_ext::temporal_conv")
def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, dilation: int) -> Tensor:
    frames = (x.shape[2] + 2 * padding - dilation * (weight.shape[2] - 1) - 1) // stride + 1
    return empty_features(x, x.shape[0], weight.shape[0], frames, x.shape[3])


@torch.library.register_fake("ikem_ext::temporal_conv_backward")
def _fake_backward(grad_y: Tensor, x: Tensor, weight: Tensor, *settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    for_x, for_weight, for_bias = settings[3:]
    return (
        empty_features(x, *x.shape) if for_x else x.new_empty(0),
        x.new_empty(weight.shape if for_weight else 0),
        x.new_empty(weight.shape[:1] if for_bias else 0),
    )


# The operation is linear in the input and in weight and bias together, so its derivatives are convolutions again.


def _gradients(
    grad_y: Tensor, x: Tensor, weight: Tensor, settings: Sequence[int], wanted: Sequence[bool]
) -> list[Tensor | None]:
    gradients = torch.ops.ikem_ext.temporal_conv_backward(grad_y, x, weight, *settings, *wanted)
    return [gradient if asked else None for gradient, asked in zip(gradients, wanted, strict=True)]


def _tangent(
    x: Tensor,
    weight: Tensor,
    settings: Sequence[int],
    by_x: Tensor | None,
    by_weight: Tensor | None,
    by_bias: Tensor | None,
) -> Tensor | None:
    """The derivative along directions, None for zero."""
    conv = torch.ops.ikem_ext.temporal_conv
    along = None
    if by_weight is not None or by_bias is not None:
        along = conv(x, torch.zeros_like(weight) if by_weight is None else by_weight, by_bias, *settings)
    if by_x is not None:
        term = conv(by_x, weight, None, *settings)
        along = term if along is None else along + term
    return along


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, *ctx.settings = inputs
    save(ctx, x, weight)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    return *_gradients(grad_y, x, weight, ctx.settings, ctx.needs_input_grad[:3]), None, None, None


def _jvp(ctx: Any, saved: Sequence[Tensor], *tangents: Tensor | None) -> Tensor | None:
    x, weight = saved
    return _tangent(x, weight, ctx.settings, *tangents[:3])


register_derivatives("temporal_conv", setup_context=_setup_context, backward=_backward, jvp=_jvp)


def _setup_context_of_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.settings, ctx.wanted = inputs[3:6], inputs[6:]
    ctx.mark_non_differentiable(*(each for each, asked in zip(output, ctx.wanted, strict=True) if not asked))
    save(ctx, *inputs[:3])


def _double_backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
    """Of the gradients' inner product with what is ``given``: of ``grad_y`` with the derivative along it."""
    grad_y, x, weight = ctx.saved_tensors
    by_x, by_weight, _ = given
    for_grad_y, for_x, for_weight = ctx.needs_input_grad[:3]
    along = _tangent(x, weight, ctx.settings, *given) if for_grad_y else None
    grad_x = grad_weight = None
    if by_weight is not None and for_x:
        grad_x = _gradients(grad_y, x, by_weight, ctx.settings, (True, False, False))[0]
    if by_x is not None and for_weight:
        grad_weight = _gradients(grad_y, by_x, weight, ctx.settings, (False, True, False))[1]
    return along, grad_x, grad_weight, *(None,) * 6


def _jvp_of_backward(
    ctx: Any, saved: Sequence[Any], by_grad_y: Tensor | None, by_x: Tensor | None, by_weight: Tensor | None, *_: Any
) -> tuple[Tensor | None, ...]:
    grad_y, x, weight = saved
    for_x, for_weight, _ = ctx.wanted
    terms = []
    if by_grad_y is not None:
        terms.append(_gradients(by_grad_y, x, weight, ctx.settings, ctx.wanted))
    if by_x is not None:
        terms.append(_gradients(grad_y, by_x, weight, ctx.settings, (False, for_weight, False)))
    if by_weight is not None:
        terms.append(_gradients(grad_y, x, by_weight, ctx.settings, (for_x, False, False)))
    sums = (
        torch.zeros_like(like) if asked else None
        for like, asked in zip((x, weight, weight[:, 0, 0]), ctx.wanted, strict=True)
    )
    return tuple(
        None if total is None else reduce(torch.add, (each for each in tangents if each is not None), total)
        for total, *tangents in zip(sums, *terms, strict=True)
    )


register_derivatives(
    "temporal_conv_backward",
    setup_context=_setup_context_of_backward,
    backward=_double_backward,
    jvp=_jvp_of_backward,
)


@register_vmap("temporal_conv")
def _vmap(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Tensor, int]:
    x, *parameters = arguments
    if in_dims[1] is not None or in_dims[2] is not None:
        operation = torch.ops.ikem_ext.temporal_conv
        (y,), _ = one_by_one(lambda *each: (operation(*each),), info, in_dims, *arguments)
        return y, 0
    y = torch.ops.ikem_ext.temporal_conv(mapped_first(x, in_dims[0], info.batch_size).flatten(0, 1), *parameters)
    return y.unflatten(0, (info.batch_size, -1)), 0


@register_vmap("temporal_conv_backward")
def _vmap_of_backward(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> Any:
    return one_by_one(torch.ops.ikem_ext.temporal_conv_backward, info, in_dims, *arguments)

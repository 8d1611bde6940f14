"""Convolution over time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, Literal, overload

import torch
from torch import Tensor

from . import _library
from ._checks import Shapes, cast_floating, check_per_channel, check_same, not_for_torchscript
from ._features import empty_features, empty_moments
from ._transforms import (
    FORWARD_MODE,
    mapped_first,
    one_by_one,
    refuse,
    register_derivatives,
    register_end,
    register_vmap,
    save,
)

__all__ = ["temporal_conv"]


#: Weight and bias of a batch norm, (C,) each, the moments that it normalizes by, (2, C), and what variances have added.
Norm = tuple[Tensor, Tensor, Tensor, float]


@overload
def temporal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    norm: Norm | None = None,
    training: bool = True,
    moments: Literal[False] = False,
) -> Tensor: ...
@overload
def temporal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    norm: Norm | None = None,
    training: bool = True,
    moments: Literal[True],
) -> tuple[Tensor, Tensor]: ...
@not_for_torchscript
def temporal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    norm: Norm | None = None,
    training: bool = True,
    moments: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Convolves the frames of every joint, as a two-dimensional convolution with a (K, 1) kernel does.

    .. math:: y[n,o,t,v] = b[o] + \sum_c \sum_k W[o,c,k]\, x[n,c,\, s t + d k - p,\, v]

    with stride s, dilation d and p frames of zeros on either side. On the CPU it is computed in frequencies, frames
    being taken as a circle; each frequency is a product of matrices over the channels. This takes a quarter to a half
    of the multiplications of nine taps, with an error of the same size, since the transforms are orthogonal: of the
    same size over all frames of a circle, the largest of which decides. Where frames differ by orders of magnitude,
    small ones have the error of the large ones, and one that is not finite makes all of its circle so; an output that
    sees zeros alone is zero within that error. In
    bfloat16, on processors that multiply it, what is multiplied in frequencies is rounded to it, too: the error is up
    to twice that of a sum over taps. A single tap, few channels in bfloat16, and all of bfloat16 where the processor
    has tile registers, are summed as it is written. On CUDA it is one product of matrices over taps and channels, on
    tensor cores where the dtype allows, for which a tile of ``x`` is read once for all taps.

    Batch norms on either side need no passes over memory of their own: with ``norm`` the convolution sees

    .. math:: \mathrm{relu}\Big(\gamma\, \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta\Big)

    of x, which is made of x as it is read, in either pass, and with ``moments`` it returns what a batch norm behind it
    normalizes by, which is made as y is written.

    Args:
        x: features, (N, C_in, T, V).
        weight: W, (C_out, C_in, K).
        bias: b, (C_out,), or None for none.
        stride: s, in frames.
        padding: p, in frames.
        dilation: d, in frames.
        norm: :math:`(\gamma, \beta, m, \epsilon)`, the first two (C_in,) and m, the mean and the biased variance of
            each channel, (2, C_in); or None for neither norm nor ReLU.
        training: m is that of x, as :func:`ikem_ext.graph_conv` returns it, and the gradient is that of normalizing by
            the batch; else m is constant.
        moments: whether the mean and the biased variance of each channel of y are returned, too.

    Returns:
        y, (N, C_out, T', V) with T' = (T + 2 p - d (K - 1) - 1) // s + 1, in the dtype of ``x`` and summed in float32
        or wider; in memory channels last if ``x`` is. Differentiable in all inputs, in reverse and in forward mode, as
        often as wanted, by autograd and ``torch.func`` alike, and mapped by ``torch.vmap``. Under autocast all inputs
        but those of the norm are cast to autocast's dtype. The same input gives the same bits each time, on the CPU for
        any number of threads. On CUDA the products of float32 are rounded to TF32 where PyTorch allows that for
        convolutions: by default it does, ``torch.backends.cudnn.allow_tf32 = False`` ends it. (``torch.compile`` keeps
        what was set when it compiled.)

        With ``norm`` it is differentiable once, in reverse mode, in :math:`\gamma` and :math:`\beta`, too.

        With ``moments`` y and a tensor (2, C_out), float32 or wider: means and variances of y before it is rounded to
        its dtype. No gradient goes through them: that of :func:`ikem_ext.batch_norm`, which takes them, has in it that
        they are made of y.

    Raises:
        ValueError: the shapes do not fit together, an argument is out of range, or the inputs lie on different devices,
            or neither on the CPU nor on a CUDA device: elsewhere :func:`ikem_ext.reference.temporal_conv` does it in
            plain PyTorch.
        TypeError: the dtypes differ or are not floating, an input is sparse or nested, or stride, padding or dilation
            is no integer.
        RuntimeError: the inputs are on a CUDA device, and this build has no CUDA operations.

    Source: the convolution of Yan et al., "Spatial Temporal Graph Convolutional Networks for Skeleton-Based Action
    Recognition", AAAI 2018, section 3.6; in frequencies as by Mathieu et al., "Fast Training of Convolutional Networks
    through FFTs", ICLR 2014, with tiles as by Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
    CVPR 2016.

    Example:
        >>> import torch, ikem_ext
        >>> x, weight = torch.randn(2, 16, 50, 25), torch.randn(32, 16, 9)
        >>> ikem_ext.temporal_conv(x, weight, stride=2, padding=4).shape
        torch.Size([2, 32, 25, 25])

        The last part of a block, each of whose arrays is read and written once:

        >>> adjacency = ikem_ext.get_layout("ntu25").adjacency()
        >>> y, moments = ikem_ext.graph_conv(x, torch.randn(3, 16, 16), None, adjacency, moments=True)
        >>> norm = (torch.ones(16), torch.zeros(16), moments, 1e-5)
        >>> y, moments = ikem_ext.temporal_conv(y, torch.randn(16, 16, 9), padding=4, norm=norm, moments=True)
        >>> ikem_ext.batch_norm(y, torch.ones(16), torch.zeros(16), moments=moments, residual=x, relu=True).shape
        torch.Size([2, 16, 50, 25])
    """
    check_temporal_conv(x, weight, bias, stride, padding, dilation, norm, training)
    dtype = _library.autocast_dtype(x.device)
    if dtype is not None:
        x, weight, bias = (cast_floating(each, dtype) for each in (x, weight, bias))
    check_same(("x", x), weight=weight, bias=bias)
    _library.require_device("x", x)
    tf32 = _library.convolutions_in_tf32(x.device)
    if norm is None and not moments:
        return torch.ops.ikem_ext.temporal_conv(x, weight, bias, stride, padding, dilation, tf32)
    wide = torch.promote_types(x.dtype, torch.float32)
    *numbers, eps = (None, None, None, 0.0) if norm is None else (*(each.to(wide) for each in norm[:3]), norm[3])
    y, made = torch.ops.ikem_ext.temporal_conv_normed(
        x, weight, bias, *numbers, eps, training, stride, padding, dilation, tf32
    )
    return (y, made) if moments else y


def check_temporal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    dilation: int,
    norm: Norm | None,
    training: bool,
) -> None:
    """Requires shapes and numbers that :func:`temporal_conv` takes."""
    shapes = Shapes()
    shapes.check("x", x, "N C_in T V")
    shapes.check("weight", weight, "C_out C_in K")
    if bias is not None:
        shapes.check("bias", bias, "C_out")
    if norm is not None:
        if len(norm) != 4:
            raise ValueError(f"norm: expected weight, bias, moments and eps, got {len(norm)} of them")
        norm_weight, norm_bias, norm_moments, _ = norm
        check_per_channel(shapes, "norm_weight", norm_weight, "C_in", x)
        check_per_channel(shapes, "norm_bias", norm_bias, "C_in", x)
        check_per_channel(shapes, "norm_moments", norm_moments, "2 C_in", x)
        if training and x.numel() == x.shape[1]:
            raise ValueError(f"x: expected more than one value per channel in training, got shape {tuple(x.shape)}")
    for name, value, least in (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)):
        if not isinstance(value, (int, torch.SymInt)):
            raise TypeError(f"{name}: expected an integer number of frames, got {value!r}")
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
    span = dilation * (weight.shape[2] - 1) + 1
    if x.shape[2] + 2 * padding < span or weight.shape[2] == 0:
        raise ValueError(
            f"weight: expected taps that span 1 to {x.shape[2] + 2 * padding} frames, those of x and of the padding, "
            f"got {weight.shape[2]} that span {span}"
        )


@torch.library.register_fake("ikem_ext::temporal_conv")
def _fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, dilation: int, allow_tf32: bool
) -> Tensor:
    frames = (x.shape[2] + 2 * padding - dilation * (weight.shape[2] - 1) - 1) // stride + 1
    return empty_features(x, x.shape[0], weight.shape[0], frames, x.shape[3])


@torch.library.register_fake("ikem_ext::temporal_conv_normed")
def _fake_normed(x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> tuple[Tensor, Tensor]:
    y = _fake(x, weight, bias, *settings[-4:])
    return y, empty_moments(y)


@torch.library.register_fake("ikem_ext::temporal_conv_backward")
def _fake_backward(grad_y: Tensor, x: Tensor, weight: Tensor, *settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    for_x, for_weight, for_bias = settings[-3:]
    return (
        empty_features(x, *x.shape) if for_x else x.new_empty(0),
        x.new_empty(weight.shape if for_weight else 0),
        x.new_empty(weight.shape[:1] if for_bias else 0),
    )


@torch.library.register_fake("ikem_ext::temporal_conv_normed_backward")
def _fake_normed_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor, *settings: Any
) -> tuple[Tensor, ...]:
    gradients = _fake_backward(grad_y, x, weight, *settings[-7:])
    return *gradients, *(each.new_empty(each.shape if settings[-3] else 0) for each in (norm_weight, norm_bias))


# The operation is linear in the input and in weight and bias together, so its derivatives are convolutions again.


def _gradients(
    grad_y: Tensor, x: Tensor, weight: Tensor, settings: Sequence[int], wanted: Sequence[bool]
) -> list[Tensor | None]:
    gradients = list(torch.ops.ikem_ext.temporal_conv_backward(grad_y, x, weight, *settings, *wanted))
    if wanted[2] and x.shape[1] == 0:  # of no channels there is nothing to do but this
        gradients[2] = grad_y.sum((0, 2, 3))
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
    return *_gradients(grad_y, x, weight, ctx.settings, ctx.needs_input_grad[:3]), *(None,) * 4


def _jvp(ctx: Any, saved: Sequence[Tensor], *tangents: Tensor | None) -> Tensor | None:
    x, weight = saved
    return _tangent(x, weight, ctx.settings, *tangents[:3])


register_derivatives("temporal_conv", setup_context=_setup_context, backward=_backward, jvp=_jvp)


def _setup_context_of_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.settings, ctx.wanted = inputs[3:7], inputs[7:]
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
    return along, grad_x, grad_weight, *(None,) * 7


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


# With a norm there are gradients alone; without one those of above, and none through the moments.


def _setup_context_normed(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, norm_weight, norm_bias, norm_moments, *ctx.norm_settings = inputs[:8]
    ctx.settings, ctx.normed = inputs[8:], norm_weight is not None
    ctx.mark_non_differentiable(output[1])
    save(ctx, x, weight, norm_weight, norm_bias, norm_moments)


def _backward_normed(ctx: Any, grad_y: Tensor, _: None) -> tuple[Tensor | None, ...]:
    x, weight, *norm = ctx.saved_tensors
    for_x, *for_others = ctx.needs_input_grad[:3]
    if not ctx.normed:
        return *_gradients(grad_y, x, weight, ctx.settings, (for_x, *for_others)), *(None,) * 9
    for_norm = ctx.needs_input_grad[3:5]
    wanted = for_x or any(for_norm), *for_others
    made = torch.ops.ikem_ext.temporal_conv_normed_backward(
        grad_y, x, weight, *norm, *ctx.norm_settings, *ctx.settings, *wanted
    )
    asked = for_x, *for_others, *for_norm
    return *(each if want else None for each, want in zip(made, asked, strict=True)), *(None,) * 7


def _jvp_normed(ctx: Any, saved: Sequence[Any], *tangents: Tensor | None) -> tuple[Tensor | None, None]:
    if ctx.normed:
        refuse("temporal_conv with a norm", FORWARD_MODE)
    x, weight, *_ = saved
    return _tangent(x, weight, ctx.settings, *tangents[:3]), None


register_derivatives(
    "temporal_conv_normed", setup_context=_setup_context_normed, backward=_backward_normed, jvp=_jvp_normed
)
register_end("temporal_conv_normed_backward", "temporal_conv with a norm")


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


@register_vmap("temporal_conv_normed")
def _vmap_normed(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> Any:
    return one_by_one(torch.ops.ikem_ext.temporal_conv_normed, info, in_dims, *arguments)


@register_vmap("temporal_conv_normed_backward")
def _vmap_of_normed_backward(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> Any:
    return one_by_one(torch.ops.ikem_ext.temporal_conv_normed_backward, info, in_dims, *arguments)

"""Graph convolution over the joints of a skeleton."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from typing import Any, Literal, overload

import torch
from torch import Tensor

from . import _library
from ._checks import Shapes, cast_floating, check_same, not_for_torchscript
from ._features import empty_features, empty_moments
from ._transforms import mapped_first, register_derivatives, register_vmap, save

__all__ = ["graph_conv"]


@overload
def graph_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, adjacency: Tensor, *, moments: Literal[False] = False
) -> Tensor: ...
@overload
def graph_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, adjacency: Tensor, *, moments: Literal[True]
) -> tuple[Tensor, Tensor]: ...
@not_for_torchscript
def graph_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, adjacency: Tensor, *, moments: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Transforms the channels of every joint and sums over the joints, one term per part of the graph.

    .. math:: y[n,o,t,w] = \sum_k \sum_v A[k,v,w] \Big(\sum_c W[k,o,c]\, x[n,c,t,v] + b[k,o]\Big)

    Args:
        x: features, (N, C_in, T, V).
        weight: W, (K, C_out, C_in): one 1x1 convolution for each of the K parts of the graph.
        bias: b, (K, C_out), or None for none.
        adjacency: A, (K, V, W), or one for each clip, (N, K, V, W), or for each clip and output channel,
            (N, K, C_out, V, W).
        moments: whether the mean and the biased variance of each channel of the result are returned, too, which a batch
            norm behind it needs: they are made as it is written.

        All tensors may carry one more leading dimension G: G independent graph convolutions in one call.

    Returns:
        y, (N, C_out, T, W), or (G, N, C_out, T, W), in the dtype of ``x`` and summed in float32 or wider; in memory
        channels last if ``x`` is. Differentiable in all inputs, in reverse and in forward mode, as often as wanted, by
        autograd and ``torch.func`` alike, and mapped by ``torch.vmap``; only the gradients asked for are made, that of
        the adjacency for all its entries, zero or not. Under autocast all inputs are cast to autocast's dtype.

        Zeros of an adjacency that is not per channel are left out of the sum over joints (also where they would meet
        infinity), sums over channels and over joints are made in the cheaper order, and the same input gives the same
        bits each time, on the CPU for any number of threads. On CUDA the products of float32 are rounded to TF32 where
        PyTorch allows that for convolutions, which one with 1x1 kernels would be: by default it does,
        ``torch.backends.cudnn.allow_tf32 = False`` ends it. (``torch.compile`` keeps what was set when it compiled.)

        With ``moments`` y and a tensor (2, C_out), or (G, 2, C_out), float32 or wider: means and variances of y before
        it is rounded to its dtype; on the CPU with an adjacency for each channel after that, by a pass of their own. No
        gradient goes through them: that of :func:`ikem_ext.temporal_conv` and :func:`ikem_ext.batch_norm`, which take
        them, has in it that they are made of y.

    Raises:
        ValueError: the shapes do not fit together, or the inputs lie on different devices, or neither on the CPU nor
            on a CUDA device: elsewhere :func:`ikem_ext.reference.graph_conv` does it in plain PyTorch.
        TypeError: the dtypes differ or are not floating, or an input is sparse or nested.
        RuntimeError: the inputs are on a CUDA device, and this build has no CUDA operations.

    Source: Yan et al., "Spatial Temporal Graph Convolutional Networks for Skeleton-Based Action Recognition",
    AAAI 2018, eq. 10; the adjacency per clip as in Shi et al. (2s-AGCN), CVPR 2019, eq. 3, and per clip and
    channel as in Chen et al. (CTR-GCN), ICCV 2021, eq. 7.

    Example:
        >>> import torch, ikem_ext
        >>> adjacency = ikem_ext.get_layout("ntu25").adjacency()
        >>> x, weight, bias = torch.randn(2, 3, 50, 25), torch.randn(3, 16, 3), torch.zeros(3, 16)
        >>> ikem_ext.graph_conv(x, weight, bias, adjacency).shape
        torch.Size([2, 16, 50, 25])
    """
    shapes = Shapes()
    shapes.check("x", x, "N C_in T V", "G N C_in T V")
    group = "G " if x.dim() == 5 else ""
    shapes.check("weight", weight, group + "K C_out C_in")
    if bias is not None:
        shapes.check("bias", bias, group + "K C_out")
    shapes.check("adjacency", adjacency, *(group + form for form in ("K V W", "N K V W", "N K C_out V W")))
    dtype = _library.autocast_dtype(x.device)
    if dtype is not None:
        x, weight, bias, adjacency = (cast_floating(each, dtype) for each in (x, weight, bias, adjacency))
    check_same(("x", x), weight=weight, bias=bias, adjacency=adjacency)
    _library.require_device("x", x)
    operation = torch.ops.ikem_ext.graph_conv_moments if moments else torch.ops.ikem_ext.graph_conv
    return operation(x, weight, bias, adjacency, _library.convolutions_in_tf32(x.device))


@torch.library.register_fake("ikem_ext::graph_conv")
def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, adjacency: Tensor, allow_tf32: bool) -> Tensor:
    return empty_features(x, *x.shape[:-3], weight.shape[-2], x.shape[-2], adjacency.shape[-1])


@torch.library.register_fake("ikem_ext::graph_conv_moments")
def _fake_with_moments(*arguments: Any) -> tuple[Tensor, Tensor]:
    y = _fake(*arguments)
    return y, empty_moments(y)


@torch.library.register_fake("ikem_ext::graph_conv_backward")
def _fake_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, adjacency: Tensor, *settings: bool
) -> tuple[Tensor, ...]:
    for_x, *others, _ = settings
    return (
        empty_features(x, *x.shape) if for_x else x.new_empty(0),
        *(
            x.new_empty(tensor.shape if tensor is not None and asked else 0)
            for tensor, asked in zip((weight, bias, adjacency), others, strict=True)
        ),
    )


# The operation is linear in each factor, so its derivatives are graph convolutions again, of any order.


def _with_one_replaced(
    arguments: Sequence[Tensor | None], by: Sequence[Tensor | None]
) -> Iterator[tuple[tuple[Tensor | None, ...], tuple[bool, ...]]]:
    """The terms of the derivative along ``by`` (None for zero) of x, weight, bias and adjacency.

    Yields the arguments of each with one factor replaced, weight and bias being one, and which of them were not.
    """
    x, weight, bias, adjacency = arguments
    by_x, by_weight, by_bias, by_adjacency = by
    if by_x is not None:
        yield (by_x, weight, None, adjacency), (False, True, False, True)
    if by_weight is not None or by_bias is not None:
        assert weight is not None
        by_weight = torch.zeros_like(weight) if by_weight is None else by_weight
        yield (x, by_weight, by_bias, adjacency), (True, False, False, True)
    if by_adjacency is not None:
        yield (x, weight, bias, by_adjacency), (True, True, bias is not None, False)


def _added(terms: Iterable[Tensor | None]) -> Tensor | None:
    """The sum of those that are not None; None of none."""
    there = [term for term in terms if term is not None]
    return reduce(torch.add, there) if there else None


def _added_by_argument(terms: Iterable[Sequence[Tensor | None]]) -> list[Tensor | None]:
    """The sums of the gradients for x, weight, bias and adjacency."""
    return [_added(each) for each in zip((None,) * 4, *terms, strict=True)]


def _gradients(
    grad_y: Tensor, arguments: Sequence[Tensor | None], wanted: Sequence[bool], allow_tf32: bool
) -> tuple[Tensor | None, ...]:
    gradients = torch.ops.ikem_ext.graph_conv_backward(grad_y, *arguments, *wanted, allow_tf32)
    return tuple(gradient if asked else None for gradient, asked in zip(gradients, wanted, strict=True))


def _tangent(arguments: Sequence[Tensor | None], tangents: Sequence[Tensor | None], allow_tf32: bool) -> Tensor | None:
    terms = _with_one_replaced(arguments, tangents)
    return _added(torch.ops.ikem_ext.graph_conv(*term, allow_tf32) for term, _ in terms)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.allow_tf32 = inputs
    save(ctx, *tensors)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    return *_gradients(grad_y, ctx.saved_tensors, ctx.needs_input_grad[:-1], ctx.allow_tf32), None


def _jvp(ctx: Any, arguments: Sequence[Tensor | None], *tangents: Tensor | None) -> Tensor | None:
    return _tangent(arguments, tangents[:-1], ctx.allow_tf32)


register_derivatives("graph_conv", setup_context=_setup_context, backward=_backward, jvp=_jvp)


# With moments it has the same ones; none go through the moments.


def _setup_context_with_moments(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    _setup_context(ctx, inputs, output[0])


def _backward_with_moments(ctx: Any, grad_y: Tensor, _: None) -> tuple[Tensor | None, ...]:
    return _backward(ctx, grad_y)


def _jvp_with_moments(ctx: Any, arguments: Sequence[Tensor | None], *tangents: Tensor | None) -> Any:
    return _jvp(ctx, arguments, *tangents), None


register_derivatives(
    "graph_conv_moments",
    setup_context=_setup_context_with_moments,
    backward=_backward_with_moments,
    jvp=_jvp_with_moments,
)


def _setup_context_of_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, _, _, _, _, ctx.allow_tf32 = inputs
    ctx.wanted = inputs[5:9]
    ctx.mark_non_differentiable(*(each for each, asked in zip(output, ctx.wanted, strict=True) if not asked))
    save(ctx, *tensors)


def _double_backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
    """Of the gradients' inner product with what is ``given``: of ``grad_y`` with the derivative along it."""
    grad_y, *arguments = ctx.saved_tensors
    for_grad_y, *for_arguments = ctx.needs_input_grad[:5]
    gradients = [
        _gradients(grad_y, term, [a and b for a, b in zip(kept, for_arguments, strict=True)], ctx.allow_tf32)
        for term, kept in _with_one_replaced(arguments, given)
    ]
    return (
        _tangent(arguments, given, ctx.allow_tf32) if for_grad_y else None,
        *_added_by_argument(gradients),
        *(None,) * 5,
    )


def _jvp_of_backward(
    ctx: Any, saved: Sequence[Any], by_grad_y: Tensor | None, *tangents: Tensor | None
) -> tuple[Tensor | None, ...]:
    grad_y, *arguments = saved
    terms = [
        _gradients(grad_y, term, [a and b for a, b in zip(kept, ctx.wanted, strict=True)], ctx.allow_tf32)
        for term, kept in _with_one_replaced(arguments, tangents[:4])
    ]
    if by_grad_y is not None:
        terms.append(_gradients(by_grad_y, arguments, ctx.wanted, ctx.allow_tf32))
    return tuple(
        torch.zeros_like(argument) if asked and tangent is None else tangent
        for tangent, argument, asked in zip(_added_by_argument(terms), arguments, ctx.wanted, strict=True)
    )


register_derivatives(
    "graph_conv_backward",
    setup_context=_setup_context_of_backward,
    backward=_double_backward,
    jvp=_jvp_of_backward,
)


class _MappedAsGroups:
    """Takes the mapped axis for that of the groups, or, where there are groups, the two for one."""

    def __init__(self, info: Any, x: Tensor, axis_of_x: int | None) -> None:
        self.size = info.batch_size
        self.grouped = x.dim() - (axis_of_x is not None) == 5

    def merged(self, argument: Any, axis: int | None) -> Any:
        if not isinstance(argument, Tensor):
            return argument
        mapped = mapped_first(argument, axis, self.size)
        return mapped.flatten(0, 1) if self.grouped else mapped

    def parted(self, result: Tensor) -> Tensor:
        return result.unflatten(0, (self.size, -1)) if self.grouped else result


@register_vmap("graph_conv")
def _vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
    groups = _MappedAsGroups(info, arguments[0], in_dims[0])
    y = torch.ops.ikem_ext.graph_conv(*map(groups.merged, arguments, in_dims))
    return groups.parted(y), 0


@register_vmap("graph_conv_moments")
def _vmap_with_moments(
    info: Any, in_dims: tuple[int | None, ...], *arguments: Any
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    groups = _MappedAsGroups(info, arguments[0], in_dims[0])
    y, moments = torch.ops.ikem_ext.graph_conv_moments(*map(groups.merged, arguments, in_dims))
    return (groups.parted(y), groups.parted(moments)), (0, 0)


@register_vmap("graph_conv_backward")
def _vmap_of_backward(
    info: Any, in_dims: tuple[int | None, ...], *arguments: Any
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    groups = _MappedAsGroups(info, arguments[1], in_dims[1])
    gradients = torch.ops.ikem_ext.graph_conv_backward(*map(groups.merged, arguments, in_dims))
    wanted = arguments[5:9]
    return (
        tuple(groups.parted(each) if asked else each for each, asked in zip(gradients, wanted, strict=True)),
        tuple(0 if asked else None for asked in wanted),
    )

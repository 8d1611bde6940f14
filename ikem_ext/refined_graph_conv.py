"""Graph convolution whose adjacency is mixed of relations between joints, for every clip and channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _library
from ._checks import Shapes, cast_floating, check_same, not_for_torchscript
from ._features import empty_features
from ._transforms import (
    one_by_one,
    register_derivatives,
    register_end,
    register_vmap,
    save,
    transforms_are_active,
)
from .graph_conv import _tangent

__all__ = ["refined_graph_conv"]


@not_for_torchscript
def refined_graph_conv(x: Tensor, weight: Tensor, bias: Tensor | None, relations: Tensor, mixing: Tensor) -> Tensor:
    r"""A graph convolution by adjacencies of each clip and channel, which are mixed of few relations and not stored.

    .. math:: y[n,o,t,w] = \sum_k \sum_v \Big(\sum_r M[k,o,r]\, B[n,k,r,v,w]\Big)
              \Big(\sum_c W[k,o,c]\, x[n,c,t,v] + b[k,o]\Big)

    It is ``graph_conv(x, weight, bias, adjacency)`` with an adjacency (N, K, C_out, V, W), many times the features in
    size, of which a few channels at a time are made in the processor's cache; likewise its gradient. For second
    derivatives and those in forward mode the adjacency is made as a whole.

    Args:
        x: features, (N, C_in, T, V), on the CPU.
        weight: W, (K, C_out, C_in): one 1x1 convolution for each of the K parts of the graph.
        bias: b, (K, C_out), or None for none.
        relations: B, (N, K, R, V, W).
        mixing: M, (K, C_out, R), with R > 0.

    Returns:
        (N, C_out, T, W), in the dtype of ``x`` and summed in float32 or wider; in memory channels last if ``x`` is.
        Differentiable in all inputs, in reverse and in forward mode, as often as wanted. Under autocast all inputs are
        cast to autocast's dtype. The same input gives the same bits each time, for any number of threads.

    Raises:
        ValueError: the shapes do not fit together, there are no relations, or the inputs lie on different devices, or
            not on the CPU: it is not built for CUDA, where :func:`ikem_ext.graph_conv` by the adjacency as a whole
            and :func:`ikem_ext.reference.refined_graph_conv` serve.
        TypeError: the dtypes differ or are not floating, or an input is sparse or nested.

    Source: Chen et al., "Channel-Wise Topology Refinement Graph Convolution for Skeleton-Based Action Recognition",
    ICCV 2021, eqs. 5 to 7.

    Example:
        >>> import torch, ikem_ext
        >>> x, weight, bias = torch.randn(2, 3, 50, 25), torch.randn(3, 16, 3), torch.zeros(3, 16)
        >>> relations, mixing = torch.randn(2, 3, 8, 25, 25), torch.randn(3, 16, 8)
        >>> ikem_ext.refined_graph_conv(x, weight, bias, relations, mixing).shape
        torch.Size([2, 16, 50, 25])
    """
    check_refined_graph_conv(x, weight, bias, relations, mixing)
    dtype = _library.autocast_dtype(x.device)
    if dtype is not None:
        x, weight, bias, relations, mixing = (
            cast_floating(each, dtype) for each in (x, weight, bias, relations, mixing)
        )
    check_same(("x", x), weight=weight, bias=bias, relations=relations, mixing=mixing)
    _library.require_cpu("refined_graph_conv", x)
    return torch.ops.ikem_ext.refined_graph_conv(x, weight, bias, relations, mixing)


def check_refined_graph_conv(x: Tensor, weight: Tensor, bias: Tensor | None, relations: Tensor, mixing: Tensor) -> None:
    """Requires shapes that :func:`refined_graph_conv` takes."""
    shapes = Shapes()
    shapes.check("x", x, "N C_in T V")
    shapes.check("weight", weight, "K C_out C_in")
    if bias is not None:
        shapes.check("bias", bias, "K C_out")
    shapes.check("relations", relations, "N K R V W")
    shapes.check("mixing", mixing, "K C_out R")
    if mixing.shape[2] == 0:
        raise ValueError("mixing: expected at least one relation, got none")


def mixed(relations: Tensor, mixing: Tensor) -> Tensor:
    """The adjacencies (N, K, C_out, V, W)."""
    return (mixing @ relations.flatten(-2)).unflatten(-1, relations.shape[-2:])


@torch.library.register_fake("ikem_ext::refined_graph_conv")
def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, relations: Tensor, mixing: Tensor) -> Tensor:
    return empty_features(x, x.shape[0], weight.shape[1], x.shape[2], relations.shape[-1])


@torch.library.register_fake("ikem_ext::refined_graph_conv_backward")
def _fake_backward(grad_y: Tensor, x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *others, for_x, for_weight, for_bias, for_relations, for_mixing = arguments
    wanted = (for_weight, for_bias, for_relations, for_mixing)
    return (
        empty_features(x, *x.shape) if for_x else x.new_empty(0),
        *(x.new_empty(each.shape if asked else 0) for each, asked in zip(others, wanted, strict=True)),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    save(ctx, *inputs)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    wanted = list(ctx.needs_input_grad)
    if torch.is_grad_enabled() or transforms_are_active():  # these gradients may be differentiated in turn
        return _differentiable_gradients(grad_y, ctx.saved_tensors, wanted)
    gradients = torch.ops.ikem_ext.refined_graph_conv_backward(grad_y, *ctx.saved_tensors, *wanted)
    return tuple(gradient if asked else None for gradient, asked in zip(gradients, wanted, strict=True))


def _differentiable_gradients(
    grad_y: Tensor, arguments: Sequence[Tensor], wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    x, weight, bias, relations, mixing = arguments
    *wanted_by_graph, for_relations, for_mixing = wanted
    *gradients, grad_adjacency = torch.ops.ikem_ext.graph_conv_backward(
        grad_y, x, weight, bias, mixed(relations, mixing), *wanted_by_graph, for_relations or for_mixing, False
    )
    others = (gradient if asked else None for gradient, asked in zip(gradients, wanted_by_graph, strict=True))
    grad_relations = grad_mixing = None
    if for_relations:
        grad_relations = mixed(grad_adjacency, mixing.mT)
    if for_mixing:
        grad_mixing = (grad_adjacency.flatten(-2) @ relations.flatten(-2).mT).sum(0)
    return *others, grad_relations, grad_mixing


def _jvp(ctx: Any, arguments: Sequence[Tensor], *tangents: Tensor | None) -> Tensor | None:
    *others, relations, mixing = arguments
    *along, by_relations, by_mixing = tangents
    terms = [
        mixed(*factors)
        for factors, asked in (((by_relations, mixing), by_relations), ((relations, by_mixing), by_mixing))
        if asked is not None
    ]
    by_adjacency = sum(terms[1:], terms[0]) if terms else None
    return _tangent((*others, mixed(relations, mixing)), (*along, by_adjacency), False)


register_derivatives("refined_graph_conv", setup_context=_setup_context, backward=_backward, jvp=_jvp)
register_end("refined_graph_conv_backward", "refined_graph_conv_backward")


@register_vmap("refined_graph_conv")
def _vmap(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Tensor, int]:
    (y,), _ = one_by_one(lambda *each: (torch.ops.ikem_ext.refined_graph_conv(*each),), info, in_dims, *arguments)
    return y, 0


@register_vmap("refined_graph_conv_backward")
def _vmap_of_backward(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> Any:
    return one_by_one(torch.ops.ikem_ext.refined_graph_conv_backward, info, in_dims, *arguments)

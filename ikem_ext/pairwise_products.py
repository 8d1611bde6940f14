"""Products of the features of each two joints, summed over channels and frames."""

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

__all__ = ["pairwise_products"]


@not_for_torchscript
def pairwise_products(x: Tensor, parts: int) -> Tensor:
    r"""For each part, the inner products of one half of its features at a joint with the other half at another joint.

    .. math:: y[n,k,v,w] = \sum_c \sum_t a[n,k,c,t,v]\, b[n,k,c,t,w]

    The scores of an attention between joints. Of the channels of ``x`` the first are C of a and C of b in part 0, then
    those of part 1.

    Args:
        x: a and b, (N, K * 2 * C, T, V), on the CPU.
        parts: K.

    Returns:
        (N, K, V, V), in the dtype of ``x`` and summed in float32 or wider. Differentiable in reverse and in forward
        mode, as often as wanted. Under autocast ``x`` is cast to autocast's dtype. The same input gives the same bits
        each time, for any number of threads.

    Raises:
        ValueError: ``x`` has no four axes, its channels are not halves of so many parts, or it does not lie on the CPU:
            it is not built for CUDA, where a product of matrices and :func:`ikem_ext.reference.pairwise_products`
            serve.
        TypeError: its dtype is not floating, or it is sparse or nested.

    Source: Shi et al., "Two-Stream Adaptive Graph Convolutional Networks for Skeleton-Based Action Recognition",
    CVPR 2019, eq. 4.

    Example:
        >>> import torch, ikem_ext
        >>> ikem_ext.pairwise_products(torch.randn(2, 3 * 2 * 16, 50, 25), parts=3).shape
        torch.Size([2, 3, 25, 25])
    """
    check_pairwise_products(x, parts)
    dtype = _library.autocast_dtype(x.device)
    if dtype is not None:
        x = cast_floating(x, dtype)
    check_same(("x", x))
    _library.require_cpu("pairwise_products", x)
    return torch.ops.ikem_ext.pairwise_products(x, parts)


def check_pairwise_products(x: Tensor, parts: int) -> None:
    """Requires what :func:`pairwise_products` takes."""
    Shapes().check("x", x, "N C T V")
    if parts < 1 or x.shape[1] % (2 * parts):
        raise ValueError(f"parts: expected to divide half the {x.shape[1]} channels of x, got {parts}")


def _halves(x: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """A and b, (N, K, C, T, V) each."""
    a, b = x.unflatten(1, (parts, 2, -1)).unbind(2)
    return a, b


@torch.library.register_fake("ikem_ext::pairwise_products")
def _fake(x: Tensor, parts: int) -> Tensor:
    return x.new_empty(x.shape[0], parts, x.shape[3], x.shape[3])


@torch.library.register_fake("ikem_ext::pairwise_products_backward")
def _fake_backward(grad_y: Tensor, x: Tensor, parts: int) -> Tensor:
    return empty_features(x, *x.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.parts = inputs
    save(ctx, x)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, None]:
    (x,) = ctx.saved_tensors
    if torch.is_grad_enabled() or transforms_are_active():  # the gradient may be differentiated in turn
        a, b = _halves(x, ctx.parts)
        by_a = torch.einsum("nkvw,nkctw->nkctv", grad_y, b)
        by_b = torch.einsum("nkvw,nkctv->nkctw", grad_y, a)
        return torch.stack((by_a, by_b), 2).flatten(1, 3), None
    return torch.ops.ikem_ext.pairwise_products_backward(grad_y, x, ctx.parts), None


def _jvp(ctx: Any, saved: Sequence[Tensor], by_x: Tensor | None, _: None) -> Tensor | None:
    if by_x is None:
        return None
    (a, b), (by_a, by_b) = (_halves(each, ctx.parts) for each in (saved[0], by_x))
    return torch.einsum("nkctv,nkctw->nkvw", by_a, b) + torch.einsum("nkctv,nkctw->nkvw", a, by_b)


register_derivatives("pairwise_products", setup_context=_setup_context, backward=_backward, jvp=_jvp)
register_end("pairwise_products_backward", "pairwise_products_backward")


@register_vmap("pairwise_products")
def _vmap(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Tensor, int]:
    (y,), _ = one_by_one(lambda *each: (torch.ops.ikem_ext.pairwise_products(*each),), info, in_dims, *arguments)
    return y, 0


@register_vmap("pairwise_products_backward")
def _vmap_of_backward(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Tensor, int]:
    operation = torch.ops.ikem_ext.pairwise_products_backward
    (y,), _ = one_by_one(lambda *each: (operation(*each),), info, in_dims, *arguments)
    return y, 0

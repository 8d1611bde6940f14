"""Dropout and ReLU that keep no more than a byte for each entry; dropout from cheap random bits, drawn again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MASK_PARTS = 8


class _DropOut(torch.autograd.Function):
    """Zeroes entries in place, without the factor 1 / (1 - p); draws the mask again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, p: float) -> Tensor:
        ctx.mark_dirty(y)
        ctx.drawn = y.shape, y.stride(), p, int(torch.empty((), dtype=torch.int64).random_())
        return masked(y, random_mask(*ctx.drawn), out=y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return masked(grad, random_mask(*ctx.drawn)), None


class _MaskedReLU(torch.autograd.Function):
    """ReLU in place that keeps a mask of the entries that went through instead of its output."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.mark_dirty(y)
        y.relu_()
        ctx.save_for_backward((y > 0).view(torch.int8))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (mask,) = ctx.saved_tensors
        return masked(grad, mask)


def drop_out(y: Tensor, p: float) -> Tensor:
    """Zero entries of a dense tensor on the CPU with probability p, in place, without the factor 1 / (1 - p)."""
    return _DropOut.apply(y, p)


def masked_relu(y: Tensor) -> Tensor:
    """Apply ReLU in place and keep one byte for each entry: for an output that nobody else keeps."""
    return _MaskedReLU.apply(y)


def masked(x: Tensor, mask: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return ``x * mask`` in the memory layout of the mask, int8 of zeros and ones, or write it to ``out``.

    In parts along the first axis: PyTorch casts a mask to the dtype of ``x`` before it multiplies.
    """
    out = torch.empty_like(mask, dtype=x.dtype) if out is None else out
    parts = (tensor.split(max(1, len(mask) // MASK_PARTS)) for tensor in (x, mask, out))
    for part, part_of_mask, part_of_out in zip(*parts, strict=True):
        torch.mul(part, part_of_mask, out=part_of_out)
    return out


def random_mask(shape: Sequence[int], stride: Sequence[int], p: float, seed: int) -> Tensor:
    """Draw zeros with probability p, else ones, in a dense memory layout on the CPU.

    An entry is 1 where 8 random bits are an integer of at least ``256 p`` (32 bits where that is no integer): PyTorch
    itself draws a double for every entry, which takes longer than the layers around.

    Returns:
        int8.

    Example:
        >>> mask = random_mask((100, 1000), (1000, 1), 0.25, seed=0)
        >>> mask.unique().tolist(), 0.74 < mask.float().mean().item() < 0.76
        ([0, 1], True)
    """
    size = math.prod(shape)
    bits, integer = (8, torch.int8) if (256 * p).is_integer() else (32, torch.int32)
    random = torch.Generator().manual_seed(seed)
    words = torch.empty(-(-size * bits // 64), dtype=torch.int64).random_(-(2**63), None, generator=random)
    mask = words.view(integer)[:size].ge_(round(p * 2**bits) - 2 ** (bits - 1))
    return mask.to(torch.int8).as_strided(shape, stride)

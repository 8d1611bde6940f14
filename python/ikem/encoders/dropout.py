"""Dropout from cheap random bits, whose mask is drawn again in the backward pass instead of kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _DropOut(torch.autograd.Function):
    """Zeroes entries in place, without the factor 1 / (1 - p); draws the mask again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, p: float) -> Tensor:
        ctx.mark_dirty(y)
        ctx.drawn = y.shape, y.stride(), p, int(torch.empty((), dtype=torch.int64).random_())
        return y.mul_(random_mask(*ctx.drawn))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * random_mask(*ctx.drawn), None


def drop_out(y: Tensor, p: float) -> Tensor:
    """Zero entries of a dense tensor on the CPU with probability p, in place, without the factor 1 / (1 - p)."""
    return _DropOut.apply(y, p)


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
    mask = words.view(integer)[:size] >= round(p * 2**bits) - 2 ** (bits - 1)
    return mask.view(torch.int8).as_strided(shape, stride)

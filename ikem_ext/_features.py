"""The memory layout of features, and of the moments of their channels."""

from __future__ import annotations

import torch
from torch import Tensor


def empty_features(x: Tensor, *sizes: int) -> Tensor:
    """Features (..., C, T, V), channels last where ``x`` is, else contiguous, as the native operations make them."""
    *batch, channels, frames, joints = sizes
    if x.shape[-3] > 1 and x.stride(-3) == 1 and not x.is_contiguous():
        turned = x.new_empty((*batch, frames, joints, channels)).movedim(-1, -3)
        return x.new_empty_strided(sizes, turned.stride())  # no view, which nobody may change in place
    return x.new_empty(sizes)


def empty_moments(y: Tensor) -> Tensor:
    """Mean and variance of each channel of features (..., N, C, T, V), as the native operations make them."""
    return y.new_empty((*y.shape[:-4], 2, y.shape[-3]), dtype=torch.promote_types(y.dtype, torch.float32))

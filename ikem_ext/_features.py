"""The memory layout of features."""

from __future__ import annotations

from torch import Tensor


def empty_features(x: Tensor, *sizes: int) -> Tensor:
    """Features (..., C, T, V), channels last where ``x`` is, else contiguous, as the native operations make them."""
    *batch, channels, frames, joints = sizes
    if x.shape[-3] > 1 and x.stride(-3) == 1 and not x.is_contiguous():
        return x.new_empty((*batch, frames, joints, channels)).movedim(-1, -3)
    return x.new_empty(sizes)

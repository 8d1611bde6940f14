"""What the tests of CUDA kernels on the host share: tensors as plain C functions take them."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def address(tensor: Tensor | None) -> int | None:
    """Where its elements begin; None for none."""
    return None if tensor is None else tensor.data_ptr()


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """The same as an argument."""
    return ctypes.c_void_p(address(tensor))


def empty_like_x(x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Features filled with NaN; channels last where x is."""
    y = torch.full(sizes, torch.nan, dtype=x.dtype)
    last = x.shape[-3] > 1 and x.stride(-3) == 1 and not x.is_contiguous()
    return y.movedim(-3, -1).contiguous().movedim(-1, -3) if last else y

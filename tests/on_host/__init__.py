"""The CUDA kernels compiled for the host (tests/native/cuda_host_shim), a family a module, and what these share:
tensors as plain C functions take them.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

# Checks of each pointer for null are left out: they cost the compiler time, and AddressSanitizer finds such an access.
SANITIZE = ("-Og", "-g1", "-fsanitize=address,undefined", "-fno-sanitize=null", "-fno-sanitize-recover=all")


def address(tensor: Tensor | None) -> int | None:
    """Where its elements begin; None for none."""
    return None if tensor is None else tensor.data_ptr()


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """The same as an argument."""
    return ctypes.c_void_p(address(tensor))


def empty_like_x(x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Features filled with NaN; channels last where x is."""
    y = torch.full(sizes, torch.nan, dtype=x.dtype)
    return y.movedim(-3, -1).contiguous().movedim(-1, -3) if is_channels_last(x) else y


def is_channels_last(x: Tensor) -> bool:
    """Whether features lie in memory with the channels innermost."""
    return x.shape[-3] > 1 and x.stride(-3) == 1 and not x.is_contiguous()

"""Plain-PyTorch twin of :func:`ikem_ext.batch_norm`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch_norm import check_batch_norm, draw_seed, update_running


def batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    dropout: float = 0.0,
    residual: Tensor | None = None,
    relu: bool = False,
    moments: Tensor | None = None,
) -> Tensor:
    """See :func:`ikem_ext.batch_norm`; the same arguments, values, random draws and gradients, on any device.

    Moments that are given are made once more, so that PyTorch differentiates them.
    """
    check_batch_norm(x, weight, bias, running_mean, running_var, residual, training, dropout, moments)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean, variance = running_mean, running_var
    if training:
        mean, variance = moments_of(wide).unbind()
        update_running(running_mean, running_var, mean, variance, x.numel() // x.shape[1], momentum)
    assert mean is not None and variance is not None
    y = scaled(wide, weight, bias, mean, variance, eps)
    if dropout > 0:
        y = y * dropout_mask(draw_seed(x.device), x.shape, dropout).to(y) / (1 - dropout)
    if residual is not None:
        y = y + residual.to(y.dtype)
    if relu:
        y = y.relu()
    return y.to(x.dtype)


def moments_of(x: Tensor) -> Tensor:
    """Mean and biased variance of each channel of (..., N, C, T, V): (..., 2, C)."""
    return torch.stack((x.mean((-4, -2, -1)), x.var((-4, -2, -1), correction=0)), -2)


def scaled(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """``(x - mean) * weight / sqrt(variance + eps) + bias`` with numbers of the channels, in the dtype of ``x``."""
    mean, scale, shift = (
        each.to(x.dtype)[:, None, None] for each in (mean, weight * torch.rsqrt(variance + eps), bias)
    )
    return (x - mean) * scale + shift


def dropout_mask(seed: Tensor, shape: torch.Size, p: float) -> Tensor:
    """Which entries of (N, C, T, V) stay: where 32 random bits are an integer of at least ``2^32 p``; bool.

    The bits are those of an entry's place in the order (N, T, V, C), modulo 2^32, mixed with both halves of the seed.
    """
    n, channels, frames, joints = shape
    places = torch.arange(shape.numel(), device=seed.device)
    place = places.view(n, frames, joints, channels).movedim(-1, 1)
    bits = _mixed(_mixed(place + seed & _WORD) ^ (seed >> 32 & _WORD))
    return bits >= int(p * 2**32)


_WORD = 2**32 - 1


def _mixed(words: Tensor) -> Tensor:
    words = words ^ words >> 16
    words = words * 0x7FEB352D & _WORD
    words = words ^ words >> 15
    words = words * 0x846CA68B & _WORD
    return words ^ words >> 16

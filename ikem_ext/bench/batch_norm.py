"""Batch normalization and what follows it in a block, against PyTorch's operations one after another."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, dropout, relu

import ikem_ext
from ikem_ext import LAYOUTS

from .features import random_features
from .measure import OURS, Case, forward, forward_and_backward, with_compiled

#: Channels and frames: layers of the method's encoder, and of ST-GCN at the published widths.
LAYERS = ((16, 50), (32, 25), (64, 13), (256, 13), (64, 50), (128, 25))
DROPOUT = 0.5


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    """What ends a block in training: norm, dropout, sum with the residual, ReLU; forward, and forward and backward."""
    bodies = 4 if quick else 64 if device.type == "cpu" else 256
    for layer in LAYERS[:2] if quick else LAYERS:
        yield from _cases(device, dtype, bodies, *layer, compiled=() if quick else ("published",))


def _cases(
    device: torch.device, dtype: torch.dtype, bodies: int, channels: int, frames: int, *, compiled: tuple[str, ...]
) -> Iterator[Case]:
    joints = LAYOUTS["ntu25"].num_joints
    generator = torch.Generator().manual_seed(0)
    shape = bodies, channels, frames, joints
    x, residual, cotangent = (random_features(shape, device, dtype, generator) for _ in range(3))
    weight, bias = (torch.randn(channels, generator=generator).to(device, dtype) for _ in range(2))
    leaves = [each.requires_grad_() for each in (x, residual, weight, bias)]
    functions = with_compiled({OURS: _ours, "published": _published}, compiled)
    for passes, run, arrays in (
        ("forward", forward, 3),
        # The backward pass reads x, y and the gradient of y, and writes the gradients of x and the residual.
        ("forward and backward", partial(forward_and_backward, cotangent=cotangent), 8),
    ):
        yield Case(
            "batch_norm",
            f"norm, dropout, residual, ReLU, {channels} channels, {frames} frames, {bodies} bodies",
            {variant: partial(run, function, leaves) for variant, function in functions.items()},
            bytes_moved=arrays * x.nbytes,
            parameters={
                "bodies": bodies, "joints": joints, "channels": channels, "frames": frames, "dropout": DROPOUT,
                "dtype": str(dtype),
            },
            passes=passes,
        )  # fmt: skip


def _ours(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return ikem_ext.batch_norm(x, weight, bias, dropout=DROPOUT, residual=residual, relu=True)


def _published(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = dropout(batch_norm(x, None, None, weight, bias, training=True), DROPOUT, inplace=True)
    return relu(y + residual, inplace=True)


PARTS = (cases,)

"""Counts of multiplications and additions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ikem_ext.nn import TemporalConv
from ikem_ext.nn.stgcn import ConvTemporalGraphical


def frames_met(frames: int, taps: int, stride: int = 1, dilation: int = 1, padding: int = 0) -> int:
    """How many frames the taps of a convolution over time meet, over all of its output; the rest meet padding.

    >>> frames_met(13, taps=9, padding=4)  # of 9 * 13
    97
    """
    last = frames + 2 * padding - dilation * (taps - 1)
    return sum(
        0 <= first - padding + tap * dilation < frames for first in range(0, last, stride) for tap in range(taps)
    )


def operations_of(model: nn.Module, x: Tensor) -> int:
    """The multiplications and additions that a model's forward pass needs.

    Those that PyTorch counts, without what nobody has to multiply: zeros that pad time, and zeros of the adjacency that
    ST-GCN's units are given.
    """
    with_zeros = 0

    def convolution(module: nn.Conv2d, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal with_zeros
        assert not isinstance(module.padding, str)
        (taps, _), (stride, _), (dilation, _) = module.kernel_size, module.stride, module.dilation
        met = frames_met(inputs[0].shape[2], taps, stride, dilation, module.padding[0])
        frames = output.shape[2]
        with_zeros += 2 * output.numel() // frames * module.weight[0, :, 0].numel() * (taps * frames - met)

    def sum_over_joints(module: nn.Module, inputs: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
        nonlocal with_zeros
        (x, adjacency), y = inputs, outputs[0]
        rows, narrower = y.numel() // y.shape[-1] // y.shape[1], min(x.shape[1], y.shape[1])
        with_zeros += 2 * rows * (adjacency.numel() * y.shape[1] - int(adjacency.count_nonzero()) * narrower)

    counts: dict[type[nn.Module], Callable[..., None]] = {
        nn.Conv2d: convolution,
        TemporalConv: convolution,
        ConvTemporalGraphical: sum_over_joints,
    }
    hooks = [module.register_forward_hook(counts[type(module)]) for module in model.modules() if type(module) in counts]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return int(counter.get_total_flops()) - with_zeros

"""Counts of multiplications and additions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


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
    """Multiplications and additions of a model's forward pass, without those with the zeros that pad time."""
    with_padding = 0

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal with_padding
        assert isinstance(module, nn.Conv2d) and not isinstance(module.padding, str)
        (taps, _), (stride, _), (dilation, _) = module.kernel_size, module.stride, module.dilation
        met = frames_met(inputs[0].shape[2], taps, stride, dilation, module.padding[0])
        frames = output.shape[2]
        products = output.numel() // frames * module.weight[0, :, 0].numel()
        with_padding += 2 * products * (taps * frames - met)

    hooks = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, nn.Conv2d)]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return int(counter.get_total_flops()) - with_padding

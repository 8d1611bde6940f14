"""Features of skeletons, made up."""

from __future__ import annotations

import torch
from torch import Tensor


def random_features(
    shape: tuple[int, ...], device: torch.device, dtype: torch.dtype, generator: torch.Generator
) -> Tensor:
    """Normal (N, C, T, V), in memory as whole models have them: on a CPU with the channels innermost."""
    layout = torch.channels_last if device.type == "cpu" else torch.contiguous_format
    return torch.randn(shape, generator=generator).to(device, dtype, memory_format=layout)

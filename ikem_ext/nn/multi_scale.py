"""Convolution over time in several branches of one input, each with a narrow part of the channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d

from .normalized import normalized_apart

__all__ = ["MaxOverFrames", "max_over_frames", "multi_scale_conv"]


def multi_scale_conv(
    x: Tensor,
    entries: Sequence[tuple[Any, nn.Module]],
    branches: Sequence[Callable[[Tensor], Tensor]],
    pointwise: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    r"""The branches of a multi-scale unit, side by side as channels.

    .. math:: y = [f_1(\mathrm{relu}(\mathrm{bn}_1(W_1 x + b_1))), \dots, f_m(\mathrm{relu}(\mathrm{bn}_m(W_m x + b_m))), g(x)]

    The 1x1 convolutions at the entries are one product, and their norms and ReLU one pass.

    Args:
        x: (N, C, T, V).
        entries: the branches' 1x1 convolutions, which have biases, and the norms behind them.
        branches: :math:`f`, what each branch does then.
        pointwise: :math:`g`, a branch that has no such entry, or None for none.

    Returns:
        (N, sum of the branches' channels, T', V).

    Source: Chen et al., "Channel-Wise Topology Refinement Graph Convolution for Skeleton-Based Action Recognition",
    ICCV 2021, section 3.3.

    Example:
        >>> entries = [(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)) for _ in range(2)]
        >>> branches = [nn.Conv2d(4, 4, (5, 1), padding=(2, 0)), MaxOverFrames(3)]
        >>> multi_scale_conv(torch.randn(2, 8, 50, 25), entries, branches).shape
        torch.Size([2, 8, 50, 25])
    """  # noqa: E501
    convs, norms = zip(*entries, strict=True)
    weight, bias = (torch.cat([getattr(conv, name) for conv in convs]) for name in ("weight", "bias"))
    widths = [conv.out_channels for conv in convs]
    parts = normalized_apart(norms, widths, conv2d(x, weight, bias), relu=True).split(widths, dim=1)
    outputs = [branch(part) for branch, part in zip(branches, parts, strict=True)]
    return torch.cat(outputs if pointwise is None else [*outputs, pointwise(x)], dim=1)


class MaxOverFrames(nn.MaxPool2d):
    """The maximum over neighboring frames: ``MaxPool2d((K, 1), (stride, 1), (K // 2, 0))``.

    Where channels lie innermost, joints and channels are taken for one axis, along which PyTorch's own is fast; it
    takes the channels of one joint at a time, of which there are few.

    Args:
        frames: K, an odd number.
        stride: in frames.

    Example:
        >>> MaxOverFrames(3, stride=2)(torch.randn(2, 8, 25, 15)).shape
        torch.Size([2, 8, 13, 15])
    """

    def __init__(self, frames: int, stride: int = 1) -> None:
        super().__init__((frames, 1), (stride, 1), (frames // 2, 0))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, T, V) to (N, C, ceil(T / stride), V), in the memory layout of the input."""
        return max_over_frames(self, x)


def max_over_frames(pool: nn.MaxPool2d, x: Tensor) -> Tensor:
    """What a module of any make that takes maxima gives; those over frames alone as :class:`MaxOverFrames` says."""
    joints_alone = [_pair(each)[1] for each in (pool.kernel_size, pool.stride, pool.dilation)] == [1, 1, 1]
    own = type(pool).forward in (nn.MaxPool2d.forward, MaxOverFrames.forward) and not pool.return_indices
    if not (own and joints_alone) or _pair(pool.padding)[1] != 0 or pool.ceil_mode:
        return pool(x)
    size = _pair(pool.kernel_size), _pair(pool.stride), _pair(pool.padding), _pair(pool.dilation)
    if x.shape[1] == 1 or x.stride(1) != 1:
        return max_pool2d(x, *size)
    n, channels, _, joints = x.shape
    rows = x.permute(0, 2, 3, 1).flatten(2).unsqueeze(2).permute(0, 3, 1, 2)
    y = max_pool2d(rows, *size)
    return y.permute(0, 2, 3, 1).reshape(n, y.shape[2], joints, channels).permute(0, 3, 1, 2)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size

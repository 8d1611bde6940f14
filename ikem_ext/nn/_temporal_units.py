"""What the temporal units of several projects share, and what ends their blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import Shapes
from .._library import autocast_dtype
from .chain import branched, chained, layers, slots
from .folding import fold_slots
from .multi_scale import MaxOverFrames
from .normalized import followed
from .pointwise_conv import PointwiseConv
from .temporal_conv import TemporalConv


class TemporalUnit(nn.Module, ABC):
    """Convolution over time with batch norm, which can take along what ends a block: the residual and ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C_in, T, V) to (N, C_out, T', V)."""
        return self.with_residual(x)

    @abstractmethod
    def with_residual(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """What the unit gives, plus a residual, cast to its dtype, through a ReLU; each where it is wanted."""


class NormalizedConv(TemporalUnit):
    """A convolution over time, ``conv``, then batch norm, ``bn``.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: in frames.
        stride: in frames.
        dilation: in frames.
    """

    layers: tuple[str, ...] = ("conv", "bn")

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv = TemporalConv(in_channels, out_channels, kernel_size, stride, dilation=dilation)
        self.bn: nn.Module = nn.BatchNorm2d(out_channels)

    def with_residual(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """See `TemporalUnit`."""
        Shapes().check("x", x, f"N {self.conv.in_channels} T V")
        return chained(x, layers(self, *self.layers), residual=residual, relu=relu)

    def fold_norms(self) -> None:
        """Makes ``bn`` a part of ``conv``, for :func:`ikem_ext.nn.folded`."""
        fold_slots(slots(self, *self.layers))


class MultiScaleConv(TemporalUnit):
    """Branches side by side, ``branches``: dilated convolutions, a maximum, and a 1x1 convolution; and a shortcut.

    Args:
        in_channels: C_in.
        out_channels: C_out; what is left of it when all branches have as many channels goes to the last.
        kernel_size: of the dilated convolutions, in frames; or one for each.
        stride: in frames.
        dilations: in frames, one for each dilated convolution.
        unit: makes such a convolution with its norm.
        act: makes the activation behind a branch's first convolution.

    Raises:
        ValueError: there are not as many kernel sizes as dilations.
    """

    residual: nn.Module | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int,
        dilations: Sequence[int],
        unit: Callable[..., nn.Module],
        act: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        sizes = [kernel_size] * len(dilations) if isinstance(kernel_size, int) else list(kernel_size)
        if len(sizes) != len(dilations):
            raise ValueError(f"kernel_size: expected one, or one for each of {dilations}, got {kernel_size}")
        self.num_branches = len(dilations) + 2
        width = out_channels // self.num_branches
        last = out_channels - width * (self.num_branches - 1)

        def reduced(*then: nn.Module) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(in_channels, width, 1), nn.BatchNorm2d(width), act(), *then)

        self.branches = nn.ModuleList()
        for size, dilation in zip(sizes, dilations, strict=True):
            branch = reduced()
            branch.append(unit(width, width, size, stride=stride, dilation=dilation))
            self.branches.append(branch)
        self.branches.append(reduced(MaxOverFrames(3, stride), nn.BatchNorm2d(width)))
        self.branches.append(nn.Sequential(PointwiseConv(in_channels, last, stride), nn.BatchNorm2d(last)))

    def with_residual(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """See `TemporalUnit`."""
        own = self.shortcut(x)
        if own is None:
            return branched(x, self.branches, residual=residual, relu=relu)
        return plus(branched(x, self.branches, residual=own), residual, relu)

    def activated(self, x: Tensor, act: nn.Module) -> Tensor:
        """The sum of branches and shortcut, through an activation."""
        rectified = type(act) is nn.ReLU
        y = branched(x, self.branches, residual=self.shortcut(x), relu=rectified)
        return y if rectified else act(y)

    def shortcut(self, x: Tensor) -> Tensor | None:
        """What the unit's own shortcut gives."""
        first = next(part for part in self.branches.modules() if isinstance(part, nn.Conv2d))
        Shapes().check("x", x, f"N {first.in_channels} T V")
        return shortcut_of(self, x)

    def fold_norms(self) -> None:
        """Makes norms parts of the convolutions before them, for :func:`ikem_ext.nn.folded`."""
        fold_branches(self.branches)


def fold_branches(branches: nn.ModuleList) -> None:
    """Makes norms in branches parts of the convolutions before them."""
    for name in branches._modules:
        fold_slots(slots(branches, name))


def over_time_shortcut(
    in_channels: int, out_channels: int, stride: int, residual: bool, unit: Callable[..., nn.Module]
) -> nn.Module | None:
    """A block's shortcut: none, the identity where shapes agree, or what ``unit`` makes of widths and stride."""
    if not residual:
        return None
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return unit(in_channels, out_channels, stride=stride)


def shortcut_of(block: nn.Module, x: Tensor) -> Tensor | None:
    """What a block's ``residual`` gives; None where there is none, of which the originals make the number 0."""
    if block._modules.get("residual") is not None:
        return chained(x, layers(block, "residual"))
    given: Any = getattr(block, "residual", None)  # a function, where it is the original's
    residual = None if given is None else given(x)
    return residual if isinstance(residual, Tensor) else None


def end_of_block(block: nn.Module, tcn: str, y: Tensor, x: Tensor, moments: Tensor | None = None) -> Tensor:
    """``relu(tcn(y) + residual(x))``, of the modules of a block that convolves over the graph, then over time.

    Args:
        block: has a ``residual``.
        tcn: the name of its temporal unit, or of the ``nn.Sequential`` of one.
        y: what the block's graph convolution gave.
        x: what came into the block.
        moments: of ``y``, as of :func:`ikem_ext.nn.normalized`, for a norm that ``tcn`` begins with.
    """
    unit = block._modules[tcn]

    def convolved(residual: Tensor | None, relu: bool) -> Tensor:
        if isinstance(unit, TemporalUnit):
            return unit.with_residual(y, residual, relu)
        return chained(y, layers(block, tcn), residual=residual, relu=relu, moments=moments)

    return rectified_sum(convolved, autocast_dtype(y.device) or y.dtype, shortcut_of(block, x))


def rectified_sum(
    sum_with: Callable[[Tensor | None, bool], Tensor], dtype: torch.dtype, residual: Tensor | None
) -> Tensor:
    """A sum with a residual, through a ReLU, in the wider dtype of the two, as under autocast they may differ.

    Args:
        sum_with: makes it of a residual and of whether there is a ReLU, in the dtype of its own.
        dtype: that dtype.
        residual: None for none.
    """
    if residual is not None and torch.promote_types(dtype, residual.dtype) != dtype:
        return torch.relu_(sum_with(None, False) + residual)
    return sum_with(residual, True)


def plus(y: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    """``relu(y + residual)``, each where it is wanted; without gradients ``y`` is written over."""
    return followed(y, dropout=0.0, residual=residual, relu=relu, fresh=False)

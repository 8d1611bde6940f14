"""PYSKL's temporal units under their names, without mmcv, computing through :func:`ikem_ext.temporal_conv`."""
# ruff: noqa: N801

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from ..._checks import Shapes
from .._temporal_units import MultiScaleConv, NormalizedConv, TemporalUnit, fold_branches, over_time_shortcut, plus
from .._units import initialize
from ..chain import branched, chained, layers, slots
from ..folding import fold_slots
from ..pointwise_conv import PointwiseConv
from .config import Config, activation_of, norm_of

__all__ = ["MSTCN", "mstcn", "unit_tcn"]


class unit_tcn(NormalizedConv):
    """Convolution over time, normalization, dropout.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: in frames.
        stride: in frames.
        dilation: in frames.
        norm: name of a normalization as in mmcv, or a mapping with ``type`` and its options; None for none.
        dropout: probability.

    Raises:
        ValueError: the normalization is unknown.

    Source: Duan et al., "PYSKL: Towards Good Practices for Skeleton Action Recognition", ACM MM 2022.

    Example:
        >>> import torch
        >>> unit = unit_tcn(64, 128, stride=2, dropout=0.5)
        >>> unit.init_weights()
        >>> unit(torch.randn(2, 64, 50, 25)).shape
        torch.Size([2, 128, 25, 25])
    """

    layers = ("conv", "bn", "drop")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 9,
        stride: int = 1,
        dilation: int = 1,
        norm: Config | None = "BN",
        dropout: float = 0,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.norm_cfg = {"type": norm} if norm is None or isinstance(norm, str) else norm
        self.bn = norm_of(norm, out_channels)
        self.drop = nn.Dropout(dropout, inplace=True)
        self.stride = stride

    def init_weights(self) -> None:
        """The published initialization, which PYSKL's models ask for after construction."""
        initialize(self)


#: Branches of `mstcn`: frames and dilation of a convolution, a maximum over as many frames, a 1x1 convolution.
Branch = tuple[int, int] | tuple[str, int] | str
_BRANCHES: tuple[Branch, ...] = ((3, 1), (3, 2), (3, 3), (3, 4), ("max", 3), "1x1")


class mstcn(TemporalUnit):
    r"""Branches of a few channels each, then batch norm, ReLU and a 1x1 convolution, then batch norm and dropout.

    .. math:: y = \mathrm{drop}\big(\mathrm{bn}(W\, \mathrm{relu}(\mathrm{bn}'([b_1(x), ..., b_D(x)])) + b)\big)

    Args:
        in_channels: C_in.
        out_channels: C_out.
        mid_channels: channels of each branch, as a share of C_out; None for an equal part each, of which the first
            gets what is left.
        dropout: probability.
        ms_cfg: the branches: ``(frames, dilation)`` of a convolution, ``("max", frames)``, or ``"1x1"``.
        stride: in frames.

    Raises:
        ValueError: mid_channels is no such share, or a branch is none of these.

    Source: Duan et al., "DG-STGCN: Dynamic Spatial-Temporal Modeling for Skeleton-based Action Recognition", 2022,
    section 3.3.

    Example:
        >>> import torch
        >>> mstcn(64, 128, stride=2)(torch.randn(2, 64, 50, 25)).shape
        torch.Size([2, 128, 25, 25])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        mid_channels: float | None = None,
        dropout: float = 0.0,
        ms_cfg: Sequence[Branch] = _BRANCHES,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.ms_cfg = ms_cfg
        self.num_branches = len(ms_cfg)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.act = nn.ReLU()
        if mid_channels is None:
            self.mid_channels = out_channels // self.num_branches
            self.rem_mid_channels = out_channels - self.mid_channels * (self.num_branches - 1)
        elif isinstance(mid_channels, float) and mid_channels > 0:
            self.mid_channels = self.rem_mid_channels = int(out_channels * mid_channels)
        else:
            raise ValueError(f"mid_channels: expected None or a share of out_channels, got {mid_channels!r}")
        self.branches = nn.ModuleList()
        for place, branch in enumerate(ms_cfg):
            width = self.mid_channels if place else self.rem_mid_channels
            self.branches.append(self._branch(branch, width, stride))
        width = self.mid_channels * (self.num_branches - 1) + self.rem_mid_channels
        self.transform = nn.Sequential(nn.BatchNorm2d(width), self.act, nn.Conv2d(width, out_channels, 1))
        self.bn = nn.BatchNorm2d(out_channels)
        self.drop = nn.Dropout(dropout, inplace=True)

    def _branch(self, branch: Branch, width: int, stride: int) -> nn.Module:
        if branch == "1x1":
            return PointwiseConv(self.in_channels, width, stride)
        if not isinstance(branch, tuple) or len(branch) != 2 or not isinstance(branch[1], int):
            raise ValueError(f"ms_cfg: expected (frames, dilation), ('max', frames) or '1x1', got {branch!r}")
        entry = nn.Conv2d(self.in_channels, width, 1), nn.BatchNorm2d(width), self.act
        frames, second = branch
        if frames == "max":
            return nn.Sequential(*entry, nn.MaxPool2d((second, 1), (stride, 1), (1, 0)))
        if not isinstance(frames, int):
            raise ValueError(f"ms_cfg: expected (frames, dilation), ('max', frames) or '1x1', got {branch!r}")
        return nn.Sequential(*entry, unit_tcn(width, width, frames, stride, second, norm=None))

    def with_residual(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """See `TemporalUnit`."""
        return chained(self._side_by_side(x), layers(self, "transform", "bn", "drop"), residual=residual, relu=relu)

    def inner_forward(self, x: Tensor) -> Tensor:
        """Maps (N, C_in, T, V) to (N, C_out, T', V), without the last batch norm and dropout."""
        return chained(self._side_by_side(x), layers(self, "transform"))

    def _side_by_side(self, x: Tensor) -> Tensor:
        Shapes().check("x", x, f"N {self.in_channels} T V")
        return branched(x, self.branches)

    def fold_norms(self) -> None:
        """Makes norms parts of the convolutions before them, for :func:`ikem_ext.nn.folded`."""
        fold_branches(self.branches)
        fold_slots(slots(self, "transform", "bn"))

    def init_weights(self) -> None:
        """Does nothing, as the original: PyTorch's own initialization stays."""


class MSTCN(MultiScaleConv):
    r"""MS-G3D's and CTR-GCN's temporal unit as PYSKL has it: with an activation and dropout at the end.

    .. math:: y = \mathrm{drop}\big(\mathrm{act}([b_1(x), ..., b_{D + 2}(x)] + \mathrm{residual}(x))\big)

    Args:
        in_channels: C_in.
        out_channels: C_out; the last of D + 2 branches gets what is left of an equal part each.
        kernel_size: of the dilated convolutions, in frames; or one for each.
        stride: in frames.
        dilations: in frames, D of them.
        residual: whether there is a shortcut: the identity where shapes agree, else 1x1 convolution and batch norm.
        act_cfg: an activation, as ``act`` of :class:`unit_gcn`; ``act``, the one behind the sum, may be replaced by
            another module, as PYSKL's MS-G3D does.
        tcn_dropout: probability.

    Raises:
        ValueError: the activation is unknown, or there are not as many kernel sizes as dilations.

    Source: Liu et al., CVPR 2020, section 3.4; Duan et al., ACM MM 2022.

    Example:
        >>> import torch
        >>> MSTCN(96, 192, stride=2)(torch.randn(2, 96, 50, 25)).shape
        torch.Size([2, 192, 25, 25])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int = 1,
        dilations: Sequence[int] = (1, 2, 3, 4),
        residual: bool = True,
        act_cfg: Config = "ReLU",
        tcn_dropout: float = 0,
    ) -> None:
        act = partial(activation_of, "act_cfg", act_cfg)
        super().__init__(in_channels, out_channels, kernel_size, stride, dilations, unit_tcn, act)
        projection = partial(unit_tcn, kernel_size=1)
        self.residual = over_time_shortcut(in_channels, out_channels, stride, residual, projection)
        self.act = act()
        self.drop = nn.Dropout(tcn_dropout)

    def with_residual(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """See `TemporalUnit`."""
        return plus(self.drop(self.activated(x, self.act)), residual, relu)

    def init_weights(self) -> None:
        """The published initialization, which PYSKL's models ask for after construction."""
        initialize(self)

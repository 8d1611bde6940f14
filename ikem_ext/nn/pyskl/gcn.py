"""PYSKL's graph convolutions under their names, without mmcv, computing through :func:`ikem_ext.graph_conv`."""
# ruff: noqa: N801, N803

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...graph_conv import graph_conv
from .._temporal_units import rectified_sum
from .._units import (
    RefinedGraphConv,
    biased,
    check_features,
    fold_into_sum,
    fold_scale,
    graph_parts,
    initialize,
    initialize_branches,
    initialize_norm,
    pairwise_products,
    refined_graph_conv,
    scale_convolutions,
    shortcut,
    stacked,
)
from ..folding import Shift, fold_slots, is_foldable, scale_and_shift
from ..msg3d import MLP, edge_matrix, fold_mlp, multi_scale_graph_conv, neighborhoods
from ..normalized import normalized
from .config import Config, activation_of, norm_of

__all__ = ["CTRGC", "MSGCN", "unit_aagcn", "unit_ctrgcn", "unit_gcn"]

_ADAPTIVE = (None, "init", "offset", "importance")
_CONV_POS = ("pre", "post")


class unit_gcn(nn.Module):
    r"""Graph convolution with a fixed or learned adjacency, batch norm, shortcut and activation.

    .. math:: y = \mathrm{act}\Big(\mathrm{bn}\big(\sum_k \sum_v \hat A[k,v,w]\, (W_k\, x + b_k)\big) + \mathrm{down}(x)\Big)

    where :math:`\hat A` is the buffer ``A`` (adaptive None), the parameter ``A`` (``init``), or the buffer with the
    parameter ``PA`` added to it (``offset``) or multiplied with it (``importance``).

    Args:
        in_channels: C_in.
        out_channels: C_out.
        A: adjacency (K, V, V), an array or tensor, held in the default dtype.
        adaptive: None, ``init``, ``offset`` or ``importance``.
        conv_pos: ``pre``, the convolution stands before the sum over joints as in the formula, or ``post``, after it:
            then there is one bias, added once.
        with_res: whether there is a shortcut, ``down``.
        norm: name of a normalization as in mmcv, or a mapping with ``type`` and its options.
        act: name of an activation as in mmcv, or a mapping with ``type`` and its options.

    Raises:
        ValueError: an argument is none of those named, or A has another shape.

    Source: Duan et al., "PYSKL: Towards Good Practices for Skeleton Action Recognition", ACM MM 2022; Yan et al.,
    AAAI 2018, eq. 10.

    Example:
        >>> from ikem_ext import get_layout
        >>> unit = unit_gcn(3, 64, get_layout("ntu25").adjacency(), adaptive="init", with_res=True)
        >>> unit(torch.randn(2, 3, 50, 25)).shape
        torch.Size([2, 64, 50, 25])
    """  # noqa: E501

    A: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        A: Tensor | npt.NDArray,
        adaptive: str | None = "importance",
        conv_pos: str = "pre",
        with_res: bool = False,
        norm: Config = "BN",
        act: Config = "ReLU",
    ) -> None:
        super().__init__()
        if adaptive not in _ADAPTIVE:
            raise ValueError(f"adaptive: expected one of {_ADAPTIVE}, got {adaptive!r}")
        if conv_pos not in _CONV_POS:
            raise ValueError(f"conv_pos: expected one of {_CONV_POS}, got {conv_pos!r}")
        adjacency = graph_parts(A)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_subsets = len(adjacency)
        self.adaptive = adaptive
        self.conv_pos = conv_pos
        self.with_res = with_res
        self.bn = norm_of(norm, out_channels)
        self.act = activation_of("act", act)
        if adaptive == "init":
            self.A = nn.Parameter(adjacency)
        else:
            self.register_buffer("A", adjacency)
        if adaptive == "offset":
            self.PA = nn.Parameter(torch.empty_like(adjacency).uniform_(-1e-6, 1e-6))
        elif adaptive == "importance":
            self.PA = nn.Parameter(torch.ones_like(adjacency))
        if conv_pos == "pre":
            self.conv = nn.Conv2d(in_channels, out_channels * self.num_subsets, 1)
        else:
            self.conv = nn.Conv2d(in_channels * self.num_subsets, out_channels, 1)
        if with_res and in_channels == out_channels:
            self.down: nn.Module = nn.Identity()
        elif with_res:
            self.down = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), norm_of(norm, out_channels))

    def forward(self, x: Tensor, A: Tensor | None = None) -> Tensor:
        """Maps (N, C_in, T, V) to (N, C_out, T, V); ``A`` is in the original signature and ignored there too."""
        check_features(x, self.in_channels, self.A.shape[-1])
        adjacency = self.A
        if self.adaptive == "offset":
            adjacency = self.A + self.PA
        elif self.adaptive == "importance":
            adjacency = self.A * self.PA
        weight, bias = self.conv.weight[..., 0, 0], self.conv.bias
        assert bias is not None
        if self.conv_pos == "pre":
            parts = (self.num_subsets, self.out_channels)
            y = graph_conv(x, weight.unflatten(0, parts), bias.view(parts), adjacency)
        else:
            weight = weight.unflatten(1, (self.num_subsets, self.in_channels)).transpose(0, 1)
            y = biased(graph_conv(x, weight, None, adjacency), bias)
        residual = self.down(x) if self.with_res else None
        if type(self.act) is nn.ReLU:
            return rectified_sum(partial(_normalized, self.bn, y), y.dtype, residual)
        y = self.bn(y)
        return self.act(y if residual is None else y + residual)

    def fold_norms(self) -> None:
        """Makes ``bn`` a part of ``conv``, or leaves its shift, for :func:`ikem_ext.nn.folded`."""
        if self.conv_pos == "post":
            fold_slots([(self, "conv"), (self, "bn")])
        elif is_foldable(self.bn):
            scale, shift = scale_and_shift(self.bn)
            scale_convolutions([self.conv], scale.repeat(self.num_subsets))
            self.bn = Shift(shift)

    def init_weights(self) -> None:
        """Does nothing, as the original: PyTorch's own initialization stays."""


class unit_aagcn(nn.Module):
    r"""AAGCN's graph convolution: learned plus attention-made adjacencies, then attention to joints, frames, channels.

    .. math:: y = \mathrm{relu}\big(\mathrm{bn}(\sum_k W_k\, x\, (A_k + \alpha\, C_k) + b_k) + \mathrm{down}(x)\big)

    with :math:`C_k` the tanh of the mean over channels and frames of ``conv_a[k](x)[v] * conv_b[k](x)[w]``; then y
    times ``1 + sigmoid(...)`` for each joint, each frame and each channel, one after another.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        A: adjacency (K, V, V), an array or tensor, held in the default dtype: a parameter when adaptive, else a
            buffer.
        coff_embedding: the attention that makes adjacencies works on C_out // coff_embedding channels.
        adaptive: whether there are attention-made adjacencies.
        attention: whether there is attention to joints, frames and channels.

    Raises:
        ValueError: A has another shape.

    Source: Shi et al., "Skeleton-Based Action Recognition with Multi-Stream Adaptive Graph Convolutional Networks",
    IEEE Transactions on Image Processing 2020.

    Example:
        >>> from ikem_ext import get_layout
        >>> unit = unit_aagcn(3, 64, get_layout("ntu25").adjacency())
        >>> unit.init_weights()
        >>> unit(torch.randn(2, 3, 50, 25)).shape
        torch.Size([2, 64, 50, 25])
    """

    A: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        A: Tensor | npt.NDArray,
        coff_embedding: int = 4,
        adaptive: bool = True,
        attention: bool = True,
    ) -> None:
        super().__init__()
        adjacency = graph_parts(A)
        self.inter_c = out_channels // coff_embedding
        self.out_c = out_channels
        self.in_c = in_channels
        self.num_subset, _, joints = adjacency.shape
        self.adaptive = adaptive
        self.attention = attention
        self.conv_d = nn.ModuleList(nn.Conv2d(in_channels, out_channels, 1) for _ in range(self.num_subset))
        if adaptive:
            self.A = nn.Parameter(adjacency)
            self.alpha = nn.Parameter(torch.zeros(1))
            self.conv_a, self.conv_b = nn.ModuleList(), nn.ModuleList()
            for _ in range(self.num_subset):
                self.conv_a.append(nn.Conv2d(in_channels, self.inter_c, 1))
                self.conv_b.append(nn.Conv2d(in_channels, self.inter_c, 1))
        else:
            self.register_buffer("A", adjacency)
        if attention:
            self.conv_ta = nn.Conv1d(out_channels, 1, 9, padding=4)
            odd = joints if joints % 2 else joints - 1
            self.conv_sa = nn.Conv1d(out_channels, 1, odd, padding=odd // 2)
            self.fc1c = nn.Linear(out_channels, out_channels // 2)
            self.fc2c = nn.Linear(out_channels // 2, out_channels)
        self.down = shortcut(in_channels, out_channels)
        self.bn = nn.BatchNorm2d(out_channels)

    def init_weights(self) -> None:
        """The published initialization, which PYSKL's models ask for after construction."""
        initialize(self)
        initialize_norm(self.bn, 1e-6)
        initialize_branches(self.conv_d)
        if self.attention:
            nn.init.xavier_normal_(self.conv_sa.weight)
            nn.init.kaiming_normal_(self.fc1c.weight)
            for zero in (self.conv_ta.weight, self.fc2c.weight):
                nn.init.zeros_(zero)
            for bias in (self.conv_ta.bias, self.conv_sa.bias, self.fc1c.bias, self.fc2c.bias):
                assert bias is not None
                nn.init.zeros_(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C_in, T, V) to (N, C_out, T, V)."""
        check_features(x, self.in_c, self.A.shape[-1])
        adjacency = self.A
        if self.adaptive:
            adjacency = adjacency + torch.tanh(pairwise_products(x, self.conv_a, self.conv_b)) * self.alpha
        weight, bias = stacked(self.conv_d)
        y = biased(graph_conv(x, weight, None, adjacency), bias.sum(0))
        y = rectified_sum(partial(_normalized, self.bn, y), y.dtype, self.down(x))
        return self._attend(y) if self.attention else y

    def fold_norms(self) -> None:
        """Makes ``bn`` a part of ``conv_d``, for :func:`ikem_ext.nn.folded`."""
        if is_foldable(self.bn):
            fold_into_sum(self.conv_d, self.bn)
            self.register_module("bn", nn.Identity())

    def _attend(self, y: Tensor) -> Tensor:
        """Gates for the joints, from means over frames; for the frames, then; for the channels, then."""
        joints = 1 + torch.sigmoid(self.conv_sa(y.mean(-2)))  # (N, 1, V)
        means = (y.flatten(1, 2) @ joints.mT / y.shape[-1]).view(y.shape[:3])  # over the joints so gated
        frames = 1 + torch.sigmoid(self.conv_ta(means))  # (N, 1, T)
        hidden = functional.relu(self.fc1c((means * frames).mean(-1)))
        channels = 1 + torch.sigmoid(self.fc2c(hidden))  # (N, C)
        return y * (frames.mT * joints)[:, None] * channels[..., None, None]


class CTRGC(RefinedGraphConv):
    r"""Graph convolution whose adjacency is refined for every clip and channel, summed over the other axis than
    :class:`ikem_ext.nn.ctrgcn.CTRGC` does.

    .. math:: y[n,c,t,v] = \sum_u \Big(\alpha\, \mathrm{conv4}\big(\tanh(m_1[u] - m_2[v])\big)[n,c] + A[u,v]\Big)\, \mathrm{conv3}(x)[n,c,t,u]

    Args:
        in_channels: C_in.
        out_channels: C_out.
        rel_reduction: relations have C_in // rel_reduction channels, but 8 where C_in is at most 16.

    Source: Chen et al., ICCV 2021, section 3.2; Duan et al., ACM MM 2022.

    Example:
        >>> CTRGC(16, 32)(torch.randn(2, 16, 50, 25), A=torch.eye(25), alpha=0.5).shape
        torch.Size([2, 32, 50, 25])
    """  # noqa: E501

    sum_over_v = False

    def __init__(self, in_channels: int, out_channels: int, rel_reduction: int = 8) -> None:
        super().__init__(in_channels, out_channels, 8 if in_channels <= 16 else in_channels // rel_reduction)

    def init_weights(self) -> None:
        """The published initialization, which the constructor applies already."""
        initialize(self)


class unit_ctrgcn(nn.Module):
    """The sum of a :class:`CTRGC` for each part of the adjacency, then batch norm, shortcut and ReLU.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        A: adjacency (K, V, V), an array or tensor, which the parameter ``A`` starts from, in the default
            dtype.

    Raises:
        ValueError: A has another shape.

    Source: Chen et al., ICCV 2021, section 3.3; Duan et al., ACM MM 2022.

    Example:
        >>> from ikem_ext import get_layout
        >>> unit = unit_ctrgcn(3, 64, get_layout("ntu25").adjacency())
        >>> unit.init_weights()
        >>> unit(torch.randn(2, 3, 50, 25)).shape
        torch.Size([2, 64, 50, 25])
    """

    def __init__(self, in_channels: int, out_channels: int, A: Tensor | npt.NDArray) -> None:
        super().__init__()
        adjacency = graph_parts(A)
        self.inter_c = out_channels // 4
        self.out_c = out_channels
        self.in_c = in_channels
        self.num_subset = len(adjacency)
        self.convs = nn.ModuleList(CTRGC(in_channels, out_channels) for _ in range(self.num_subset))
        self.down = shortcut(in_channels, out_channels)
        self.A = nn.Parameter(adjacency)
        self.alpha = nn.Parameter(torch.zeros(1))
        self.bn = nn.BatchNorm2d(out_channels)

    def init_weights(self) -> None:
        """The published initialization, which PYSKL's models ask for after construction."""
        initialize(self)
        initialize_norm(self.bn, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C_in, T, V) to (N, C_out, T, V)."""
        check_features(x, self.in_c, self.A.shape[-1])
        y = refined_graph_conv(x, self.convs, self.A, self.alpha, sum_over_v=CTRGC.sum_over_v)
        return normalized(self.bn, y, residual=self.down(x), relu=True)

    def fold_norms(self) -> None:
        """Leaves of ``bn`` the shift alone, for :func:`ikem_ext.nn.folded`."""
        if is_foldable(self.bn):
            self.register_module("bn", fold_scale([each.conv3 for each in self.convs], self.bn))


class MSGCN(nn.Module):
    r"""MS-G3D's graph convolution as PYSKL has it: over neighborhoods of several sizes, normalized by degrees of entry.

    .. math:: y = \mathrm{act}\Big(\mathrm{bn}\big(b + \sum_s W_s\, x\, (A_s + PA_s)\big)\Big)

    where :math:`A_s` connects the joints that are exactly s edges apart, and each with itself.

    Args:
        num_scales: S.
        in_channels: C_in.
        out_channels: C_out.
        A: 1 where an edge is, without self-loops, (V, V), an array or tensor; its scales, the buffer ``A``, are held in
            the default dtype.
        dropout: as of :class:`ikem_ext.nn.msg3d.MultiScale_GraphConv`.
        act_cfg: an activation, as ``act`` of :class:`unit_gcn`; None for none.

    Raises:
        ValueError: A is not square, or the activation is unknown.

    Source: Liu et al., CVPR 2020, section 3.2; Duan et al., ACM MM 2022.

    Example:
        >>> from ikem_ext import get_layout
        >>> bones = get_layout("ntu25").adjacency()[1:].sum(0) > 0
        >>> MSGCN(13, 3, 96, bones.float())(torch.randn(2, 3, 50, 25)).shape
        torch.Size([2, 96, 50, 25])
    """

    A: Tensor

    def __init__(
        self,
        num_scales: int,
        in_channels: int,
        out_channels: int,
        A: Tensor | npt.NDArray,
        dropout: float = 0,
        act_cfg: Config | None = "ReLU",
    ) -> None:
        super().__init__()
        self.num_scales = num_scales
        self.in_channels = in_channels
        scales = [each / each.sum(0) for each in neighborhoods(edge_matrix("A", A), num_scales)]
        self.register_buffer("A", graph_parts(np.stack(scales)))
        self.PA = nn.Parameter(torch.empty_like(self.A).uniform_(-1e-6, 1e-6))
        act = None if act_cfg is None else partial(activation_of, "act_cfg", act_cfg)
        self.mlp = MLP(in_channels * num_scales, [out_channels], dropout=dropout, activation=act)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C_in, T, V) to (N, C_out, T, V)."""
        check_features(x, self.in_channels, self.A.shape[-1])
        return multi_scale_graph_conv(x, self.A + self.PA, self.mlp)

    def fold_norms(self) -> None:
        """Makes the norms of ``mlp`` parts of its convolutions, for :func:`ikem_ext.nn.folded`."""
        fold_mlp(self.mlp)


def _normalized(norm: nn.Module, y: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    return normalized(norm, y, residual=residual, relu=relu)

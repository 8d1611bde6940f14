"""ST-GCN under its names, its graph convolution computing through :func:`ikem_ext.graph_conv`."""
# ruff: noqa: N801, N803

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .._checks import Shapes
from ..graph_conv import graph_conv
from ..layouts import LAYOUTS
from ._temporal_units import end_of_block
from ._units import graph_parts
from .normalized import takes_moments
from .pointwise_conv import PointwiseConv
from .temporal_conv import TemporalConv

__all__ = ["ConvTemporalGraphical", "Model", "graph_adjacency", "st_gcn"]


class ConvTemporalGraphical(nn.Module):
    r"""Convolution over time to K times the channels, contracted with the K parts of an adjacency.

    .. math:: y[n,c,t,w] = \sum_k \sum_v \mathrm{conv}(x)[n,kc,t,v]\, A[k,v,w]

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: K.
        t_kernel_size: frames that the convolution spans.
        t_stride: its stride, in frames.
        t_padding: frames of zeros on both sides.
        t_dilation: its dilation, in frames.
        bias: whether the convolution has one.

    Source: Yan et al., "Spatial Temporal Graph Convolutional Networks for Skeleton-Based Action Recognition",
    AAAI 2018, eq. 10.

    Example:
        >>> unit = ConvTemporalGraphical(3, 64, kernel_size=3)
        >>> y, adjacency = unit(torch.randn(2, 3, 50, 25), graph_adjacency("ntu-rgb+d", "spatial"))
        >>> y.shape
        torch.Size([2, 64, 50, 25])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        t_kernel_size: int = 1,
        t_stride: int = 1,
        t_padding: int = 0,
        t_dilation: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.conv = nn.Conv2d(
            in_channels,
            out_channels * kernel_size,
            kernel_size=(t_kernel_size, 1),
            padding=(t_padding, 0),
            stride=(t_stride, 1),
            dilation=(t_dilation, 1),
            bias=bias,
        )

    def forward(self, x: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, C_in, T, V) to (N, C_out, T', W), given A (K, V, W), which is returned as it came.

        Raises:
            ValueError: the shapes do not fit together.
        """
        return graph_conv(*self._terms(x, A)), A

    def before(self, norm: nn.Module, x: Tensor, A: Tensor) -> tuple[Tensor, Tensor | None]:
        """Maps likewise, and makes the moments that a norm behind it takes, as `normalized` does, or None."""
        if not takes_moments(norm, x):
            return self(x, A)[0], None
        return graph_conv(*self._terms(x, A), moments=True)

    def _terms(self, x: Tensor, A: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """The arguments of the graph convolution."""
        shapes, conv = Shapes(), self.conv
        shapes.check("x", x, f"N {conv.in_channels} T V")
        shapes.check("A", A, f"{self.kernel_size} V W")
        if (conv.kernel_size, conv.stride, conv.padding) != ((1, 1), (1, 1), (0, 0)):
            x = self._windows(x)
        weight = conv.weight.view(self.kernel_size, -1, x.shape[1])
        bias = None if conv.bias is None else conv.bias.view(self.kernel_size, -1)
        return x, weight, bias, A

    def _windows(self, x: Tensor) -> Tensor:
        """The frames that each output frame is made from, as channels: (N, C_in * t_kernel_size, T', V)."""
        conv, padding = self.conv, cast(tuple[int, int], self.conv.padding)
        windows = functional.unfold(x, conv.kernel_size, conv.dilation, padding, conv.stride)
        return windows.unflatten(-1, (-1, x.shape[-1]))


class st_gcn(nn.Module):
    """A block: graph convolution, then temporal convolution, around a shortcut.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: frames of the temporal convolution, an odd number, and K, the parts of the adjacency.
        stride: of the temporal convolution, in frames.
        dropout: probability, after the temporal convolution.
        residual: whether there is a shortcut: the identity where shapes agree, else 1x1 convolution and batch norm.

    Raises:
        ValueError: kernel_size is not two numbers, the first odd.

    Source: Yan et al., AAAI 2018, section 3.6.

    Example:
        >>> y, adjacency = st_gcn(3, 64, (9, 3), stride=2)(torch.randn(2, 3, 50, 25), torch.rand(3, 25, 25))
        >>> y.shape
        torch.Size([2, 64, 25, 25])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        stride: int = 1,
        dropout: float = 0,
        residual: bool = True,
    ) -> None:
        super().__init__()
        if len(kernel_size) != 2 or kernel_size[0] % 2 != 1:
            raise ValueError(f"kernel_size: expected (frames, an odd number; parts), got {kernel_size}")
        frames, parts = kernel_size
        self.gcn = ConvTemporalGraphical(in_channels, out_channels, parts)
        self.tcn = nn.Sequential(
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            TemporalConv(out_channels, out_channels, frames, stride),
            nn.BatchNorm2d(out_channels),
            nn.Dropout(dropout, inplace=True),
        )
        self.residual: nn.Module | None = None
        if residual and in_channels == out_channels and stride == 1:
            self.residual = nn.Identity()
        elif residual:
            self.residual = nn.Sequential(
                PointwiseConv(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, C_in, T, V) to (N, C_out, ceil(T / stride), V), given A (K, V, V), which is returned as it came."""
        before, moments = self.tcn[0], None
        if isinstance(self.gcn, ConvTemporalGraphical):
            y, moments = self.gcn.before(before, x, A)
        else:
            y, A = self.gcn(x, A)
        return end_of_block(self, "tcn", y, x, moments), A


class Model(nn.Module):
    """The network for recognition: ten blocks, averaged over time, joints and bodies, and a linear classifier.

    Args:
        in_channels: coordinates of a joint.
        num_class: number of classes.
        graph_args: arguments of :func:`graph_adjacency`, which makes the buffer ``A``.
        edge_importance_weighting: whether each block has a learned factor for each edge.
        kwargs: further arguments of all blocks; ``dropout`` not of the first.

    Raises:
        ValueError: from :func:`graph_adjacency`.

    Source: Yan et al., AAAI 2018, section 3.6.

    Example:
        >>> model = Model(3, 60, {"layout": "ntu-rgb+d", "strategy": "spatial"}, True, dropout=0.5)
        >>> model(torch.randn(2, 3, 32, 25, 2)).shape
        torch.Size([2, 60])
    """

    A: Tensor

    def __init__(
        self,
        in_channels: int,
        num_class: int,
        graph_args: Mapping[str, Any],
        edge_importance_weighting: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.register_buffer("A", graph_parts(graph_adjacency(**graph_args)))
        parts, joints, _ = self.A.shape
        self.data_bn = nn.BatchNorm1d(in_channels * joints)
        widths = [in_channels, 64, 64, 64, 64, 128, 128, 128, 256, 256, 256]
        undropped = {name: value for name, value in kwargs.items() if name != "dropout"}
        self.st_gcn_networks = nn.ModuleList(
            st_gcn(
                before,
                after,
                (9, parts),
                stride=2 if index in (4, 7) else 1,
                **(kwargs if index > 0 else {"residual": False, **undropped}),
            )
            for index, (before, after) in enumerate(pairwise(widths))
        )
        self.edge_importance: nn.ParameterList | list[int] = (
            nn.ParameterList(nn.Parameter(torch.ones_like(self.A)) for _ in self.st_gcn_networks)
            if edge_importance_weighting
            else [1] * len(self.st_gcn_networks)
        )
        self.fcn = nn.Conv2d(256, num_class, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps skeletons (N, C, T, V, M) to logits (N, num_class)."""
        features = self._features(x).mean((2, 3)).unflatten(0, (x.shape[0], x.shape[-1])).mean(1)
        return self.fcn(features[..., None, None]).flatten(1)

    def extract_feature(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, num_class, T', V, M) of every place, and the features (N, 256, T', V, M) that they are made of."""
        features = self._features(x)
        logits, features = (
            each.unflatten(0, (x.shape[0], x.shape[-1])).permute(0, 2, 3, 4, 1)
            for each in (self.fcn(features), features)
        )
        return logits, features

    def _features(self, x: Tensor) -> Tensor:
        """The bodies of all clips one after another, through all blocks: (N * M, 256, T', V)."""
        channels = self.data_bn.num_features // self.A.shape[-1]
        Shapes().check("x", x, f"N {channels} T {self.A.shape[-1]} M")
        bodies = self.data_bn(x.permute(0, 4, 3, 1, 2).flatten(2, 3).flatten(0, 1))
        # On a CPU all layers are fastest with the channels innermost, and keep them there.
        layout = torch.channels_last if x.device.type == "cpu" else torch.contiguous_format
        y = bodies.unflatten(1, (-1, channels)).permute(0, 2, 3, 1).contiguous(memory_format=layout)
        for block, importance in zip(self.st_gcn_networks, self.edge_importance, strict=True):
            y, _ = block(y, self.A * importance)
        return y


# Joints, edges and center of the graphs that ST-GCN knows by name; joints count from 0. OpenPose's: nose, neck, right
# arm, left arm, right leg, left leg, eyes, ears. `ntu_edge` is without the middle of the shoulders.
_NTU25 = LAYOUTS["ntu25"]
_OPENPOSE_EDGES = "4-3 3-2 7-6 6-5 13-12 12-11 10-9 9-8 11-5 8-2 5-1 2-1 0-1 15-0 14-0 17-15 16-14"
_NTU_EDGE_EDGES = (
    "0-1 2-1 3-2 4-1 5-4 6-5 7-6 8-1 9-8 10-9 11-10 12-0 13-12 14-13 15-14 16-0 17-16 18-17 19-18 "
    "20-21 21-7 22-23 23-11"
)


def _edges(text: str) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in (edge.split("-") for edge in text.split())]


_GRAPHS = {
    "openpose": (18, _edges(_OPENPOSE_EDGES), 1),
    "ntu-rgb+d": (_NTU25.num_joints, _NTU25.edges, _NTU25.center),
    "ntu_edge": (24, _edges(_NTU_EDGE_EDGES), 2),
}
_STRATEGIES = ("uniform", "distance", "spatial")


def graph_adjacency(layout: str = "openpose", strategy: str = "uniform", max_hop: int = 1, dilation: int = 1) -> Tensor:
    """The adjacency of one of ST-GCN's graphs, in parts.

    Joints that are 0, dilation, 2 dilation, ... up to max_hop edges apart are connected, and the adjacency is
    normalized by columns.

    Args:
        layout: ``openpose`` (18 joints), ``ntu-rgb+d`` (25) or ``ntu_edge`` (24), or the name of a
            :class:`ikem_ext.SkeletonLayout`.
        strategy: ``uniform``, one part; ``distance``, one for each distance; ``spatial``, one for the joint itself and
            for each further distance two: as far from the center or farther, and closer.
        max_hop: the largest distance; the center's, too, are not told apart beyond it.
        dilation: the step of distances.

    Returns:
        float32 tensor (K, V, V), indexed (part, from joint v, to joint w).

    Raises:
        ValueError: layout or strategy is unknown.

    Source: Yan et al., AAAI 2018, section 3.4.

    Example:
        >>> graph_adjacency("ntu-rgb+d", "spatial").shape, graph_adjacency(max_hop=2).shape
        (torch.Size([3, 25, 25]), torch.Size([1, 18, 18]))
    """
    graphs = {name: (each.num_joints, each.edges, each.center) for name, each in LAYOUTS.items()} | _GRAPHS
    if layout not in graphs:
        raise ValueError(f"layout: expected one of {sorted(graphs)}, got {layout!r}")
    if strategy not in _STRATEGIES:
        raise ValueError(f"strategy: expected one of {_STRATEGIES}, got {strategy!r}")
    joints, edges, center = graphs[layout]
    apart = _hops(joints, edges, max_hop)
    hops = range(0, max_hop + 1, dilation)
    connected = torch.isin(apart, torch.tensor(hops)).double()
    normalized = connected / connected.sum(0)
    if strategy == "uniform":
        return normalized[None].float()
    parts = [normalized * (apart == hop) for hop in hops]
    if strategy == "spatial":
        closer = apart[:, center, None] < apart[None, :, center]
        parts = parts[:1] + [part * side for part in parts[1:] for side in (~closer, closer)]
    return torch.stack(parts).float()


def _hops(joints: int, edges: Iterable[tuple[int, int]], max_hop: int) -> Tensor:
    """The number of edges between each two joints, max_hop + 1 where there are more: (V, V)."""
    step = torch.eye(joints)
    for a, b in edges:
        step[a, b] = step[b, a] = 1
    reached, hops = torch.eye(joints), torch.full((joints, joints), max_hop + 1)
    for hop in range(max_hop + 1):
        hops[(reached > 0) & (hops > hop)] = hop
        reached = (reached @ step).clamp(max=1)
    return hops

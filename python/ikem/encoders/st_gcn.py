"""ST-GCN (Yan et al., AAAI 2018) at quarter width, the encoder of CrosSCLR, AimCLR and of the method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ikem_ext import graph_conv
from ikem_ext.skeleton import SkeletonLayout

Initialization = Literal["published", "kaiming"]

TEMPORAL_KERNEL = 9


class GraphConv(nn.Module):
    """Convolution over the skeleton's graph with one weight per part of the adjacency and learned edge importance.

    ``y = sum_k (A_k * E_k) (W_k x + b_k)`` with constant adjacency ``A`` (K, V, V) and learned ``E``, which starts
    at 1.
    """

    adjacency: Tensor

    def __init__(self, in_channels: int, out_channels: int, adjacency: Tensor) -> None:
        super().__init__()
        parts = adjacency.shape[0]
        self.weight = nn.Parameter(torch.empty(parts, out_channels, in_channels))
        self.bias = nn.Parameter(torch.zeros(parts, out_channels))
        self.edge_importance = nn.Parameter(torch.ones_like(adjacency))
        self.register_buffer("adjacency", adjacency, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, T, V) to (N, C_out, T, V)."""
        return graph_conv(x, self.weight, self.bias, self.adjacency * self.edge_importance)


class Block(nn.Module):
    """Graph convolution, then temporal convolution, around a residual.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        adjacency: (K, V, V).
        stride: of time, in the temporal convolution and the residual.
        dropout: probability, after the temporal convolution.
        residual: whether there is a residual: the identity where shapes agree, else a strided 1x1 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        adjacency: Tensor,
        *,
        stride: int = 1,
        dropout: float = 0.0,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.graph = GraphConv(in_channels, out_channels, adjacency)
        self.graph_norm = nn.BatchNorm2d(out_channels)
        self.temporal = nn.Conv2d(
            out_channels,
            out_channels,
            kernel_size=(TEMPORAL_KERNEL, 1),
            stride=(stride, 1),
            padding=((TEMPORAL_KERNEL - 1) // 2, 0),
        )
        self.temporal_norm = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.residual: nn.Module | None = None
        if residual and in_channels == out_channels and stride == 1:
            self.residual = nn.Identity()
        elif residual:
            self.residual = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=(stride, 1)), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, T, V) to (N, C_out, ceil(T / stride), V)."""
        y = functional.relu(self.graph_norm(self.graph(x)), inplace=True)
        y = self.dropout(self.temporal_norm(self.temporal(y)))
        if self.residual is not None:
            y = y + self.residual(x)
        return functional.relu(y, inplace=True)


class STGCN(nn.Module):
    """Spatial-temporal graph convolutional network as an encoder: ten blocks, averaged over time, joints and bodies.

    Channels are w w w w | 2w 2w 2w | 4w 4w F, time is halved in blocks 5 and 8 (Wei et al., arXiv 2309.12009,
    implementation details; Yan et al., AAAI 2018).

    Args:
        layout: the skeleton; its graph has V joints.
        base_width: w.
        feature_width: F.
        dropout: probability in blocks 2 to 10.
        initialization: ``published`` draws convolutions from N(0, 0.02) and batch-norm weights from N(1, 0.02);
            ``kaiming`` draws convolutions from N(0, 2 / fan_out) and starts batch norm at 1.
        in_channels: coordinates per joint.

    Example:
        >>> from ikem_ext.skeleton import get_layout
        >>> encoder = STGCN(get_layout("ntu25"), base_width=4, feature_width=24)
        >>> clips = torch.zeros(2, 3, 50, 25, 2)
        >>> encoder(clips).shape, encoder.feature_map(clips).shape
        (torch.Size([2, 24]), torch.Size([2, 24, 13, 25]))
    """

    def __init__(
        self,
        layout: SkeletonLayout,
        *,
        base_width: int = 16,
        feature_width: int = 256,
        dropout: float = 0.5,
        initialization: Initialization = "published",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        adjacency = layout.adjacency()
        self.num_joints = layout.num_joints
        self.in_channels = in_channels
        self.feature_width = feature_width
        self.data_norm = nn.BatchNorm1d(self.num_joints * in_channels)
        widths = [base_width] * 4 + [2 * base_width] * 3 + [4 * base_width] * 2 + [feature_width]
        self.blocks = nn.Sequential(
            *(
                Block(
                    before,
                    after,
                    adjacency,
                    stride=2 if index in (4, 7) else 1,
                    dropout=dropout if index > 0 else 0.0,
                    residual=index > 0,
                )
                for index, (before, after) in enumerate(zip([in_channels, *widths], widths, strict=False))
            )
        )
        self.apply(_initialize_published if initialization == "published" else _initialize_kaiming)

    def forward(self, x: Tensor) -> Tensor:
        """Map skeletons (N, 3, T, V, M) to features (N, F), the mean of the feature map over time and joints."""
        return self.feature_map(x).mean((2, 3))

    def feature_map(self, x: Tensor) -> Tensor:
        """Encode skeletons, time and joints apart.

        Args:
            x: (N, 3, T, V, M).

        Returns:
            (N, F, T', V), T' a quarter of T: the output of the last block, averaged over the bodies.

        Raises:
            ValueError: if the channels or joints of ``x`` are not those of the encoder.
        """
        if x.dim() != 5 or x.shape[1] != self.in_channels or x.shape[3] != self.num_joints:
            raise ValueError(
                f"x: expected shape (N, {self.in_channels}, T, {self.num_joints}, M), got {tuple(x.shape)}"
            )
        clips, channels, frames, joints, bodies = x.shape
        x = x.permute(0, 4, 3, 1, 2).reshape(clips * bodies, joints * channels, frames)
        x = self.data_norm(x).view(clips * bodies, joints, channels, frames).permute(0, 2, 3, 1)
        return self.blocks(x.contiguous()).unflatten(0, (clips, bodies)).mean(1)


def _initialize_published(module: nn.Module) -> None:
    if isinstance(module, GraphConv | nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    _zero_bias(module)


def _initialize_kaiming(module: nn.Module) -> None:
    if isinstance(module, GraphConv):
        parts, out_channels, _ = module.weight.shape
        nn.init.normal_(module.weight, 0.0, (2.0 / (parts * out_channels)) ** 0.5)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    _zero_bias(module)


def _zero_bias(module: nn.Module) -> None:
    bias = getattr(module, "bias", None)
    if isinstance(bias, nn.Parameter):
        nn.init.zeros_(bias)


# Names of the published ST-GCN's modules, as CrosSCLR, AimCLR and the method's own code release them; those of the
# encoder stand on the right. The classifier or projection `fc` is not part of the encoder.
PUBLISHED_BLOCK_NAMES = {
    "gcn.conv": "graph",
    "tcn.0": "graph_norm",
    "tcn.2": "temporal",
    "tcn.3": "temporal_norm",
    "residual.0": "residual.0",
    "residual.1": "residual.1",
}


def load_published_state_dict(encoder: STGCN, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Load the weights of a published ST-GCN into an encoder of the same sizes.

    ``data_bn`` becomes ``data_norm``, ``st_gcn_networks.i.<name>`` becomes ``blocks.i.<new name>`` (see
    ``PUBLISHED_BLOCK_NAMES``; the 1x1 convolution ``gcn.conv`` of K * C_out channels becomes the K weights of the
    graph convolution), ``edge_importance.i`` becomes ``blocks.i.graph.edge_importance``, and ``A`` the adjacency.

    Args:
        encoder: receives the weights.
        state_dict: published names to tensors.

    Returns:
        What belongs to no part of the encoder: the entries of ``fc``.

    Raises:
        RuntimeError: from ``load_state_dict``, if a weight is missing, unknown, or of another shape.
    """
    graphs = [cast(Block, block).graph for block in encoder.blocks]
    state: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        first, _, rest = name.partition(".")
        if first == "A":
            for graph in graphs:
                graph.adjacency = value.to(graph.adjacency)
        elif first == "fc":
            head[name] = value
        elif first == "data_bn":
            state[f"data_norm.{rest}"] = value
        elif first == "edge_importance":
            state[f"blocks.{rest}.graph.edge_importance"] = value
        elif first == "st_gcn_networks":
            index, _, rest = rest.partition(".")
            module, _, leaf = rest.rpartition(".")
            if module == "gcn.conv":
                value = value.view(getattr(graphs[int(index)], leaf).shape)
            state[f"blocks.{index}.{PUBLISHED_BLOCK_NAMES.get(module, module)}.{leaf}"] = value
        else:
            state[name] = value
    encoder.load_state_dict(state)
    return head

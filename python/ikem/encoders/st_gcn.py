"""ST-GCN (Yan et al., AAAI 2018) at quarter width, the encoder of CrosSCLR, AimCLR and of the method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ikem.encoders.encoder import TEMPORAL_KERNEL, Encoder, Initialization, shortcut
from ikem.encoders.norm import batch_norm
from ikem.encoders.recomputation import conv_of_normed, conv_of_remade, norm_of_conv, remade
from ikem_ext import graph_conv
from ikem_ext.nn import TemporalConv
from ikem_ext.nn.folding import Shift, scale_and_shift
from ikem_ext.nn.normalized import computes_natively, convolved, convolved_before, takes_moments
from ikem_ext.nn.temporal_conv import convolves_natively
from ikem_ext.skeleton import SkeletonLayout


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

    def before(self, norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map likewise, and make the moments that a norm behind it takes, or None."""
        if not takes_moments(norm, x):
            return self(x), None
        return graph_conv(x, self.weight, self.bias, self.adjacency * self.edge_importance, moments=True)


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
        self.graph_norm: nn.Module = nn.BatchNorm2d(out_channels)
        self.temporal: nn.Module = TemporalConv(out_channels, out_channels, TEMPORAL_KERNEL, stride)
        self.temporal_norm: nn.Module = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.residual = shortcut(in_channels, out_channels, stride) if residual else None
        #: Whether no other block keeps the output for its backward pass.
        self.is_last = False

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, T, V) to (N, C_out, ceil(T / stride), V)."""
        y, moments = self.convolve(x)
        return batch_norm(
            self.temporal_norm,
            y,
            dropout=self.dropout.p if self.dropout.training else 0.0,
            residual=None if self.residual is None else self.shortcut(x),
            relu=True,
            forget=self.is_last and self.remakes,
            moments=moments,
        )

    def convolve(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Convolve over the graph, then over time; and return moments, where they were made.

        What lies between is made again in the backward pass: that is little work, and much memory.
        """
        temporal = cast(TemporalConv, self.temporal)
        if not self.remakes:
            return convolved(self.graph_norm, temporal, *self.graph.before(self.graph_norm, x))
        if computes_natively(self.graph_norm, x) and convolves_natively(temporal, x):
            norm = cast(nn.BatchNorm2d, self.graph_norm)
            return conv_of_normed(self.graph, norm, temporal, x, self.graph.parameters())
        parameters = (*self.graph.parameters(), *self.graph_norm.parameters())
        return conv_of_remade(self.activated, temporal, x, parameters), None

    def activated(self, x: Tensor, update: bool = True) -> Tensor:
        """Apply graph convolution, batch normalization and ReLU; see `batch_norm` for ``update``."""
        y, moments = self.graph.before(self.graph_norm, x)
        return batch_norm(self.graph_norm, y, relu=True, update=update, moments=moments)

    @property
    def remakes(self) -> bool:
        """Whether there will be a backward pass that shall make again what is cheap (a compiler decides by itself)."""
        return torch.is_grad_enabled() and not torch.compiler.is_compiling()

    def shortcut(self, x: Tensor) -> Tensor:
        """Apply the residual."""
        if not isinstance(self.residual, nn.Sequential):
            return x
        if not self.remakes:
            return self.projected(x)
        conv, norm = self.residual
        if computes_natively(norm, x):
            return norm_of_conv(cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, norm), x)
        return remade(self.projected, x, self.residual.parameters())

    def projected(self, x: Tensor, update: bool = True) -> Tensor:
        """Apply the residual's 1x1 convolution and batch normalization; see `batch_norm` for ``update``."""
        conv, norm = cast(nn.Sequential, self.residual)
        y, moments = convolved_before(norm, conv, x)
        return batch_norm(norm, y, update=update, moments=moments)

    def fold_norms(self) -> None:
        """Make the norms parts of the convolutions, of the graph's but the scale: see :func:`ikem_ext.nn.folded`."""
        scale, shift = scale_and_shift(cast(nn.BatchNorm2d, self.graph_norm))
        self.graph.weight.mul_(scale[:, None])
        self.graph.bias.mul_(scale)
        self.graph_norm = Shift(shift)
        self.temporal = fuse_conv_bn_eval(cast(nn.Conv2d, self.temporal), cast(nn.BatchNorm2d, self.temporal_norm))
        self.temporal_norm = nn.Identity()


class STGCN(Encoder):
    """Spatial-temporal graph convolutional network (Yan et al., AAAI 2018) as an encoder.

    Example:
        >>> from ikem_ext.skeleton import get_layout
        >>> encoder = STGCN(get_layout("ntu25"), base_width=4, feature_width=24)
        >>> clips = torch.zeros(2, 3, 50, 25, 2)
        >>> encoder(clips).shape, encoder.feature_map(clips).shape
        (torch.Size([2, 24]), torch.Size([2, 24, 13, 25]))
    """

    block = Block

    def __init__(self, layout: SkeletonLayout, **options: Any) -> None:
        super().__init__(layout, **options)
        cast(Block, self.blocks[-1]).is_last = True

    def initialize(self, module: nn.Module, initialization: Initialization) -> None:
        """Draw the weights of one module of the encoder; a graph convolution is drawn as a 1x1 convolution."""
        if isinstance(module, GraphConv):
            parts, out_channels, _ = module.weight.shape
            kaiming = (2.0 / (parts * out_channels)) ** 0.5
            nn.init.normal_(module.weight, 0.0, 0.02 if initialization == "published" else kaiming)
        super().initialize(module, initialization)


# Names of the published ST-GCN's modules, as CrosSCLR, AimCLR and the method's own code release them; those of the
# encoder stand on the right. The classifier or projection `fc`, or `fcn`, is not part of the encoder.
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
    graph convolution), and ``edge_importance.i`` becomes ``blocks.i.graph.edge_importance``. Where ``A`` weighs the
    edges otherwise than the encoder's layout does, the edge importance makes up for it.

    Args:
        encoder: receives the weights.
        state_dict: published names to tensors.

    Returns:
        What belongs to no part of the encoder: the entries of ``fc`` or ``fcn``.

    Raises:
        RuntimeError: from ``load_state_dict``, if a weight is missing, unknown, or of another shape; or if ``A`` has
            edges that the layout has not.
    """
    graphs = [cast(Block, block).graph for block in encoder.blocks]
    state: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    adjacency: Tensor | None = None
    for name, value in state_dict.items():
        first, _, rest = name.partition(".")
        if first == "A":
            if value.shape != graphs[0].adjacency.shape:
                raise RuntimeError(f"size mismatch for A: {tuple(value.shape)}, not {tuple(graphs[0].adjacency.shape)}")
            adjacency = value
        elif first in ("fc", "fcn"):
            head[name] = value
        elif first == "data_bn":
            state[f"data_norm.{rest}"] = value
        elif first == "edge_importance":
            state[f"blocks.{rest}.graph.edge_importance"] = value
        elif first == "st_gcn_networks":
            index, _, rest = rest.partition(".")
            module, _, leaf = rest.rpartition(".")
            if module == "gcn.conv" and int(index) < len(graphs):
                expected = getattr(graphs[int(index)], leaf)
                value = value.view(expected.shape) if value.numel() == expected.numel() else value
            state[f"blocks.{index}.{PUBLISHED_BLOCK_NAMES.get(module, module)}.{leaf}"] = value
        else:
            state[name] = value
    encoder.load_state_dict(state)
    if adjacency is not None:
        for graph in graphs:
            _weigh_edges(graph, adjacency.to(graph.adjacency))
    return head


@torch.no_grad()
def _weigh_edges(graph: GraphConv, adjacency: Tensor) -> None:
    """Have a graph convolution go by another adjacency of the same edges; its own alone is not stored with it."""
    own = graph.adjacency
    if ((own == 0) & (adjacency != 0)).any():
        raise RuntimeError("A has edges that the layout has not")
    graph.edge_importance.mul_(torch.where(own == 0, 1, adjacency / own))

"""ST-GCN (Yan et al., AAAI 2018) at quarter width, the encoder of CrosSCLR, AimCLR and of the method."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ikem.encoders.encoder import TEMPORAL_KERNEL, Encoder, Initialization, shortcut
from ikem_ext import graph_conv


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


Make = Callable[[Tensor, bool], Tensor]


class _Again:
    """Makes again, for the backward pass, what the forward pass made of a function's first argument."""

    def __init__(self, make: Make, x: Tensor) -> None:
        self.make = make
        device = x.device.type
        enabled = torch.is_autocast_enabled(device)
        self.autocast = torch.autocast(device, torch.get_autocast_dtype(device), enabled=enabled, cache_enabled=False)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``x`` as a leaf and what ``make`` makes of it, running statistics apart."""
        with torch.enable_grad(), self.autocast:
            x = x.detach().requires_grad_()
            return x, self.make(x, False)


def _gradients(made: Tensor, inputs: Sequence[Tensor], wanted: Sequence[bool], grad: Tensor) -> Iterator[Tensor | None]:
    asked = [each for each, want in zip(inputs, wanted, strict=True) if want]
    found = iter(torch.autograd.grad(made, asked, grad.to(made.dtype)) if asked else ())
    return (next(found) if want else None for want in wanted)


class _Remade(torch.autograd.Function):
    """``make(x, True)``, of which only ``x`` is kept: the backward pass differentiates ``make(x, False)``."""

    @staticmethod
    def forward(ctx: Any, make: Make, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.again = _Again(make, x)
        ctx.save_for_backward(x, *parameters)
        return make(x, True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        x, made = ctx.again(x)
        return None, *_gradients(made, [x, *parameters], ctx.needs_input_grad[1:], grad)


class _ConvOfRemade(torch.autograd.Function):
    """``conv(make(x, True))``, of which only ``x`` is kept; the convolution itself is not made again."""

    @staticmethod
    def forward(
        ctx: Any, make: Make, conv: nn.Conv2d, weight: Tensor, bias: Tensor, x: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.again, ctx.conv = _Again(make, x), conv
        ctx.save_for_backward(weight, x, *parameters)
        return functional.conv2d(make(x, True), weight, bias, conv.stride, conv.padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, x, *parameters = ctx.saved_tensors
        for_weight, for_bias, *wanted = ctx.needs_input_grad[2:]
        x, made = ctx.again(x)
        grad_made, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad, made.detach().to(grad.dtype), weight.to(grad.dtype), [len(weight)],
            ctx.conv.stride, ctx.conv.padding, (1, 1), False, (0, 0), 1, (any(wanted), for_weight, for_bias),
        )  # fmt: skip
        return (
            None,
            None,
            grad_weight.to(weight.dtype) if for_weight else None,
            grad_bias.to(weight.dtype) if for_bias else None,
            *_gradients(made, [x, *parameters], wanted, grad_made),
        )


def batch_norm(norm: nn.BatchNorm2d, x: Tensor, *, gain: float = 1.0, update: bool = True) -> Tensor:
    """Apply a module's batch normalization, times a gain.

    Args:
        norm: the module.
        x: (N, C, T, V).
        gain: factor of weight and bias.
        update: in training, whether the running statistics take part; without, they stay as they are.
    """
    weight, bias = (norm.weight, norm.bias) if gain == 1 else (norm.weight * gain, norm.bias * gain)
    if not norm.training:
        return functional.batch_norm(x, norm.running_mean, norm.running_var, weight, bias, eps=norm.eps)
    if not update:
        return functional.batch_norm(x, None, None, weight, bias, training=True, eps=norm.eps)
    assert norm.num_batches_tracked is not None and norm.momentum is not None
    norm.num_batches_tracked += 1
    return functional.batch_norm(x, norm.running_mean, norm.running_var, weight, bias, True, norm.momentum, norm.eps)


class _DropOut(torch.autograd.Function):
    """Zeroes entries in place, without the factor 1 / (1 - p); draws the mask again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, p: float) -> Tensor:
        ctx.mark_dirty(y)
        ctx.drawn = y.shape, y.stride(), p, int(torch.empty((), dtype=torch.int64).random_())
        return y.mul_(random_mask(*ctx.drawn))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * random_mask(*ctx.drawn), None


def random_mask(shape: Sequence[int], stride: Sequence[int], p: float, seed: int) -> Tensor:
    """Draw zeros with probability p, else ones, in a dense memory layout on the CPU.

    An entry is 1 where 8 random bits are an integer of at least ``256 p`` (32 bits where that is no integer): PyTorch
    itself draws a double for every entry, which takes longer than the layers around.

    Returns:
        int8.

    Example:
        >>> mask = random_mask((100, 1000), (1000, 1), 0.25, seed=0)
        >>> mask.unique().tolist(), 0.74 < mask.float().mean().item() < 0.76
        ([0, 1], True)
    """
    size = math.prod(shape)
    bits, integer = (8, torch.int8) if (256 * p).is_integer() else (32, torch.int32)
    random = torch.Generator().manual_seed(seed)
    words = torch.empty(-(-size * bits // 64), dtype=torch.int64).random_(-(2**63), None, generator=random)
    mask = words.view(integer)[:size] >= round(p * 2**bits) - 2 ** (bits - 1)
    return mask.view(torch.int8).as_strided(shape, stride)


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
        self.residual = shortcut(in_channels, out_channels, stride) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, T, V) to (N, C_out, ceil(T / stride), V)."""
        y = self.drop_out(self.convolve(x))
        if self.residual is not None:
            y.add_(self.shortcut(x))
        return functional.relu(y, inplace=True)

    def convolve(self, x: Tensor) -> Tensor:
        """Convolve over the graph, then over time.

        What lies between is made again in the backward pass: that is little work, and much memory.
        """
        if not self.remakes:
            return self.temporal(self.activated(x))
        parameters = (*self.graph.parameters(), *self.graph_norm.parameters())
        conv = self.temporal
        return _ConvOfRemade.apply(self.activated, conv, conv.weight, conv.bias, x, *parameters)

    def activated(self, x: Tensor, update: bool = True) -> Tensor:
        """Apply graph convolution, batch normalization and ReLU; see `batch_norm` for ``update``."""
        return functional.relu(batch_norm(self.graph_norm, self.graph(x), update=update), inplace=True)

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
        return _Remade.apply(self.projected, x, *self.residual.parameters())

    def projected(self, x: Tensor, update: bool = True) -> Tensor:
        """Apply the residual's 1x1 convolution and batch normalization; see `batch_norm` for ``update``."""
        conv, norm = cast(nn.Sequential, self.residual)
        return batch_norm(cast(nn.BatchNorm2d, norm), conv(x), update=update)

    def drop_out(self, y: Tensor) -> Tensor:
        """Apply batch normalization and dropout, whose factor 1 / (1 - p) the normalization takes over."""
        if not self.training or self.dropout.p == 0:
            return batch_norm(self.temporal_norm, y)
        if y.device.type != "cpu" or torch.compiler.is_compiling():
            return self.dropout(batch_norm(self.temporal_norm, y))
        y = batch_norm(self.temporal_norm, y, gain=1 / (1 - self.dropout.p))
        return _DropOut.apply(y, self.dropout.p)


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

    def initialize(self, module: nn.Module, initialization: Initialization) -> None:
        """Draw the weights of one module of the encoder; a graph convolution is drawn as a 1x1 convolution."""
        if isinstance(module, GraphConv):
            parts, out_channels, _ = module.weight.shape
            kaiming = (2.0 / (parts * out_channels)) ** 0.5
            nn.init.normal_(module.weight, 0.0, 0.02 if initialization == "published" else kaiming)
        super().initialize(module, initialization)


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

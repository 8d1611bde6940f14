"""What the units of several projects share: checks, initialization, and 1x1 convolutions taken together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.modules.batchnorm import _BatchNorm

from .._checks import Shapes
from ..graph_conv import graph_conv
from ..pairwise_products import pairwise_products as summed_products
from ..refined_graph_conv import mixed
from ..refined_graph_conv import refined_graph_conv as convolved_by_relations
from .folding import Shift, scale_and_shift


def graph_parts(adjacency: Tensor | npt.NDArray) -> Tensor:
    """A copy of the adjacency (K, V, V), whatever it comes as, in PyTorch's default dtype as all parameters are."""
    parts = torch.as_tensor(adjacency).detach().to(torch.get_default_dtype(), copy=True)
    Shapes().check("A", parts, "K V V")
    return parts


def check_features(x: Tensor, channels: int, joints: int) -> None:
    """Requires (N, C, T, V) of a unit's channels and joints."""
    Shapes().check("x", x, f"N {channels} T {joints}")


def shortcut(in_channels: int, out_channels: int) -> nn.Module:
    """The identity, or a 1x1 convolution and batch norm where the widths differ."""
    if in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels))


def initialize(module: nn.Module) -> None:
    """All convolutions in it from N(0, 2 / fan_out), biases 0; batch norms as the identity."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out")
            _zero(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            initialize_norm(part, 1)


def initialize_norm(norm: nn.BatchNorm2d, scale: float) -> None:
    """Weight ``scale``, bias 0."""
    nn.init.constant_(norm.weight, scale)
    nn.init.zeros_(norm.bias)


def initialize_branches(convolutions: Iterable[Any]) -> None:
    """1x1 convolutions whose outputs are summed, from N(0, 2 / (C_in * C_out * number of branches)); biases 0."""
    branches = list(convolutions)
    for each in branches:
        nn.init.normal_(each.weight, 0, math.sqrt(2 / (each.weight.numel() * len(branches))))
        _zero(each.bias)


def _zero(bias: Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)


def stacked(convolutions: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """Weights (K, C_out, C_in) and biases (K, C_out) of K 1x1 convolutions."""
    weights, biases = zip(*((each.weight.flatten(1), each.bias) for each in convolutions), strict=True)
    return torch.stack(weights), torch.stack(biases)


def scale_convolutions(convolutions: Iterable[Any], scale: Tensor) -> None:
    """Multiplies the outputs of convolutions by numbers (C_out,), in place."""
    for each in convolutions:
        each.weight *= scale[:, None, None, None]
        each.bias *= scale


def fold_into_sum(convolutions: Sequence[Any] | nn.ModuleList, norm: _BatchNorm) -> None:
    """Has convolutions whose outputs are summed take over the batch norm of the sum, in place."""
    scale, shift = scale_and_shift(norm)
    scale_convolutions(convolutions, scale)
    first: Any = convolutions[0]
    first.bias += shift


def fold_scale(convolutions: Iterable[Any], norm: _BatchNorm) -> Shift:
    """Has convolutions take over the scale of the batch norm of what they make, in place; what is left is the shift."""
    scale, shift = scale_and_shift(norm)
    scale_convolutions(convolutions, scale)
    return Shift(shift)


def biased(y: Tensor, bias: Tensor) -> Tensor:
    """``y`` (N, C, T, V), in its dtype also under autocast, with ``bias`` (C,) added to its channels."""
    return y + bias.to(y.dtype)[:, None, None]


def pairwise_products(x: Tensor, conv_a: nn.ModuleList, conv_b: nn.ModuleList) -> Tensor:
    """For each k ``mean over c, t of conv_a[k](x)[c,t,v] * conv_b[k](x)[c,t,w]``: (N, K, V, V)."""
    weight, bias = stacked(each for pair in zip(conv_a, conv_b, strict=True) for each in pair)
    embedded = conv2d(x, weight.flatten(0, 1)[..., None, None], bias.flatten())
    count = weight.shape[1] * x.shape[2]
    if x.device.type == "cpu":
        return summed_products(embedded, len(conv_a)) / count
    a, b = embedded.reshape(x.shape[0], len(conv_a), 2, count, x.shape[3]).unbind(2)
    return a.mT @ b / count


def mean_over_frames(x: Tensor) -> Tensor:
    """(N, C, V) of (N, C, T, V), made in the memory layout of the input: in another one it takes ten times as long."""
    return x.movedim(1, -1).mean(1).mT if x.stride(1) == 1 else x.mean(2)


def refined_graph_conv(
    x: Tensor,
    subsets: nn.ModuleList | Sequence[nn.Module],
    adjacency: Tensor | None,
    alpha: Tensor | float,
    *,
    sum_over_v: bool,
) -> Tensor:
    """CTR-GCN's graph convolution, summed over K subsets with convolutions of their own, ``conv1`` to ``conv4``.

    The adjacencies are ``conv4(tanh(conv1(x)[u] - conv2(x)[v])) * alpha + adjacency[u, v]`` with convolutions averaged
    over time, and ``conv3(x)`` is summed over one joint of each pair. The average of a convolution is that of its
    input, convolved; and ``adjacency`` is one more relation between joints, which the last convolution passes on.

    Args:
        x: (N, C_in, T, V).
        subsets: K modules that have the convolutions.
        adjacency: (K, V, V) or None for none.
        alpha: a number.
        sum_over_v: whether v is the joint that is summed over and u that of the result, or the other way round.

    Returns:
        (N, C_out, T, V).
    """
    mean = mean_over_frames(x)
    n, joints = mean.shape[0], mean.shape[-1]
    ends = []
    for name in ("conv1", "conv2"):
        weight, bias = stacked(getattr(each, name) for each in subsets)
        ends.append((weight.flatten(0, 1) @ mean + bias.flatten()[:, None]).unflatten(1, bias.shape))
    u, v = (-1, -2) if sum_over_v else (-2, -1)  # their axes: graph_conv sums over the first of the two
    relations = [torch.tanh((ends[0].unsqueeze(v) - ends[1].unsqueeze(u)).flatten(-2))]
    relations.append(relations[0].new_ones(n, len(subsets), 1, joints**2))
    weight, bias = stacked(each.conv4 for each in subsets)
    weights = [weight * alpha, bias[..., None] * alpha]
    if adjacency is not None:
        adjacency = adjacency.mT if sum_over_v else adjacency
        relations.append(adjacency.flatten(-2)[:, None].expand(n, -1, -1, -1))
        weights.append(torch.ones_like(bias[..., None]))
    between = torch.cat(relations, 2).unflatten(-1, (joints, joints))
    weight, bias = stacked(each.conv3 for each in subsets)
    mixing = torch.cat(weights, -1)
    if x.device.type != "cpu":
        return graph_conv(x, weight, bias, mixed(between, mixing))
    return convolved_by_relations(x, weight, bias, between, mixing)


class RefinedGraphConv(nn.Module):
    """What the CTRGC of CTR-GCN and that of PYSKL share: all but the axis that is summed over.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        rel_channels: channels of the relations between joints.
    """

    sum_over_v: bool  # as of `refined_graph_conv`

    def __init__(self, in_channels: int, out_channels: int, rel_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.rel_channels = rel_channels
        self.conv1 = nn.Conv2d(in_channels, rel_channels, 1)
        self.conv2 = nn.Conv2d(in_channels, rel_channels, 1)
        self.conv3 = nn.Conv2d(in_channels, out_channels, 1)
        self.conv4 = nn.Conv2d(rel_channels, out_channels, 1)
        initialize(self)

    def forward(self, x: Tensor, A: Tensor | None = None, alpha: Tensor | float = 1) -> Tensor:  # noqa: N803
        """Maps (N, C_in, T, V) to (N, C_out, T, V); A (V, V), or None for none; alpha a number."""
        shapes = Shapes()
        shapes.check("x", x, f"N {self.in_channels} T V")
        if A is not None:
            shapes.check("A", A, "V V")
        return refined_graph_conv(x, [self], None if A is None else A[None], alpha, sum_over_v=self.sum_over_v)

"""The graph convolution against the published forms, which transform or aggregate everything first, and the twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import conv2d

import ikem_ext
from ikem_ext import LAYOUTS, reference

from .measure import OURS, Case

Function = Callable[..., Tensor]

#: Input and output channels, frames: layers of the method's encoder, and wider ones.
LAYERS = ((16, 16, 50), (64, 64, 13), (64, 256, 13), (64, 64, 50))


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    """A skeleton's adjacency under a learned mask, then one for each clip, and for each clip and channel."""
    bodies = 8 if quick else 64 if device.type == "cpu" else 1024
    generator = torch.Generator().manual_seed(0)
    skeleton = LAYOUTS["ntu25"].adjacency()
    parts, joints, _ = skeleton.shape

    def case(name: str, published: Function, c_in: int, c_out: int, frames: int, adjacency: Tensor) -> Case:
        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(device, dtype)

        x, weight, bias = random(bodies, c_in, frames, joints), random(parts, c_out, c_in), random(parts, c_out)
        cotangent = random(bodies, c_out, frames, joints)
        functions = {OURS: ikem_ext.graph_conv, "published": published, "vectorized": reference.graph_conv}
        if not quick:
            functions |= {
                f"{variant}, compiled": torch.compile(function, dynamic=False)
                for variant, function in list(functions.items())[1:]
            }
        leaves = (x, weight, bias, adjacency.to(device, dtype))
        return Case(
            "graph_conv",
            f"{name}, forward and backward, {c_in} to {c_out} channels, {frames} frames, {bodies} bodies",
            {
                variant: partial(_forward_and_backward, function, leaves, cotangent)
                for variant, function in functions.items()
            },
            # x and the gradient of y are read in the backward pass, x and y in the forward pass.
            bytes_moved=3 * x.nbytes + 2 * cotangent.nbytes,
            operations=3 * 2 * bodies * frames * joints * parts * c_in * c_out,
            parameters={
                "bodies": bodies, "joints": joints, "parts": parts, "channels": [c_in, c_out], "frames": frames,
                "dtype": str(dtype),
            },
        )  # fmt: skip

    mask = 1 + 0.1 * torch.randn(skeleton.shape, generator=generator)
    for layer in LAYERS[:2] if quick else LAYERS:
        yield case("skeleton", _published, *layer, skeleton * mask)
    per_clip = torch.randn(bodies, *skeleton.shape, generator=generator)
    yield case("adjacency per clip", _published_per_clip, *LAYERS[1], per_clip)
    per_channel = torch.randn(bodies, parts, LAYERS[1][1], joints, joints, generator=generator)
    yield case("adjacency per clip and channel", _published_per_channel, *LAYERS[1], per_channel)


def _forward_and_backward(function: Function, leaves: tuple[Tensor, ...], cotangent: Tensor) -> tuple[Tensor, ...]:
    fresh = [leaf.detach().requires_grad_() for leaf in leaves]
    return torch.autograd.grad(function(*fresh), fresh, cotangent)


def _transformed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The 1x1 convolution that holds all parts of the graph: (N, K, C_out, T, V)."""
    return conv2d(x, weight.flatten(0, 1)[:, :, None, None], bias.flatten()).unflatten(1, bias.shape)


def _published(x: Tensor, weight: Tensor, bias: Tensor, adjacency: Tensor) -> Tensor:
    """As ST-GCN's code."""
    return torch.einsum("nkctv,kvw->nctw", _transformed(x, weight, bias), adjacency).contiguous()


def _published_per_clip(x: Tensor, weight: Tensor, bias: Tensor, adjacency: Tensor) -> Tensor:
    """As 2s-AGCN's code: part by part, the joints first; the bias as a channel of ones, which passes through too."""
    n, c, t, v = x.shape
    ones = x.new_ones(n, 1, t, v)
    weight = torch.cat((weight, bias[..., None]), -1)
    features = torch.cat((x, ones), 1).reshape(n, (c + 1) * t, v)
    y = [
        conv2d((features @ adjacency[:, k]).view(n, c + 1, t, -1), weight[k, :, :, None, None])
        for k in range(len(weight))
    ]
    return torch.stack(y).sum(0)


def _published_per_channel(x: Tensor, weight: Tensor, bias: Tensor, adjacency: Tensor) -> Tensor:
    """As CTR-GCN's code: part by part, the channels first."""
    transformed = _transformed(x, weight, bias)
    y = [torch.einsum("nctv,ncvw->nctw", transformed[:, k], adjacency[:, k]) for k in range(len(weight))]
    return torch.stack(y).sum(0)

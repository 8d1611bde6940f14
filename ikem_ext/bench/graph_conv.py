"""The graph convolution against the published forms, which transform or aggregate everything first, and the twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import conv2d

import ikem_ext
from ikem_ext import LAYOUTS, reference

from .measure import OURS, Case, forward, forward_and_backward, with_compiled

Function = Callable[..., Tensor]

#: Input and output channels, frames: layers of the method's encoder, and wider ones.
LAYERS = ((16, 16, 50), (64, 64, 13), (64, 256, 13), (64, 64, 50))
GPU_LAYERS = ((16, 16, 50), (32, 32, 25), (64, 64, 13), (64, 256, 13))


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    """A skeleton's adjacency under a learned mask, then one for each clip, and for each clip and channel."""
    bodies = 8 if quick else 64 if device.type == "cpu" else 256
    layers = LAYERS if device.type == "cpu" else GPU_LAYERS
    compiled = () if quick else ("published", "vectorized")
    for layer in layers[:2] if quick else layers:
        yield from _cases("skeleton", _published, compiled, device, dtype, bodies, layer)
    yield from _cases("adjacency per clip", _published_per_clip, compiled, device, dtype, bodies, (64, 64, 13))
    yield from _cases(
        "adjacency per clip and channel", _published_per_channel, compiled, device, dtype, bodies, (64, 64, 13)
    )


def scaling(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    """Forward and backward, over bodies and over frames."""
    sizes = [("bodies", bodies, 13) for bodies in ((4, 16) if quick else (4, 16, 64, 256))]
    sizes += [("frames", 16, frames) for frames in ((13, 25) if quick else (13, 25, 50, 100, 200))]
    compiled = () if quick else ("vectorized",)
    for swept, bodies, frames in sizes:
        _, both = _cases("skeleton", _published, compiled, device, dtype, bodies, (64, 64, frames), swept)
        yield both


def _cases(
    kind: str,
    published: Function,
    compiled: Sequence[str],
    device: torch.device,
    dtype: torch.dtype,
    bodies: int,
    layer: tuple[int, int, int],
    swept: str | None = None,
) -> Iterator[Case]:
    """Forward, and forward and backward."""
    c_in, c_out, frames = layer
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    skeleton = LAYOUTS["ntu25"].adjacency()
    parts, joints, _ = skeleton.shape
    if kind == "skeleton":
        adjacency = skeleton * (1 + 0.1 * random(*skeleton.shape))
    elif kind == "adjacency per clip":
        adjacency = random(bodies, *skeleton.shape)
    else:
        adjacency = random(bodies, parts, c_out, joints, joints)
    x, cotangent = random(bodies, c_in, frames, joints), random(bodies, c_out, frames, joints)
    tensors = x, random(parts, c_out, c_in), random(parts, c_out), adjacency
    leaves = [tensor.to(device, dtype).requires_grad_() for tensor in tensors]
    cotangent = cotangent.to(device, dtype)
    functions = with_compiled(
        {OURS: ikem_ext.graph_conv, "published": published, "vectorized": reference.graph_conv}, compiled
    )
    sizes = {"frames": f"{frames} frames", "bodies": f"{bodies} bodies"}
    if swept:
        del sizes[swept]

    # An entry of the adjacency, where it is not zero, multiplies as many channels as the narrower side has.
    channels = min(c_in, c_out)
    multiplied = {3: bodies * channels, 4: channels, 5: 1}[adjacency.dim()]
    products = bodies * joints * parts * c_in * c_out + int(adjacency.count_nonzero()) * multiplied
    # The backward pass reads x, the adjacency and the gradient of y, and writes the gradients of x and the adjacency.
    once = x.nbytes + adjacency.nbytes + cotangent.nbytes
    for passes, run, bytes_moved, times in (
        ("forward", forward, once, 1),
        ("forward and backward", partial(forward_and_backward, cotangent=cotangent), 3 * once - cotangent.nbytes, 3),
    ):
        yield Case(
            "graph_conv",
            ", ".join([kind, f"{c_in} to {c_out} channels", *sizes.values()]),
            {variant: partial(run, function, leaves) for variant, function in functions.items()},
            bytes_moved,
            operations=times * 2 * frames * products,
            parameters={
                "bodies": bodies, "joints": joints, "parts": parts, "channels": [c_in, c_out], "frames": frames,
                "dtype": str(dtype),
            },
            passes=passes,
            swept=swept,
        )  # fmt: skip


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


PARTS = (cases,)
SWEEPS = (scaling,)

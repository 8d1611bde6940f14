"""The convolution over time against PyTorch's own, which the published code calls, and which oneDNN runs on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d

import ikem_ext
from ikem_ext import LAYOUTS

from . import graph_conv
from .features import random_features
from .measure import OURS, Case, forward, forward_and_backward, with_compiled
from .operations import frames_met

#: Channels, frames, stride: layers of the method's encoder, and of ST-GCN at the published widths.
LAYERS = ((16, 50, 1), (32, 50, 2), (64, 13, 1), (256, 13, 1), (64, 50, 1), (128, 25, 1))
TAPS, PADDING = 9, 4
#: Channels and frames of blocks.
CHAINS = ((16, 50), (32, 25), (64, 13))
EPS = 1e-5
#: Arrays of the size of x that the three passes of a block read and write, forward. Backward there are twice as many:
#: five of the norm at the end, three of each convolution, and three of the norm between them.
CHAIN_ARRAYS = 7


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    """Nine taps, forward, and forward and backward."""
    bodies = 4 if quick else 64 if device.type == "cpu" else 256
    for layer in LAYERS[:2] if quick else LAYERS:
        yield from _cases(device, dtype, bodies, *layer, compiled=() if quick else ("published",))


def _cases(
    device: torch.device,
    dtype: torch.dtype,
    bodies: int,
    channels: int,
    frames: int,
    stride: int,
    *,
    compiled: tuple[str, ...],
) -> Iterator[Case]:
    joints = LAYOUTS["ntu25"].num_joints
    generator = torch.Generator().manual_seed(0)
    x = random_features((bodies, channels, frames, joints), device, dtype, generator).requires_grad_()
    cotangent = random_features((bodies, channels, -(-frames // stride), joints), device, dtype, generator)
    weight = torch.randn(channels, channels, TAPS, generator=generator).to(device, dtype).requires_grad_()
    bias = torch.randn(channels, generator=generator).to(device, dtype).requires_grad_()
    functions = with_compiled(
        {
            OURS: partial(ikem_ext.temporal_conv, stride=stride, padding=PADDING),
            "published": partial(_published, stride=stride),
        },
        compiled,
    )
    operations = 2 * bodies * joints * channels**2 * frames_met(frames, TAPS, stride, padding=PADDING)
    # The backward pass reads x, the weight and the gradient of y, and writes the gradients of x and the weight.
    once = x.nbytes + weight.nbytes + cotangent.nbytes
    for passes, run, bytes_moved, times in (
        ("forward", forward, once, 1),
        ("forward and backward", partial(forward_and_backward, cotangent=cotangent), 3 * once - cotangent.nbytes, 3),
    ):
        yield Case(
            "temporal_conv",
            f"{channels} channels, {frames} frames{f', stride {stride}' if stride > 1 else ''}, {bodies} bodies",
            {variant: partial(run, function, [x, weight, bias]) for variant, function in functions.items()},
            bytes_moved,
            operations=times * operations,
            parameters={
                "bodies": bodies, "joints": joints, "channels": channels, "frames": frames, "stride": stride,
                "taps": TAPS, "dtype": str(dtype),
            },
            passes=passes,
        )  # fmt: skip


def _published(x: Tensor, weight: Tensor, bias: Tensor, *, stride: int) -> Tensor:
    return conv2d(x, weight[..., None], bias, (stride, 1), (PADDING, 0))


def chains(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    """A block of ST-GCN, in which it stands between a graph convolution and two norms, as a chain."""
    bodies = 4 if quick else 64 if device.type == "cpu" else 256
    for channels, frames in CHAINS[:1] if quick else CHAINS:
        yield from _chain_cases(device, dtype, bodies, channels, frames, compiled=() if quick else ("published",))


def _chain_cases(
    device: torch.device, dtype: torch.dtype, bodies: int, channels: int, frames: int, *, compiled: tuple[str, ...]
) -> Iterator[Case]:
    adjacency = LAYOUTS["ntu25"].adjacency().to(device, dtype)
    parts, joints, _ = adjacency.shape
    generator = torch.Generator().manual_seed(0)
    x, cotangent = (
        random_features((bodies, channels, frames, joints), device, dtype, generator).requires_grad_() for _ in range(2)
    )
    shapes = (parts, channels, channels), (channels, channels, TAPS), *[(channels,)] * 4
    parameters = [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]
    functions = with_compiled(
        {OURS: partial(_chain, adjacency), "published": partial(_published_chain, adjacency)}, compiled
    )
    joint = frames * parts * channels**2 + frames_met(frames, TAPS, padding=PADDING) * channels**2
    edges = int(adjacency.count_nonzero()) * frames * channels
    for passes, run, arrays, times in (
        ("forward", forward, CHAIN_ARRAYS, 1),
        ("forward and backward", partial(forward_and_backward, cotangent=cotangent.detach()), 3 * CHAIN_ARRAYS, 3),
    ):
        yield Case(
            "temporal_conv",
            f"block of {channels} channels, {frames} frames, {bodies} bodies",
            {variant: partial(run, function, [x, *parameters]) for variant, function in functions.items()},
            arrays * x.nbytes,
            operations=times * 2 * bodies * (joints * joint + edges),
            parameters={
                "bodies": bodies, "joints": joints, "channels": channels, "frames": frames, "taps": TAPS,
                "dtype": str(dtype),
            },
            passes=passes,
        )  # fmt: skip


def _chain(
    adjacency: Tensor, x: Tensor, graph: Tensor, kernel: Tensor, first: Tensor, shift: Tensor, last: Tensor, end: Tensor
) -> Tensor:
    y, moments = ikem_ext.graph_conv(x, graph, None, adjacency, moments=True)
    y, moments = ikem_ext.temporal_conv(
        y, kernel, padding=PADDING, norm=(first, shift, moments, EPS), training=True, moments=True
    )
    return ikem_ext.batch_norm(y, last, end, eps=EPS, residual=x, relu=True, moments=moments)


def _published_chain(
    adjacency: Tensor, x: Tensor, graph: Tensor, kernel: Tensor, first: Tensor, shift: Tensor, last: Tensor, end: Tensor
) -> Tensor:
    y = graph_conv._published(x, graph, graph.new_zeros(graph.shape[:2]), adjacency)
    y = batch_norm(y, None, None, first, shift, training=True, eps=EPS).relu()
    y = conv2d(y, kernel[..., None], None, padding=(PADDING, 0))
    return (batch_norm(y, None, None, last, end, training=True, eps=EPS) + x).relu()


PARTS = (cases, chains)

"""Graph convolution over the joints of a skeleton."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _library
from ._checks import Shapes, check_same

__all__ = ["graph_conv"]


def graph_conv(x: Tensor, weight: Tensor, bias: Tensor | None, adjacency: Tensor) -> Tensor:
    r"""Transforms the channels of every joint and sums over the joints, one term per part of the graph.

    .. math:: y[n,o,t,w] = \sum_k \sum_v A[k,v,w] \Big(\sum_c W[k,o,c]\, x[n,c,t,v] + b[k,o]\Big)

    Args:
        x: features, (N, C_in, T, V).
        weight: W, (K, C_out, C_in): one 1x1 convolution for each of the K parts of the graph.
        bias: b, (K, C_out), or None for none.
        adjacency: A, (K, V, W), or one for each clip, (N, K, V, W), or for each clip and output channel,
            (N, K, C_out, V, W).

        All may carry one more leading dimension G: G independent graph convolutions in one call.

    Returns:
        (N, C_out, T, W), or (G, N, C_out, T, W), in the dtype of ``x`` and summed in float32 or wider; in memory
        channels last if ``x`` is. Differentiable, once, in all inputs; only the gradients asked for are made, that of
        the adjacency for all its entries, zero or not. Under autocast all inputs are cast to autocast's dtype.

        Zeros of an adjacency that is not per channel are left out of the sum over joints (also where they would meet
        infinity), sums over channels and over joints are made in the cheaper order, and the same input gives the same
        bits each time, on the CPU for any number of threads. On CUDA the products of float32 are rounded to TF32 where
        PyTorch allows that for convolutions, which one with 1x1 kernels would be: by default it does,
        ``torch.backends.cudnn.allow_tf32 = False`` ends it. (``torch.compile`` keeps what was set when it compiled.)

    Raises:
        ValueError: the shapes do not fit together, or the inputs lie on different devices, or neither on the CPU nor
            on a CUDA device: elsewhere :func:`ikem_ext.reference.graph_conv` does it in plain PyTorch.
        TypeError: the dtypes differ or are not floating.
        RuntimeError: the inputs are on a CUDA device, and this build has no CUDA operations.

    Source: Yan et al., "Spatial Temporal Graph Convolutional Networks for Skeleton-Based Action Recognition",
    AAAI 2018, eq. 10; the adjacency per clip as in Shi et al. (2s-AGCN), CVPR 2019, eq. 3, and per clip and
    channel as in Chen et al. (CTR-GCN), ICCV 2021, eq. 7.

    Example:
        >>> import torch, ikem_ext
        >>> adjacency = ikem_ext.get_layout("ntu25").adjacency()
        >>> x, weight, bias = torch.randn(2, 3, 50, 25), torch.randn(3, 16, 3), torch.zeros(3, 16)
        >>> ikem_ext.graph_conv(x, weight, bias, adjacency).shape
        torch.Size([2, 16, 50, 25])
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, adjacency = x.to(dtype), weight.to(dtype), adjacency.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    shapes = Shapes()
    shapes.check("x", x, "N C_in T V", "G N C_in T V")
    group = "G " if x.dim() == 5 else ""
    shapes.check("weight", weight, group + "K C_out C_in")
    if bias is not None:
        shapes.check("bias", bias, group + "K C_out")
    shapes.check("adjacency", adjacency, *(group + form for form in ("K V W", "N K V W", "N K C_out V W")))
    check_same(("x", x), weight=weight, bias=bias, adjacency=adjacency)
    _library.require_device("x", x)
    return torch.ops.ikem_ext.graph_conv(x, weight, bias, adjacency, x.is_cuda and _allows_tf32())


def _allows_tf32() -> bool:
    """Whether convolutions may round float32 to TF32."""
    if torch.compiler.is_compiling():  # the newer flag below cannot be traced
        return torch.backends.cudnn.allow_tf32
    return torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]


def _empty_like_x(x: Tensor, *sizes: int) -> Tensor:
    """Channels last where ``x`` is, as the native operation makes it."""
    *batch, channels, frames, joints = sizes
    if x.shape[-3] > 1 and x.stride(-3) == 1 and not x.is_contiguous():
        return x.new_empty((*batch, frames, joints, channels)).movedim(-1, -3)
    return x.new_empty(sizes)


@torch.library.register_fake("ikem_ext::graph_conv")
def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, adjacency: Tensor, allow_tf32: bool) -> Tensor:
    return _empty_like_x(x, *x.shape[:-3], weight.shape[-2], x.shape[-2], adjacency.shape[-1])


@torch.library.register_fake("ikem_ext::graph_conv_backward")
def _fake_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, adjacency: Tensor, *settings: bool
) -> tuple[Tensor, ...]:
    for_x, *others, _ = settings
    return (
        _empty_like_x(x, *x.shape) if for_x else x.new_empty(0),
        *(
            x.new_empty(tensor.shape if tensor is not None and asked else 0)
            for tensor, asked in zip((weight, bias, adjacency), others, strict=True)
        ),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.allow_tf32 = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    *wanted, _ = ctx.needs_input_grad
    gradients = torch.ops.ikem_ext.graph_conv_backward(grad_y, *ctx.saved_tensors, *wanted, ctx.allow_tf32)
    return (*(gradient if asked else None for gradient, asked in zip(gradients, wanted, strict=True)), None)


def _refuse_double_backward(ctx: Any, *gradients: Tensor) -> None:
    raise RuntimeError("graph_conv: its gradients are not differentiable; use ikem_ext.reference.graph_conv")


torch.library.register_autograd("ikem_ext::graph_conv", _backward, setup_context=_setup_context)
torch.library.register_autograd("ikem_ext::graph_conv_backward", _refuse_double_backward)


@torch.library.register_vmap("ikem_ext::graph_conv")
def _vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    """Takes the mapped axis for that of the groups, or, where there are groups, the two for one."""

    def merged(argument: Tensor | None, axis: int | None) -> Tensor | None:
        if argument is None:
            return None
        mapped = argument.expand(info.batch_size, *argument.shape) if axis is None else argument.movedim(axis, 0)
        return mapped.flatten(0, 1) if grouped else mapped

    *tensors, allow_tf32 = args
    grouped = tensors[0].dim() - (in_dims[0] is not None) == 5
    y = torch.ops.ikem_ext.graph_conv(*(merged(*each) for each in zip(tensors, in_dims, strict=False)), allow_tf32)
    return (y.unflatten(0, (info.batch_size, -1)) if grouped else y), 0

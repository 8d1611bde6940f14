"""Graph convolution over the joints of a skeleton."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
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
        (N, C_out, T, W), or (G, N, C_out, T, W), in the dtype of ``x`` and summed in float32 or wider.
        Differentiable in all inputs. Under autocast all inputs are cast to autocast's dtype.

    Raises:
        ValueError: the shapes do not fit together.
        TypeError: the dtypes differ or are not floating.

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
    with torch.autocast(x.device.type, enabled=False):
        return reference.graph_conv(x, weight, bias, adjacency)

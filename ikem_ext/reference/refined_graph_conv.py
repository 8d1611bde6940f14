"""Plain-PyTorch twin of :func:`ikem_ext.refined_graph_conv`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..refined_graph_conv import check_refined_graph_conv
from .graph_conv import graph_conv


def refined_graph_conv(x: Tensor, weight: Tensor, bias: Tensor | None, relations: Tensor, mixing: Tensor) -> Tensor:
    """See :func:`ikem_ext.refined_graph_conv`; the same arguments, values and gradients."""
    check_refined_graph_conv(x, weight, bias, relations, mixing)
    wide = torch.promote_types(x.dtype, torch.float32)
    adjacency = torch.einsum("kor,nkrvw->nkovw", mixing.to(wide), relations.to(wide))
    y = graph_conv(x.to(wide), weight.to(wide), None if bias is None else bias.to(wide), adjacency)
    return y.to(x.dtype)

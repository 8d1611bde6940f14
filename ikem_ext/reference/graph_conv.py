"""Plain-PyTorch twin of :func:`ikem_ext.graph_conv`."""

from __future__ import annotations

import torch
from torch import Tensor


def graph_conv(x: Tensor, weight: Tensor, bias: Tensor | None, adjacency: Tensor) -> Tensor:
    """See :func:`ikem_ext.graph_conv`; the same arguments, values and gradients, on any device.

    Transforms the channels first and then sums over the joints, as ST-GCN's published code does.
    """
    grouped = x.dim() == 5
    if not grouped:
        bias = None if bias is None else bias[None]
        x, weight, adjacency = x[None], weight[None], adjacency[None]
    wide = torch.promote_types(x.dtype, torch.float32)
    transformed = torch.einsum("gkoc,gnctv->gnkotv", weight.to(wide), x.to(wide))
    if bias is not None:
        transformed = transformed + bias.to(wide)[:, None, :, :, None, None]
    per = {4: "gkvw", 5: "gnkvw", 6: "gnkovw"}[adjacency.dim()]
    y = torch.einsum(f"gnkotv,{per}->gnotw", transformed, adjacency.to(wide)).to(x.dtype)
    return y if grouped else y[0]

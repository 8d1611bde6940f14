"""Plain-PyTorch twin of :func:`ikem_ext.graph_conv`."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from .batch_norm import moments_of


@overload
def graph_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, adjacency: Tensor, *, moments: Literal[False] = False
) -> Tensor: ...
@overload
def graph_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, adjacency: Tensor, *, moments: Literal[True]
) -> tuple[Tensor, Tensor]: ...
def graph_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, adjacency: Tensor, *, moments: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """See :func:`ikem_ext.graph_conv`; the same arguments, values and gradients, on any device.

    Transforms the channels first and then sums over the joints, as ST-GCN's published code does.
    """
    group = "g" if x.dim() == 5 else ""
    wide = torch.promote_types(x.dtype, torch.float32)
    transformed = torch.einsum(f"{group}koc,{group}nctv->{group}nkotv", weight.to(wide), x.to(wide))
    if bias is not None:
        transformed = transformed + bias.to(wide)[..., None, :, :, None, None]
    per = {3: "kvw", 4: "nkvw", 5: "nkovw"}[adjacency.dim() - len(group)]
    y = torch.einsum(f"{group}nkotv,{group}{per}->{group}notw", transformed, adjacency.to(wide))
    return (y.to(x.dtype), moments_of(y.detach())) if moments else y.to(x.dtype)

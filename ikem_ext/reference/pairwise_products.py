"""Plain-PyTorch twin of :func:`ikem_ext.pairwise_products`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..pairwise_products import check_pairwise_products


def pairwise_products(x: Tensor, parts: int) -> Tensor:
    """See :func:`ikem_ext.pairwise_products`; the same arguments, values and gradients, on any device."""
    check_pairwise_products(x, parts)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    a, b = wide.unflatten(1, (parts, 2, -1)).unbind(2)
    return torch.einsum("nkctv,nkctw->nkvw", a, b).to(x.dtype)

"""How many dimensions features take up."""

from __future__ import annotations

import torch
from torch import Tensor


def rank_me(features: Tensor, epsilon: float = 1e-7) -> float:
    """Return the effective rank of features, RankMe, between 1 and the lesser of n and F.

    It is ``exp(-sum_k p_k log p_k)``, with ``p_k = s_k / sum_j s_j + epsilon`` of the singular values s (Garrido et
    al., ICML 2023, arXiv 2210.02885, equation 1). No label is needed. Features that are all 0 have the rank 1.

    Args:
        features: (n, F).
        epsilon: against logarithms of 0.

    Example:
        >>> round(rank_me(torch.eye(8)), 3), round(rank_me(torch.ones(8, 8)), 3)
        (8.0, 1.0)
    """
    values = torch.linalg.svdvals(features.double())
    p = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + epsilon
    return float((-p * p.log()).sum().exp())

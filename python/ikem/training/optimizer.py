"""AdamW, whose weight decay spares what is no matrix."""

from __future__ import annotations

from typing import Any

import torch


def adamw(groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter, ICLR 2019) of groups of parameters, with PyTorch's betas.

    Example:
        >>> groups = [{"params": torch.nn.Linear(3, 2).parameters(), "lr": 0.1}]
        >>> [(len(group["params"]), group["weight_decay"]) for group in adamw(groups, 0.05).param_groups]
        [(1, 0.05), (1, 0.0)]
    """
    return torch.optim.AdamW(_spare_vectors(groups), weight_decay=weight_decay)


def _spare_vectors(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups cut in two: what weight decay takes part in, and vectors (biases, norms), which it spares."""
    cut = [
        {**group, "params": [p for p in parameters if (p.ndim > 1) == decayed], **decay}
        for group in groups
        for parameters in [list(group["params"])]
        for decayed, decay in ((True, {}), (False, {"weight_decay": 0.0}))
    ]
    return [group for group in cut if group["params"]]

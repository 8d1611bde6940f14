"""What is counted: how many clips are classified rightly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def score(scores: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> dict[str, float]:
    """Return the fractions of clips whose class is the first, and among the first five."""
    top = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    hits = top == labels[:, None]
    return {"top1": float(hits[:, 0].mean()), "top5": float(hits.any(1).mean())}


def per_class(confusion: NDArray[np.int64]) -> list[float | None]:
    """Return the accuracy of every class; none where a class has no clip."""
    totals = confusion.sum(1)
    return [float(right / total) if total else None for right, total in zip(confusion.diagonal(), totals, strict=True)]

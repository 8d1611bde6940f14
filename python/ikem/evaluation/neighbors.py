"""Nearest neighbors by cosine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn import functional


def nearest_labels(
    train: Tensor, train_labels: NDArray[np.int64], test: Tensor, members: Sequence[int], k: int
) -> NDArray[np.int64]:
    """Return the labels (m, k) of the k nearest training clips by cosine, nearest first; of all where there are fewer.

    Of several modalities the cosines are averaged: unit vectors are concatenated.

    Args:
        train: (G, n, D).
        train_labels: (n,).
        test: (G, m, D).
        members: the modalities that take part.
        k: how many.
    """

    def directions(features: Tensor) -> NDArray[np.float32]:
        units = functional.normalize(features[list(members)], dim=-1) / len(members) ** 0.5
        return units.transpose(0, 1).flatten(1).cpu().numpy()

    # Between unit vectors the Euclidean order is the order of the cosine, and scikit-learn finds it faster.
    neighbors = NearestNeighbors(n_neighbors=min(k, train.shape[1]), algorithm="brute")
    return train_labels[neighbors.fit(directions(train)).kneighbors(directions(test), return_distance=False)]


def vote(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Return the most frequent label of each row; among equals, that whose nearest member comes first.

    Example:
        >>> vote(np.array([[2, 0, 1, 1], [2, 0, 0, 2]]), 3)
        array([1, 2])
    """
    counts = (labels[:, :, None] == np.arange(num_classes)).sum(1)
    winners = np.take_along_axis(counts, labels, 1) == counts.max(1, keepdims=True)
    return labels[np.arange(len(labels)), winners.argmax(1)]

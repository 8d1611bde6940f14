"""Fusion of separately trained streams by weights: learned on training clips alone, or fixed.

Streams are fused in a log-linear pool: ``p(y) ~ prod_s p_s(y)^w_s``, the same as adding logits by weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

#: By which AimCLR's code adds the logits of its three streams (Guo et al., AAAI 2022).
AIMCLR_WEIGHTS: Mapping[str, float] = {"joint": 0.6, "motion": 0.4, "bone": 0.6}

DOUBT = 0.1  # share of a uniform distribution in every stream's probabilities: none is ever quite sure
HOLD = 1.0  # how strongly weights are held to 1 / S, in nats a clip: other people, and cameras, are another matter


def learned_weights(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the weights (S,) of streams, at least 0, that explain the labels best.

    They minimise ``-mean_i log p(y_i) + |w - 1 / S|^2``, the log loss of the pool and a penalty that holds them to
    equal ones: a convex function of few numbers. The penalty does not fade with the number of clips, as the test clips
    differ from the training clips however many of these there are.

    Args:
        probabilities: of clips that the streams have not learned from, (S, n, L).
        labels: (n,).

    Example:
        >>> right, wrong = np.array([[0.9, 0.1], [0.2, 0.8]] * 20), np.array([[0.4, 0.6], [0.6, 0.4]] * 20)
        >>> learned_weights(np.stack([right, wrong]), np.array([0, 1] * 20)).round(1)
        array([0.7, 0.4])
    """
    streams, clips, _ = probabilities.shape
    logs = _logs(probabilities)
    of_label = logs[:, np.arange(clips), labels]

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        pooled = np.tensordot(weights, logs, 1)
        expected = np.einsum("nl,snl->sn", softmax(pooled, axis=1), logs)
        value = -log_softmax(pooled, axis=1)[np.arange(clips), labels].mean()
        off = weights - 1 / streams
        return value + HOLD * off @ off, (expected - of_label).mean(1) + 2 * HOLD * off

    start = np.full(streams, 1 / streams)
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * streams).x)


def pool(
    probabilities: NDArray[np.floating], weights: NDArray[np.float64], doubt: float = DOUBT
) -> NDArray[np.float64]:
    """Return the fused probabilities (m, L) of streams (S, m, L); without doubt, as adding the streams' logits does."""
    return np.asarray(softmax(np.tensordot(weights, _logs(probabilities, doubt), 1), axis=1))


def _logs(probabilities: NDArray[np.floating], doubt: float = DOUBT) -> NDArray[np.float64]:
    certain = probabilities.astype(np.float64).clip(np.finfo(np.float32).tiny)
    return np.log((1 - doubt) * certain + doubt / probabilities.shape[-1])

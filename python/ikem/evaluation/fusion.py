"""Fusion of separately trained streams by weights: learned on training clips alone, or fixed.

Streams are fused in a log-linear pool: ``p(y) ~ prod_s p_s(y)^w_s``, the same as adding logits by weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from ikem.evaluation.split import Indices

Array = NDArray[np.float64]

#: By which AimCLR's code adds the logits of its three streams (Guo et al., AAAI 2022).
AIMCLR_WEIGHTS: Mapping[str, float] = {"joint": 0.6, "motion": 0.4, "bone": 0.6}

FOLDS = 5
DOUBT = 1e-3  # share of a uniform distribution in every stream's probabilities: none is ever quite sure
PRIOR_CLIPS = 20.0  # how many clips' evidence it takes to move the weights away from equal ones


def folds(labels: NDArray[np.int64], subjects: Sequence[int | str | None], seed: int) -> list[tuple[Indices, Indices]]:
    """Cut training clips into five folds (fewer where there are fewer subjects), in each of which all classes appear.

    Nobody is in two folds where all subjects are known, as the test clips are of other people too.

    Args:
        labels: (n,).
        subjects: (n,), None where unknown.
        seed: of the run.

    Returns:
        For each fold, which clips are learned from and which are held out.
    """
    people = {subject: number for number, subject in enumerate(dict.fromkeys(subjects))}
    groups = np.array([people[subject] for subject in subjects])
    by_subject = None not in people and len(people) > 1
    number = min(FOLDS, len(people) if by_subject else FOLDS, len(labels))
    kind = StratifiedGroupKFold if by_subject else StratifiedKFold
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        return list(kind(number, shuffle=True, random_state=seed).split(labels, labels, groups))


def cross_fitted(
    classify: Callable[[Indices, Indices], Array], parts: Sequence[tuple[Indices, Indices]], shape: tuple[int, int, int]
) -> Array:
    """Return the probabilities (S, n, L) of training clips, each by classifiers that have not learned from it.

    Args:
        classify: maps the clips that are learned from and k that are held out to probabilities (S, k, L).
        parts: the folds.
        shape: (S, n, L).
    """
    probabilities = np.empty(shape)
    for learned, held_out in parts:
        probabilities[:, held_out] = classify(learned, held_out)
    return probabilities


def learned_weights(probabilities: Array, labels: NDArray[np.int64]) -> Array:
    """Return the weights (S,) of streams, at least 0, that explain the labels best.

    They minimise the log loss of the pool, a convex function of few numbers, and a penalty on how they differ from
    each other, as strong as ``PRIOR_CLIPS`` clips: with little to learn from they are nearly equal.

    Args:
        probabilities: of clips that the streams have not learned from, (S, n, L).
        labels: (n,).

    Example:
        >>> right, wrong = np.array([[0.9, 0.1], [0.2, 0.8]] * 20), np.array([[0.4, 0.6], [0.6, 0.4]] * 20)
        >>> good, poor = learned_weights(np.stack([right, wrong]), np.array([0, 1] * 20))
        >>> bool(good > poor)
        True
    """
    streams, clips, _ = probabilities.shape
    logs = _logs(probabilities)
    of_label = logs[:, np.arange(clips), labels]

    def loss(weights: Array) -> tuple[float, Array]:
        pooled = np.tensordot(weights, logs, 1)
        mean = np.einsum("nl,snl->sn", softmax(pooled, axis=1), logs)
        value = -log_softmax(pooled, axis=1)[np.arange(clips), labels].sum()
        apart = weights - weights.mean()
        return value + PRIOR_CLIPS * apart @ apart, (mean - of_label).sum(1) + 2 * PRIOR_CLIPS * apart

    start = np.full(streams, 1 / streams)
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * streams).x)


def pool(probabilities: Array, weights: Array) -> Array:
    """Return the fused probabilities (m, L) of streams (S, m, L)."""
    return np.asarray(softmax(np.tensordot(weights, _logs(probabilities), 1), axis=1))


def _logs(probabilities: Array) -> Array:
    return np.log((1 - DOUBT) * probabilities + DOUBT / probabilities.shape[-1])

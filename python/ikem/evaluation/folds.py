"""Folds of the training clips, which differ from each other as the test clips differ from all of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from ikem.data.dataset import Clip
from ikem.evaluation.split import Indices

FOLDS = 5

#: Which clips are learned from, and which are held out.
Fold = tuple[Indices, Indices]


def groups(train: Sequence[Clip], test: Sequence[Clip]) -> list[object] | None:
    """Return what must not be in two folds: of each training clip the subject, the camera or the setup.

    It is the first of these that the test clips share none of with the training clips; else the subject where it is
    known. None where nothing is known.
    """
    for name in ("subject", "camera", "setup"):
        values = [getattr(clip, name) for clip in train]
        if _several(values) and not set(values) & {getattr(clip, name) for clip in test}:
            return values
    subjects: list[object] = [clip.subject for clip in train]
    return subjects if _several(subjects) else None


def _several(values: Sequence[object]) -> bool:
    return None not in values and len(set(values)) > 1


def folds(labels: NDArray[np.int64], kept_together: Sequence[object] | None, seed: int) -> list[Fold]:
    """Cut training clips into five folds, or fewer where there are fewer groups; each has its share of every class.

    Args:
        labels: (n,).
        kept_together: the groups, (n,); None for none.
        seed: of the run.

    Raises:
        ValueError: if no class has two clips, of which one could be held out.
    """
    most = int(np.bincount(labels).max())
    if most < 2:
        raise ValueError("labels: expected a class of at least two training clips, got one of each")
    number, kind, numbered = min(FOLDS, most), StratifiedKFold, None
    if kept_together is not None:
        names = {group: place for place, group in enumerate(dict.fromkeys(kept_together))}
        number, kind = min(number, len(names)), StratifiedGroupKFold
        numbered = np.array([names[group] for group in kept_together])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        return list(kind(number, shuffle=True, random_state=seed).split(labels, labels, numbered))


def cross_fitted(
    classify: Callable[[Indices, Indices], NDArray[np.float64]], parts: Sequence[Fold], shape: tuple[int, int, int]
) -> NDArray[np.float64]:
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

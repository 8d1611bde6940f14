"""How well features tell whose clip it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ikem.data.dataset import Clip
from ikem.evaluation.logistic import logistic_probe


def people(clips: list[Clip]) -> NDArray[np.int64]:
    """Return the number of each clip's subject, (n,), counted from 0 in the order of the clips.

    Raises:
        ValueError: if the subject of a clip is not known, or all are of one.

    Example:
        >>> people([Clip(f"clip{i}", 0, who, None, None, None, 50) for i, who in enumerate(("Ann", "Bo", "Ann"))])
        array([0, 1, 0])
    """
    unknown = sum(clip.subject is None for clip in clips)
    numbers: dict[object, int] = {}
    found = np.array([numbers.setdefault(clip.subject, len(numbers)) for clip in clips], dtype=np.int64)
    if unknown or len(numbers) < 2:
        what = f"{unknown} of {len(clips)} training clips without one" if unknown else f"{len(numbers)}"
        raise ValueError(f"evaluate.subjects: expected clips of at least two known subjects, got {what}")
    return found


def subject_accuracy(features: Tensor, subjects: NDArray[np.int64], labels: NDArray[np.int64], c: float) -> float:
    """Return the fraction of clips whose subject a logistic regression names from actions that it has not seen.

    The classes are cut into two halves, by turns; from the clips of either it learns who is who, and is tested on the
    other's.

    Args:
        features: (n, D).
        subjects: (n,), counted from 0.
        labels: classes of the clips, (n,).
        c: inverse strength of the L2 penalty.

    Raises:
        ValueError: if the clips are all of one class, or those of half the classes all of one subject.

    Example:
        >>> import torch
        >>> subjects, labels = np.array([0, 1] * 4), np.array([0, 0, 0, 0, 1, 1, 1, 1])
        >>> told = torch.tensor(subjects).float()[:, None] + torch.tensor([0.0, 1.0])
        >>> subject_accuracy(told, subjects, labels, 200.0)
        1.0
    """
    if len(set(labels.tolist())) < 2:
        raise ValueError("evaluate.subjects: expected training clips of at least two classes, got one")
    second = np.isin(labels, np.unique(labels)[1::2])
    right = 0
    for seen in (second, ~second):
        if len(set(subjects[seen].tolist())) < 2:
            raise ValueError(
                "evaluate.subjects: expected clips of several subjects in each half of the classes, got one"
            )
        scores = logistic_probe(features[seen], subjects[seen], features[~seen], int(subjects.max()) + 1, c)
        right += int((scores.argmax(1) == subjects[~seen]).sum())
    return right / len(subjects)

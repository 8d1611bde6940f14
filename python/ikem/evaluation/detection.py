"""How well intervals were found: average precision at overlaps, after Liu et al., "PKU-MMD" (arXiv 1703.07475), sec. 5.

An interval is found if one of its class is predicted whose overlap with it, the length of what both share over the
length of what either covers, is at least a threshold. Predictions are taken by falling score, each finds the truth that
it overlaps most of those not found before; what finds none is wrong. Precision and recall after each of them make a
curve, and its interpolated average precision is, with ``n`` true intervals and ``p_j`` the precision after the j-th::

    AP = 1 / n * sum over the predictions k that found something of max(p_j for j >= k)

Two slips of the published code are not kept: it lets any number of predictions find one truth, and takes the precision
from one prediction further up than the recall, so that a single one that is right scores zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["OVERLAPS", "Interval", "average_precision", "mean_average_precision", "overlap"]

OVERLAPS = (0.1, 0.2, 0.3, 0.4, 0.5)


class Interval(NamedTuple):
    """An action in a recording.

    Attributes:
        label: its class.
        start, end: frames from ``start`` to ``end`` - 1.
        score: how sure it is.
    """

    label: int
    start: int
    end: int
    score: float = 1.0


Intervals = Mapping[str, Sequence[Interval]]  # by recording


def overlap(a: Interval, b: Interval) -> float:
    """What both cover over what either does.

    Example:
        >>> overlap(Interval(0, 0, 10), Interval(0, 5, 20))
        0.25
    """
    shared = min(a.end, b.end) - max(a.start, b.start)
    return max(0, shared) / (max(a.end, b.end) - min(a.start, b.start))


def average_precision(predicted: Intervals, truth: Intervals, threshold: float) -> float:
    """The interpolated average precision of intervals of any classes, each of which finds those of its own.

    Args:
        predicted: recording -> intervals.
        truth: likewise; at least one.
        threshold: the least overlap.

    Example:
        >>> truth = {"video": [Interval(0, 0, 10), Interval(0, 20, 30)]}
        >>> found = {"video": [Interval(0, 0, 8, 0.9), Interval(0, 10, 20, 0.8), Interval(0, 21, 30, 0.7)]}
        >>> round(average_precision(found, truth, 0.5), 4)  # (1 + 2/3) / 2
        0.8333
    """
    order = sorted(
        ((name, interval) for name, intervals in predicted.items() for interval in intervals),
        key=lambda each: -each[1].score,
    )
    found: set[tuple[str, int]] = set()
    hits = np.zeros(len(order), bool)
    for place, (name, interval) in enumerate(order):
        candidates = [
            (overlap(interval, true), -number)
            for number, true in enumerate(truth.get(name, ()))
            if true.label == interval.label and (name, number) not in found
        ]
        best, number = max(candidates, default=(0.0, 0))
        if candidates and best >= threshold:
            hits[place] = True
            found.add((name, -number))
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    interpolated = np.maximum.accumulate(precision[::-1])[::-1]
    return float(interpolated[hits].sum() / sum(map(len, truth.values())))


def mean_average_precision(predicted: Intervals, truth: Intervals, threshold: float) -> dict[str, float]:
    """The mean of the average precisions of all classes, and that of all recordings, of which there is a truth.

    Args:
        predicted: recording -> intervals.
        truth: likewise.
        threshold: the least overlap.

    Returns:
        ``actions`` and ``recordings``, in [0, 1]; Liu et al. call them mAP_a and mAP_v.

    Raises:
        ValueError: there is no true interval.
    """
    labels = sorted({interval.label for intervals in truth.values() for interval in intervals})
    names = [name for name, intervals in truth.items() if intervals]
    if not labels:
        raise ValueError("truth: expected an interval, got none")
    actions = [average_precision(_of_label(predicted, label), _of_label(truth, label), threshold) for label in labels]
    recordings = [average_precision({name: predicted.get(name, ())}, {name: truth[name]}, threshold) for name in names]
    return {"actions": float(np.mean(actions)), "recordings": float(np.mean(recordings))}


def _of_label(intervals: Intervals, label: int) -> dict[str, list[Interval]]:
    return {name: [each for each in group if each.label == label] for name, group in intervals.items()}

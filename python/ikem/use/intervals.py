"""From the probabilities of windows to intervals of one action each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ikem.evaluation.detection import Interval

__all__ = ["NOBODY", "frame_probabilities", "intervals_of", "label_frames"]

NOBODY = -1  # the label of a frame in which, as far as any window shows, nobody is seen
_LEAST = 1e-6  # a probability that is zero speaks against a class, but not alone


def frame_probabilities(
    windows: Sequence[NDArray[np.floating] | None], starts: Sequence[int], length: int, num_frames: int, classes: int
) -> NDArray[np.float64]:
    """Averages for each frame what the windows that cover it say, those more whose middle it is nearer to.

    The weight of a window falls linearly from its middle to its ends.

    Args:
        windows: probabilities (L,) of each; None where nobody is seen.
        starts: their first frames.
        length: of all windows, in frames.
        num_frames: of the recording.
        classes: L.

    Returns:
        (frames, L); rows of zeros where no window shows anybody.

    Example:
        >>> frame_probabilities([np.array([1.0, 0.0]), np.array([0.0, 1.0])], [0, 2], 4, 6, 2).round(2).tolist()
        [[1.0, 0.0], [1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0], [0.0, 1.0]]
    """
    weights = 1 - np.abs(2 * (np.arange(length) + 0.5) / length - 1)
    total, weight = np.zeros((num_frames, classes)), np.zeros((num_frames, 1))
    for window, start in zip(windows, starts, strict=True):
        if window is not None:
            covered = slice(start, start + length)
            total[covered] += weights[: num_frames - start, None] * window
            weight[covered] += weights[: num_frames - start, None]
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)


def label_frames(probabilities: NDArray[np.floating], shortest: int) -> NDArray[np.int64]:
    """Labels each frame such that no action is shorter than it may be.

    Of all such labellings it is the likeliest, the one with the greatest sum of the logarithms of the frames'
    probabilities; dynamic programming finds it (a Viterbi path with a least duration).

    Args:
        probabilities: (frames, L), rows of zeros where nobody is seen.
        shortest: frames of an action at least. People who are seen for less do one thing.

    Returns:
        (frames,), -1 where nobody is seen.

    Example:
        >>> likely = np.array([0.9, 0.8, 0.2, 0.7, 0.1, 0.1, 0.2])  # of the first of two classes
        >>> label_frames(np.stack((likely, 1 - likely), axis=1), shortest=3).tolist()
        [0, 0, 0, 0, 1, 1, 1]
    """
    labels = np.full(len(probabilities), NOBODY)
    seen = np.flatnonzero(probabilities.any(axis=1))
    for run in np.split(seen, np.flatnonzero(np.diff(seen) > 1) + 1):
        if len(run):
            labels[run] = _likeliest(np.log(probabilities[run] + _LEAST), min(shortest, len(run)))
    return labels


def _likeliest(scores: NDArray[np.float64], shortest: int) -> NDArray[np.int64]:
    """The labels (frames,) with the greatest sum of scores (frames, L) whose runs are long enough.

    ``best[t, c]`` is the greatest sum over the first t frames the last of which belong to a run of class c that is long
    enough: either that run was so before, or it begins ``shortest`` frames back, after whatever was best until there.
    """
    frames, classes = scores.shape
    sums = np.concatenate((np.zeros((1, classes)), scores.cumsum(axis=0)))
    best = np.full((frames + 1, classes), -np.inf)
    begins = np.zeros((frames + 1, classes), bool)
    before = np.full(frames + 1, -np.inf)  # the best of all classes
    before[0] = 0
    for t in range(shortest, frames + 1):
        longer = best[t - 1] + scores[t - 1]
        anew = before[t - shortest] + sums[t] - sums[t - shortest]
        begins[t] = anew > longer
        best[t] = np.where(begins[t], anew, longer)
        before[t] = best[t].max()
    labels = np.empty(frames, np.int64)
    t = frames
    while t:
        label = int(best[t].argmax())
        end = t
        while not begins[t, label]:
            t -= 1
        t -= shortest
        labels[t:end] = label
    return labels


def intervals_of(
    labels: NDArray[np.int64], probabilities: NDArray[np.floating], threshold: float = 0.0
) -> list[Interval]:
    """The runs of one label, each with the mean probability of its class.

    Args:
        labels: (frames,), -1 where nobody is seen.
        probabilities: (frames, L).
        threshold: runs with less are left out.

    Example:
        >>> intervals_of(np.array([1, 1, -1, 0]), np.array([[0.1, 0.9], [0.3, 0.7], [0, 0], [0.6, 0.4]]))
        [Interval(label=1, start=0, end=2, score=0.8), Interval(label=0, start=3, end=4, score=0.6)]
    """
    bounds = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    found = []
    for start, end in pairwise(bounds):
        if end > start and labels[start] != NOBODY:
            score = float(probabilities[start:end, labels[start]].mean())
            if score >= threshold:
                found.append(Interval(int(labels[start]), start, end, score))
    return found

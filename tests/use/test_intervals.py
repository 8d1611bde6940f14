from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from ikem.evaluation.detection import Interval
from ikem.use.intervals import NOBODY, frame_probabilities, intervals_of, label_frames


def runs_of(labels: tuple[int, ...]) -> list[int]:
    """How long the runs of equal labels are."""
    ends = [place for place in range(1, len(labels)) if labels[place] != labels[place - 1]]
    return np.diff([0, *ends, len(labels)]).tolist()


@pytest.mark.parametrize("shortest", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_labels_are_the_likeliest_without_short_runs(shortest: int, seed: int) -> None:
    likely = np.random.default_rng(seed).dirichlet([0.5, 0.5, 0.5], size=8)
    allowed = (labels for labels in product(range(3), repeat=8) if min(runs_of(labels)) >= shortest)
    best = max(allowed, key=lambda labels: np.log(likely[np.arange(8), labels] + 1e-6).sum())
    assert label_frames(likely, shortest).tolist() == list(best)


def test_frames_without_anybody_come_between() -> None:
    likely = np.array([[0.9, 0.1], [0, 0], [0.2, 0.8], [0.6, 0.4], [0.1, 0.9], [0, 0]])
    labels = label_frames(likely, shortest=2)
    assert labels.tolist() == [0, NOBODY, 1, 1, 1, NOBODY]
    assert label_frames(np.zeros((3, 2)), 2).tolist() == [NOBODY] * 3
    found = intervals_of(labels, likely)
    assert [each[:3] for each in found] == [(0, 0, 1), (1, 2, 5)]
    assert [each.score for each in found] == pytest.approx([0.9, 0.7])
    assert intervals_of(labels, likely, threshold=0.8) == [Interval(0, 0, 1, 0.9)]


def test_windows_without_anybody_say_nothing() -> None:
    likely = frame_probabilities([np.array([0.2, 0.8]), None], [0, 3], 4, 7, 2)
    np.testing.assert_allclose(likely[:4], [[0.2, 0.8]] * 4)
    assert not likely[4:].any()

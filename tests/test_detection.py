"""Average precision of intervals, by hand."""

from __future__ import annotations

import pytest

from ikem.evaluation.detection import Interval, average_precision, mean_average_precision, overlap

# Two recordings and two classes. The overlaps of what is predicted with the truth, by falling score:
#   class 0: A 0-10 by 0-10 (1), A 20-40 by 26-40 (0.7), B 0-10 by 9-30 (1/30), A 0-10 again by 2-10 (0.8)
#   class 1: B 20-30 by 24-34 (6/14), A by 50-60, where nothing is
TRUTH = {
    "A": [Interval(0, 0, 10), Interval(0, 20, 40)],
    "B": [Interval(0, 0, 10), Interval(1, 20, 30)],
}
PREDICTED = {
    "A": [
        Interval(0, 26, 40, 0.9),
        Interval(0, 0, 10, 0.95),
        Interval(1, 50, 60, 0.8),
        Interval(0, 2, 10, 0.5),
    ],
    "B": [Interval(0, 9, 30, 0.6), Interval(1, 24, 34, 0.7)],
}


def test_overlap() -> None:
    assert overlap(Interval(0, 0, 10), Interval(0, 10, 20)) == 0
    assert overlap(Interval(0, 26, 40), Interval(0, 20, 40)) == 0.7
    assert overlap(Interval(1, 24, 34), Interval(1, 20, 30)) == pytest.approx(6 / 14)


@pytest.mark.parametrize(
    ("threshold", "actions", "recordings"),
    [
        # class 0: right, right, wrong, wrong: (1 + 1) / 3. class 1: wrong, right: 1/2.
        # A: right, right, ...: 1. B: 1-34 right, then wrong: 1/2.
        (0.4, (2 / 3 + 1 / 2) / 2, (1 + 1 / 2) / 2),
        # class 1: both wrong. B: both wrong.
        (0.5, (2 / 3 + 0) / 2, (1 + 0) / 2),
        # class 0: only A 0-10, first: 1/3. A: right, wrong, wrong, wrong: 1/2.
        (0.75, (1 / 3 + 0) / 2, (1 / 2 + 0) / 2),
        # class 0: right, right, right, wrong: 1.
        (0.03, (1 + 1 / 2) / 2, (1 + 1) / 2),
    ],
)
def test_mean_average_precision(threshold: float, actions: float, recordings: float) -> None:
    found = mean_average_precision(PREDICTED, TRUTH, threshold)
    assert found == pytest.approx({"actions": actions, "recordings": recordings})


def test_precision_is_interpolated() -> None:
    truth = {"A": [Interval(0, 0, 10), Interval(0, 20, 30)]}
    # wrong, right, right: precisions 0, 1/2, 2/3; at both recalls 2/3 is reached.
    found = {"A": [Interval(0, 50, 60, 0.9), Interval(0, 0, 10, 0.8), Interval(0, 20, 30, 0.7)]}
    assert average_precision(found, truth, 0.5) == pytest.approx(2 / 3)


def test_a_perfect_one_and_none() -> None:
    assert mean_average_precision(TRUTH, TRUTH, 0.5) == {"actions": 1, "recordings": 1}
    assert mean_average_precision({}, TRUTH, 0.5) == {"actions": 0, "recordings": 0}
    with pytest.raises(ValueError, match="truth: expected an interval"):
        mean_average_precision(PREDICTED, {"A": []}, 0.5)

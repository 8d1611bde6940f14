"""Fusion by weights: learned on training clips alone, by folds that keep apart what the test keeps apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from ikem.config import Config
from ikem.data.dataset import Clip, PreparedDataset
from ikem.evaluate import evaluate
from ikem.evaluation import evaluation as evaluation_module
from ikem.evaluation.evaluation import Evaluation
from ikem.evaluation.folds import cross_fitted, folds, groups
from ikem.evaluation.fusion import AIMCLR_WEIGHTS, learned_weights, pool
from ikem.evaluation.stages import stages_of_run

Weigh = Callable[[NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]]


def clips(subjects: Sequence[int | None], cameras: Sequence[int | None]) -> list[Clip]:
    return [Clip(f"{s} {c}", 0, s, c, None, None, 9) for s, c in zip(subjects, cameras, strict=True)]


def streams(strength: Sequence[float], labels: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Probabilities of streams that see the class through noise, each as surely as its strength says."""
    random = np.random.default_rng(seed)
    shape = (len(strength), len(labels), labels.max() + 1)
    logits = random.normal(size=shape) + np.asarray(strength)[:, None, None] * np.eye(shape[2])[labels]
    return softmax(2 * logits, axis=-1)


def test_folds_hold_out_what_the_test_holds_out() -> None:
    train = clips([1, 1, 2, 2, 3, 3], [1, 2, 1, 2, 1, 2])
    assert groups(train, clips([4, 5], [1, 2])) == [1, 1, 2, 2, 3, 3]
    assert groups(train, clips([1, 2], [3, 3])) == [1, 2, 1, 2, 1, 2]
    assert groups(train, clips([1, 2], [1, 2])) == [1, 1, 2, 2, 3, 3]
    unknown = clips([1, None, 2, 2, 3, 3], [None] * 6)
    assert groups(unknown, clips([4], [None])) is None


def test_folds_cover_all_clips_and_part_the_groups() -> None:
    labels, people = np.arange(60) % 3, [f"s{i % 7}" for i in range(60)]
    parts = folds(labels, people, seed=1)
    assert len(parts) == 5
    assert sorted(np.concatenate([held_out for _, held_out in parts])) == list(range(60))
    for learned, held_out in parts:
        assert not {people[i] for i in learned} & {people[i] for i in held_out}
        assert not set(learned) & set(held_out)
    assert len(folds(labels, ["a", "b"] * 30, seed=1)) == 2
    assert all(set(labels[held_out]) == {0, 1, 2} for _, held_out in folds(labels, None, seed=1))
    again = folds(labels, people, seed=1)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(parts, again, strict=True))


def test_folds_of_few_clips() -> None:
    """There are no more than the largest class has clips."""
    labels = np.array([0, 0, 0, 1, 1, 2])
    assert len(folds(labels, None, seed=1)) == 3
    assert len(folds(labels, list("abcdef"), seed=1)) == 3
    assert all(len(learned) and len(held_out) for learned, held_out in folds(labels, None, seed=1))
    with pytest.raises(ValueError, match="a class of at least two training clips, got one of each"):
        folds(np.arange(4), None, seed=1)


def test_no_clip_is_classified_by_what_has_learned_from_it() -> None:
    labels = np.arange(20) % 2

    def classify(learned: NDArray[np.int64], held_out: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.broadcast_to(np.isin(held_out, learned).astype(float)[None, :, None], (3, len(held_out), 2))

    found = cross_fitted(classify, folds(labels, None, seed=1), (3, 20, 2))
    assert not found.any()


@pytest.mark.parametrize("seed", range(3))
def test_learned_weights_do_not_lose_to_the_best_subset(seed: int) -> None:
    """Two streams hold nothing: equal fusion suffers from them, learned weights do not."""
    labels, test_labels = np.arange(400) % 10, np.arange(4000) % 10
    strength = [1.5, 0.0, 1.0, 0.0]
    known, test = streams(strength, labels, seed), streams(strength, test_labels, 10 + seed)
    weights = learned_weights(known, labels)
    assert weights[[1, 3]].max() < 0.4 * weights[0]
    assert weights[2] < weights[0]

    def accuracy(scores: NDArray[np.float64]) -> float:
        return float((scores.argmax(1) == test_labels).mean())

    best = max(accuracy(test[chosen].mean(0)) for chosen in ([0], [2], [0, 2], [0, 1, 2], [0, 1, 2, 3]))
    assert accuracy(pool(test, weights)) > best - 0.005
    assert accuracy(pool(test, weights)) > accuracy(test.mean(0)) + 0.03


@pytest.mark.parametrize("clips", [8, 800])
def test_streams_that_are_equally_good_have_nearly_equal_weights(clips: int) -> None:
    labels = np.arange(clips) % 2
    weights = learned_weights(streams([1.0, 1.0, 1.0], labels, 0), labels)
    assert weights.max() < 1.5 * weights.min()


def test_fixed_weights_add_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 5, 4))
    weights = np.array(list(AIMCLR_WEIGHTS.values()))
    fused = pool(softmax(logits, axis=-1), weights, doubt=0)
    np.testing.assert_allclose(fused, softmax(np.tensordot(weights, logits, 1), axis=-1))
    assert AIMCLR_WEIGHTS == {"joint": 0.6, "motion": 0.4, "bone": 0.6}
    assert np.isfinite(pool(np.eye(3)[None], np.ones(1), doubt=0)).all()


def weights_of(config: Config, dataset: PreparedDataset) -> list[dict[str, Any]]:
    evaluation = Evaluation(config, dataset)
    stage = stages_of_run(config, dataset)[-1]
    evaluation.add_encoders(stage)
    return evaluation.weights


def with_other_test_labels(dataset: PreparedDataset) -> PreparedDataset:
    other = PreparedDataset(dataset.folder)
    test = other.split("halves", "test")
    other.labels[test] = (other.labels[test] + 1) % len(other.classes)
    return other


def test_weights_do_not_depend_on_test_labels(
    finished_run: Config, dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(finished_run, evaluate=replace(finished_run.evaluate, fusion=("learned",), segments=2))
    other = with_other_test_labels(dataset)
    weights = weights_of(config, dataset)
    assert {(row["protocol"], row["stream"]) for row in weights} == {
        ("linear", "learned_fused2"),
        ("logistic", "learned_fused2"),
    }
    assert weights == weights_of(config, other)

    def leak(self: Evaluation, *arguments: Any) -> list[tuple[str, NDArray[Any]]]:
        """Learn the weights on the test clips."""
        self.weights += [{"weights": learned_weights(arguments[2], self.test_labels).tolist()}]
        return []

    monkeypatch.setattr(evaluation_module.Evaluation, "_fused", leak)
    assert weights_of(config, dataset) != weights_of(config, other)


def test_rows_of_weighted_fusion(finished_run: Config, dataset: PreparedDataset) -> None:
    options = replace(finished_run.evaluate, fusion=("learned", "aimclr"), segments=2, neighbors=())
    output = finished_run.run.parent / "fused"
    result = evaluate(replace(finished_run, evaluate=options), output=output)
    for protocol in ("linear", "logistic"):
        found = {
            (row["stage"], row["stream"])
            for row in result["rows"]
            if row["protocol"] == protocol and "_f" in row["stream"]
        }
        weighted = {(stage, stream) for stage, stream in found if not stream.startswith("late")}
        teachers = ("random", "stage1", "stage2")
        of_six = ("learned_fused3", "learned_fused6", "aimclr_fused3")
        expected = {(stage, stream) for stage in teachers for stream in of_six} | {("student", "learned_fused2")}
        assert weighted == expected
    assert not any(row["protocol"] in ("retrieval", "knn") for row in result["rows"])
    for row in result["fusion_weights"]:
        assert all(weight >= 0 for weight in row["weights"].values())
        assert len(row["weights"]) == int(row["stream"][-1])

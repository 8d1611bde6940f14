from __future__ import annotations

import tracemalloc
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from classifiers import tiny_classifier
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from torch import Tensor

from ikem.data.formats import RawClip
from ikem.live import Frames, Recognizer, RecognizerPool
from ikem.use.classifier import ActionClassifier
from ikem_ext import get_layout

NTU = get_layout("ntu25")


def walk(frames: int, bodies: int = 1, seed: int = 0) -> NDArray[np.float32]:
    """Bodies that move smoothly, far from each other, (3, frames, 25, bodies)."""
    rng = np.random.default_rng(seed)
    joints = rng.normal(size=(3, 1, 25, bodies)) + np.cumsum(rng.normal(size=(3, frames, 25, bodies)), axis=1) / 50
    joints[0] += 20 * np.arange(1, bodies + 1)
    return joints.astype(np.float32)


def predicted(classifier: ActionClassifier, clip: RawClip) -> NDArray[np.float32]:
    with torch.inference_mode():
        return classifier(*classifier.prepare([clip], NTU)).numpy()[0]


def seen_by(classifier: ActionClassifier) -> list[tuple[Tensor, Tensor]]:
    """What the classifier is given from now on: joints and lengths."""
    seen: list[tuple[Tensor, Tensor]] = []
    classifier.register_forward_pre_hook(lambda _, given: seen.append(given))
    return seen


RECIPES: dict[str, dict[str, Any]] = {
    "as NTU is published": {"bodies": 2, "align": "frame", "lost_frames": "keep"},
    "interpolated": {"bodies": 2, "align": "clip", "center": "first_frame", "scale": "body"},
    "dropped": {"bodies": 1, "lost_frames": "drop"},
    "followed": {"bodies": 2, "keep": "energy", "track": True},
    "denoised": {"bodies": 2, "keep": "denoised"},
}


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_window_of_a_whole_recording_is_predicted_alike(recipe: str, timed: bool) -> None:
    classifier = tiny_classifier(**RECIPES[recipe])
    joints = walk(40, 3)
    joints[:, 5:9, :, 1] = 0  # one body is lost for a while, another comes late, a joint is lost
    joints[:, :6, :, 2] = 0
    joints[:, 11, 4, 0] = 0
    ids = np.tile([7, 9, 8], (40, 1)) if classifier.recipe.selection.heeds_ids else None
    times = np.arange(40) / 30 + 1.7e9
    size = 40 / 30 if timed else 40
    recognizer = Recognizer(classifier, window=size, hop=size)
    results = []
    for number in range(40):
        results += recognizer.push(
            joints[:, number], times[number] if timed else None, None if ids is None else ids[number]
        )
    (result,) = results
    assert_allclose(result.probabilities, predicted(classifier, RawClip(joints, body_ids=ids)), atol=1e-5)
    assert_allclose((result.start, result.end), (times[0], times[0] + size) if timed else (0, 40))
    assert recognizer.finish() == []


@pytest.mark.parametrize("rate", ["15", "60", "changing"])
def test_the_same_movement_looks_the_same_at_any_rate(rate: str) -> None:
    classifier = tiny_classifier(frames=30)
    knots = np.arange(7) * 0.4  # between them joints move evenly, so that any sampling that has them knows all
    at_knots = walk(7, seed=3)
    rng = np.random.default_rng(0)
    times = {
        "15": np.arange(37) / 15,
        "60": np.arange(145) / 60,
        "changing": np.sort(np.concatenate((np.arange(37) / 15, rng.uniform(0, 2.4, 40)))),
    }[rate]

    def at(moments: NDArray[np.float64]) -> NDArray[np.float64]:
        flat = at_knots.reshape(3, 7, -1)
        rows = [[np.interp(moments, knots, column) for column in axis.T] for axis in flat]
        return np.array(rows).transpose(0, 2, 1).reshape(3, len(moments), 25, 1)

    seen = seen_by(classifier)
    steady = Recognizer(classifier, window=2.0, hop=1.0)
    expected = steady.push(at(np.arange(73) / 30), np.arange(73) / 30)
    found = Recognizer(classifier, window=2.0, hop=1.0).push(at(times), times)
    assert [(result.start, result.end) for result in found] == [(result.start, result.end) for result in expected]
    (joints_before, lengths_before), (joints, lengths) = seen
    assert lengths.tolist() == lengths_before.tolist() == [60]
    assert_allclose(joints.numpy(), joints_before.numpy(), atol=5e-4)  # a tenth of a frame may be early


def test_a_lost_joint_is_not_interpolated_with() -> None:
    classifier = tiny_classifier(lost_joints="zero", center="none", frames=9)
    seen = seen_by(classifier)
    joints = np.ones((3, 5, 25, 1))
    joints[:, 2, 3] = 0  # of 5 frames at 15 frames per second, whose neighbours fill it in
    recognizer = Recognizer(classifier, window=9 / 30, hop=1)
    assert len(recognizer.push(joints, np.arange(5) / 15)) == 1
    assert_allclose(seen[0][0].numpy(), 1)


def test_bodies_are_known_by_id() -> None:
    classifier = tiny_classifier(bodies=2)
    joints = walk(30, 2)
    shuffled, ids = joints.copy(), np.tile(["Ann", "Bob"], (30, 1))
    for number in np.flatnonzero(np.random.default_rng(0).random(30) < 0.5)[1:]:
        shuffled[:, number], ids[number] = joints[:, number, :, ::-1], ids[number, ::-1]
    assert (shuffled != joints).any()
    (result,) = Recognizer(classifier, 30, 30).push(shuffled, ids=ids.tolist())
    assert_allclose(result.probabilities, predicted(classifier, RawClip(joints)), atol=1e-5)


def test_a_lost_body_is_interpolated_until_it_is_gone() -> None:
    classifier = tiny_classifier(bodies=1)
    joints = walk(30)

    def without(start: int, end: int) -> NDArray[np.float32]:
        left = joints.copy()
        left[:, start:end] = 0
        return left

    (short,) = Recognizer(classifier, 30, 30, lost_after=10).push(without(10, 20))
    assert_allclose(short.probabilities, predicted(classifier, RawClip(without(10, 20))), atol=1e-5)
    (long,) = Recognizer(classifier, 30, 30, lost_after=10).push(without(10, 21))
    assert_allclose(long.probabilities, predicted(classifier, RawClip(without(0, 21))), atol=1e-5)
    assert np.abs(long.probabilities - predicted(classifier, RawClip(without(10, 21)))).max() > 1e-3
    (gone,) = Recognizer(classifier, 30, 30, lost_after=10).push(without(19, 30))
    assert gone.probabilities is None and gone.name is None and gone.guesses() == []


def test_a_stream_that_pauses_begins_anew() -> None:
    recognizer = Recognizer(tiny_classifier(), window=1.0, hop=0.5, lost_after=0.5)
    times = np.arange(60) / 30
    times[20:] += 0.6
    results = recognizer.push(walk(60), times)
    assert_allclose([result.start for result in results], [times[20]])


def test_results_come_when_windows_are_due() -> None:
    recognizer = Recognizer(tiny_classifier(), window=10, hop=4)
    due = [[(r.start, r.end) for r in recognizer.push(walk(40)[:, number])] for number in range(20)]
    assert {number + 1: ends for number, ends in enumerate(due) if ends} == {
        10: [(0, 10)],
        14: [(4, 14)],
        18: [(8, 18)],
    }
    at_once = Recognizer(tiny_classifier(), window=10, hop=4).push(walk(40)[:, :20])
    assert [result.end for result in at_once] == [10, 14, 18]


def test_what_is_shorter_than_a_window_is_told_at_the_end() -> None:
    classifier = tiny_classifier()
    recognizer = Recognizer(classifier, window=16, hop=4)
    assert recognizer.push(walk(10)) == []
    (result,) = recognizer.finish()
    assert_allclose(result.probabilities, predicted(classifier, RawClip(walk(10))), atol=1e-5)
    assert recognizer.finish() == []


def test_many_streams_share_one_forward_pass() -> None:
    classifier = tiny_classifier(bodies=2)
    recordings = {name: walk(24, 1 + name % 2, seed=name) for name in range(16)}
    alone = {name: Recognizer(classifier, 20, 4).push(joints) for name, joints in recordings.items()}
    pool = RecognizerPool(classifier, 20, 4)
    seen = seen_by(classifier)
    together = pool.push({name: Frames(joints) for name, joints in recordings.items()})
    assert [len(joints) for joints, _ in seen] == [32]
    for name, results in together.items():
        assert [result.end for result in results] == [20, 24]
        for result, expected in zip(results, alone[name], strict=True):
            assert_allclose(result.probabilities, expected.probabilities, atol=1e-5)


def test_memory_does_not_grow() -> None:
    recognizer = Recognizer(tiny_classifier(bodies=2), window=1.0, hop=5.0)
    joints = walk(100, 2)

    def held_after(frames: range) -> int:
        for number in frames:
            # A new body every second, and another number of them in each frame.
            bodies = 1 + number % 2
            recognizer.push(
                joints[:, number % 100, :, :bodies], number / 30, ids=[number // 30 * 2 + b for b in range(bodies)]
            )
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = held_after(range(300))
        after = held_after(range(300, 3000))
    finally:
        tracemalloc.stop()
    # A frame takes 300 to 600 bytes, 2700 of them a megabyte; what Python keeps to use again, up to a third of that.
    assert after - before < 400_000, (before, after)


NAN = np.full((3, 25, 1), 1.0)
NAN[1, 3, 0] = np.nan


@pytest.mark.parametrize(
    ("pushed", "message"),
    [
        (Frames(np.ones((3, 24, 1)), 3.0), r"joints: expected the shape \(3, 25, bodies\)"),
        (Frames(np.ones((2, 25, 1)), 3.0), r"joints: expected the shape \(3, 25, bodies\)"),
        (Frames(NAN, 3.0), "joints: the y coordinate of .* of body 1 is nan"),
        (Frames(np.full((3, 25, 1), 1e39), 3.0), "coordinate of .* is inf"),
        (Frames(np.ones((3, 25, 1))), "timestamps: expected some"),
        (Frames(np.ones((3, 25, 1)), np.nan), "timestamps: expected finite"),
        (Frames(np.ones((3, 25, 1)), 0.1), "timestamps: expected them to ascend, got 0.1 after 0.9"),
        (Frames(np.ones((3, 2, 25, 1)), [3.0, 2.9]), "timestamps: expected them to ascend, got 2.9 after 3"),
        (Frames(np.ones((3, 2, 25, 1)), 3.0), "timestamps: expected numbers of the shape"),
        (Frames(np.ones((3, 25, 1)), 3.0, [7]), "ids: expected none"),
        (Frames(np.ones((3, 25, 1)), 3.0, None, np.ones((25, 2))), "confidence: expected numbers of the shape"),
    ],
)
def test_bad_frames_are_refused_and_nothing_is_taken(pushed: Frames, message: str) -> None:
    recognizer = Recognizer(tiny_classifier(), window=1.0, hop=0.5)
    recognizer.push(walk(28), np.arange(28) / 30)
    with pytest.raises(ValueError, match=message):
        recognizer.push(*pushed)
    with pytest.raises(ValueError, match=message):
        recognizer.pool.push({"another": Frames(np.ones((3, 25, 1)), 0.0), None: pushed})
    (result,) = recognizer.push(walk(2), [28 / 30, 29 / 30])
    assert_allclose((result.start, result.end), (0, 1))


def test_nan_is_a_lost_joint_where_the_training_had_it_so() -> None:
    classifier = tiny_classifier(lost_joints="nan")
    joints = walk(20)
    joints[:, 7, 3] = np.nan
    (result,) = Recognizer(classifier, 20, 20).push(joints)
    assert_allclose(result.probabilities, predicted(classifier, RawClip(joints)), atol=1e-5)


@pytest.mark.parametrize(
    ("window", "hop", "message"),
    [
        (0, 1, "window: expected a positive number"),
        (10, float("nan"), "hop: expected a positive number"),
        (2.5, 1, "window: expected a whole number of frames, as the stream has no time stamps, got 2.5"),
        (10, 0.5, "hop: expected a whole number of frames"),
        (2, 1, "window: expected 3 frames or more"),
    ],
)
def test_bad_windows_are_refused(window: float, hop: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recognizer(tiny_classifier(), window, hop).push(walk(1)[:, 0])


def test_a_window_unlike_the_clips_of_the_training_is_warned_of_once() -> None:
    classifier = tiny_classifier(frames=25)
    classifier.origin["num_frames"] = {"shortest": 42, "median": 71, "longest": 120}
    pool = RecognizerPool(classifier, 20, 5)
    with pytest.warns(UserWarning, match="a window of 20 frames shows less .* clips of 42 to 120 frames"):
        pool.push({"a": Frames(walk(1))})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pool.push({"b": Frames(walk(1))})
        RecognizerPool(classifier, 71, 5).push({"a": Frames(walk(1))})
    with pytest.warns(UserWarning, match="a window of 300 frames shows more"):
        RecognizerPool(classifier, 10.0, 5).push({"a": Frames(walk(1), [0.0])})


def test_joints_of_another_skeleton_are_taken_over_by_name() -> None:
    classifier = tiny_classifier()
    kinect = get_layout("azure32")
    joints = np.random.default_rng(0).normal(size=(3, 20, kinect.num_joints, 1))
    (result,) = Recognizer(classifier, 20, 20, layout=kinect).push(joints)
    with torch.inference_mode():
        expected = classifier(*classifier.prepare([RawClip(joints)], kinect)).numpy()[0]
    assert_allclose(result.probabilities, expected, atol=1e-5)
    with pytest.raises(ValueError, match="says nothing of"):
        Recognizer(classifier, 20, 20, layout=get_layout("hand21"))

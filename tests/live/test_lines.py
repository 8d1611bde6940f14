from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from ikem.live import Frames, Result
from ikem.live.lines import LONGEST_LINE, line_of_frame, line_of_result, read_lines

ONE = [[1, 2, 3], [4.5, 5, 6]]
TWO = [[7, 8, 9], [10, 11, 12]]


def read(*lines: Any, end: str = "\n") -> list[Frames]:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + end
    return [frame for _, frame in read_lines(io.BytesIO(text.encode()), 2)]


@pytest.mark.parametrize(
    ("line", "bodies", "time", "ids"),
    [
        (ONE, [ONE], None, None),
        ({"joints": ONE}, [ONE], None, None),
        ({"time": 3, "joints": ONE, "id": 4}, [ONE], 3, [4]),
        ({"time": 0.5, "bodies": [{"joints": ONE}, {"joints": TWO}]}, [ONE, TWO], 0.5, None),
        ({"bodies": [None, {"joints": TWO}]}, [[[0] * 3] * 2, TWO], None, None),
        ({"bodies": [{"id": "b", "joints": TWO}, None, {"id": 7, "joints": ONE}]}, [TWO, ONE], None, ["b", 7]),
        ({"time": 1, "bodies": []}, [], 1, None),
    ],
)
def test_a_line_is_a_frame(line: Any, bodies: list[Any], time: float | None, ids: list[Any] | None) -> None:
    (frame,) = read(line)
    assert np.asarray(frame.joints).shape == (3, 2, len(bodies))
    assert_array_equal(np.asarray(frame.joints).transpose(2, 1, 0).tolist(), bodies)
    assert (frame.timestamps, frame.ids) == (time, ids)


def test_confidence() -> None:
    (frame,) = read({"bodies": [{"joints": ONE, "confidence": [1, 0.5]}, None]})
    assert_array_equal(frame.confidence, [[1, 0], [0.5, 0]])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hello", "no JSON"),
        ('{"time": 1', "no JSON"),
        ("[" * 100_000, "no JSON|maximum recursion"),
        (b"\xff\xfe".decode("latin-1").join("{}"), "no JSON"),
        ("3", 'expected {"time"'),
        ({"time": 1}, 'expected {"time"'),
        ({"time": 1, "bodies": [], "camera": 2}, "expected time and bodies, got camera as well"),
        ({"time": "1", "bodies": []}, "time: expected seconds, got '1'"),
        ({"joints": [[1, 2, 3]]}, "joints of body 1: expected 2 x 3 numbers, got .* \\(1, 3\\)"),
        ({"bodies": [None, {"joints": [[1, 2], [3, 4]]}]}, "joints of body 2: expected 2 x 3 numbers"),
        ({"joints": [[1, 2, 3], [4, 5]]}, "joints of body 1: expected 2 x 3 numbers, got something else"),
        ({"joints": [[1, 2, 3], [4, 5, None]]}, "joints of body 1: expected 2 x 3 numbers, got something else"),
        ({"joints": [[1, 2, 3], [4, 5, "6"]]}, "joints of body 1: expected 2 x 3 numbers, got something else"),
        ('{"joints": [[1, 2, 3], [4, 5, NaN]]}', "expected finite numbers, got NaN"),
        ('{"joints": [[1, 2, 3], [4, 5, -Infinity]]}', "expected finite numbers, got -Infinity"),
        ({"bodies": [ONE]}, "body 1: expected an object with joints"),
        ({"bodies": [{"joints": ONE, "id": [1]}]}, "id of body 1: expected a number or a string"),
        ({"bodies": [{"joints": ONE, "id": 1}, {"joints": TWO}]}, "id: expected of all bodies or of none"),
        ({"bodies": [{"joints": ONE, "confidence": [1]}]}, "confidence of body 1: expected 2 numbers"),
        (f'{{"time": 1{" " * LONGEST_LINE}}}', "expected at most 1048576 bytes"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_with_its_number(line: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^line 3: .*(?:{message})"):
        read(ONE, "", line, ONE)


def test_a_stream_that_stops_within_a_line() -> None:
    assert len(read(ONE, ONE, end="")) == 2
    with pytest.raises(ValueError, match="line 2: the stream stopped within it, after 9 bytes"):
        read(ONE, '{"joints"', end="")


def test_written_frames_are_read_again() -> None:
    joints = np.random.default_rng(0).normal(size=(3, 2, 3))
    joints[..., 1] = 0
    confidence = np.array([[1, 0, 0.5], [0.2, 0, 0.1]])
    (frame,) = read(line_of_frame(Frames(joints, 1.25, None, confidence)))
    assert_array_equal(frame.joints, joints)
    assert_array_equal(frame.confidence, confidence)
    assert (frame.timestamps, frame.ids) == (1.25, None)
    (frame,) = read(line_of_frame(Frames(joints[..., [0, 2]], 1.25, [3, "x"])))
    assert frame.ids == [3, "x"]


def test_a_result_is_a_line() -> None:
    result = Result(0.5, 2.5, np.array([0.25, 0.75], np.float32), ["walk", "wave"])
    assert json.loads(line_of_result(result, 1, recording="a")) == {
        "recording": "a",
        "start": 0.5,
        "end": 2.5,
        "class": "wave",
        "score": 0.75,
        "probabilities": {"wave": 0.75},
    }
    nobody = json.loads(line_of_result(Result(0, 1, None, ["walk", "wave"])))
    assert (nobody["class"], nobody["score"], nobody["probabilities"]) == (None, None, {})

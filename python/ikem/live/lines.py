"""Streams as lines of JSON: a frame a line comes in, a result a line goes out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .frames import Frames
from .recognizer import Result

__all__ = ["LONGEST_LINE", "line_of_frame", "line_of_result", "read_lines"]

LONGEST_LINE = 2**20  # bytes; a frame of ten bodies takes twenty thousand


def read_lines(stream: IO[bytes], num_joints: int, axes: int = 3) -> Iterator[tuple[int, Frames]]:
    """Reads frames as they come.

    A line is ``{"time": 1.2, "bodies": [{"id": 7, "joints": [[x, y, z], ...], "confidence": [c, ...]}, ...]}``. Time
    (in seconds), ids and confidence may be left out, but then of all frames. For one body alone a line may also be
    ``{"time": 1.2, "joints": [[x, y, z], ...]}`` or the list of its joints. Who is not seen is not in the list or is
    null, which keeps the place of those behind. Empty lines are passed over.

    Args:
        stream: the lines.
        num_joints: V.
        axes: 3, or 2 for points in an image.

    Yields:
        The number of a line, from 1, and its frame.

    Raises:
        ValueError: a line is not such a one, or the stream stops within it; its number is named.

    Example:
        >>> import io
        >>> (number, frame), = read_lines(io.BytesIO(b'{"time": 0.5, "joints": [[0, 1, 2], [3, 4, 5]]}'), 2)
        >>> number, frame.joints.shape, frame.timestamps
        (1, (3, 2, 1), 0.5)
    """
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        if not line.strip():
            continue
        try:
            yield number, _frame(_parsed(line), num_joints, axes)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None


def _parsed(line: bytes) -> Any:
    if len(line) > LONGEST_LINE:
        raise ValueError(f"expected at most {LONGEST_LINE} bytes")
    try:
        return json.loads(line, parse_constant=_refuse)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        if not line.endswith(b"\n"):
            raise ValueError(f"the stream stopped within it, after {len(line)} bytes") from None
        raise ValueError(f"no JSON ({error})") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"expected finite numbers, got {constant}")


def _frame(content: Any, num_joints: int, axes: int) -> Frames:
    if isinstance(content, list):
        content = {"joints": content}
    if isinstance(content, dict) and "joints" in content:
        body = {name: content.pop(name) for name in ("id", "joints", "confidence") if name in content}
        content = {**content, "bodies": [body]}
    if not isinstance(content, dict) or not isinstance(content.get("bodies"), list):
        raise ValueError('expected {"time": seconds, "bodies": [{"id": ..., "joints": [[x, y, z], ...]}, ...]}')
    if unknown := sorted(set(content) - {"time", "bodies"}):
        raise ValueError(f"expected time and bodies, got {', '.join(unknown)} as well")
    time = content.get("time")
    if time is not None and (isinstance(time, bool) or not isinstance(time, int | float)):
        raise ValueError(f"time: expected seconds, got {time!r}")
    return _of_bodies(content["bodies"], time, num_joints, axes)


def _of_bodies(bodies: list[Any], time: float | None, num_joints: int, axes: int) -> Frames:
    joints = np.zeros((axes, num_joints, len(bodies)), np.float64)
    confidence = np.zeros((num_joints, len(bodies)), np.float64)
    seen = [place for place, body in enumerate(bodies) if body is not None]
    said: dict[str, list[int]] = {"id": [], "confidence": []}
    for place in seen:
        body, whose = bodies[place], f"of body {place + 1}"
        if not isinstance(body, dict) or "joints" not in body or set(body) - {"id", "joints", "confidence"}:
            raise ValueError(f"body {place + 1}: expected an object with joints, and perhaps id and confidence")
        joints[..., place] = _numbers(f"joints {whose}", body["joints"], (num_joints, axes)).T
        if "confidence" in body:
            confidence[:, place] = _numbers(f"confidence {whose}", body["confidence"], (num_joints,))
        if "id" in body and not isinstance(body["id"], int | str):
            raise ValueError(f"id {whose}: expected a number or a string, got {body['id']!r}")
        for name, places in said.items():
            places += [place] if name in body else []
    for name, places in said.items():
        if places and len(places) < len(seen):
            raise ValueError(f"{name}: expected of all bodies or of none, got {len(places)} for {len(seen)} bodies")
    if not said["id"]:
        return Frames(joints, time, None, confidence if said["confidence"] else None)
    ids = [bodies[place]["id"] for place in seen]
    return Frames(joints[..., seen], time, ids, confidence[:, seen] if said["confidence"] else None)


def _numbers(name: str, given: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    try:
        array = np.array(given)
    except ValueError:  # rows of different lengths
        array = np.array(None)
    if array.shape != shape or array.dtype.kind not in "if":
        what = f"{array.dtype} {array.shape}" if array.dtype.kind in "if" else "something else"
        raise ValueError(f"{name}: expected {' x '.join(map(str, shape))} numbers, got {what}")
    return array


def line_of_frame(frame: Frames) -> str:
    """One frame, not several in a row, as a line without its end.

    Example:
        >>> line_of_frame(Frames(np.ones((3, 2, 1)), 0.5, ["Ann"]))
        '{"time": 0.5, "bodies": [{"id": "Ann", "joints": [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]}]}'
    """
    joints = np.asarray(frame.joints)
    bodies: list[dict[str, Any] | None] = []
    for place in range(joints.shape[2]):
        body: dict[str, Any] = {} if frame.ids is None else {"id": frame.ids[place]}
        body["joints"] = joints[..., place].T.tolist()
        if frame.confidence is not None:
            body["confidence"] = np.asarray(frame.confidence)[:, place].tolist()
        bodies.append(body if joints[..., place].any() else None)
    time = {} if frame.timestamps is None else {"time": frame.timestamps}
    return json.dumps({**time, "bodies": bodies}, allow_nan=False)


def line_of_result(result: Result, top: int = 5, **others: Any) -> str:
    """A result as a line, without its end.

    It is ``{"start": 0.0, "end": 2.0, "class": "wave", "score": 0.93, "probabilities": {"wave": 0.93, ...}}``, with the
    likeliest classes first; class and score are null where no body was seen.

    Args:
        result: the result.
        top: how many classes are named.
        **others: what else the line says, first.
    """
    guesses = result.guesses(top)
    best = guesses[0] if guesses else None
    content = {
        **others,
        "start": round(result.start, 6),
        "end": round(result.end, 6),
        "class": best and best.name,
        "score": best and round(best.probability, 6),
        "probabilities": {guess.name: round(guess.probability, 6) for guess in guesses},
    }
    return json.dumps(content, ensure_ascii=False)

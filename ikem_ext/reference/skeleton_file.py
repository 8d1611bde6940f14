"""The plain twin of the native reader of NTU RGB+D ``.skeleton`` files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["parse_skeleton"]

_JOINTS = 25
_Body = tuple[int, int, list[list[float]], list[int]]  # id, tracking state, joints, tracking states of the joints


class _Lines:
    def __init__(self, text: bytes, name: str) -> None:
        # Bytes that are no text become characters that are no numbers, and are reported as such.
        lines = text.decode("ascii", errors="replace").split("\n")
        self.lines: Iterator[str] = iter(lines[:-1] if lines[-1] == "" else lines)
        self.name = name
        self.number = 0

    def refuse(self, reason: str) -> ValueError:
        return ValueError(f"{self.name}:{self.number}: {reason}")

    def fields(self) -> list[str]:
        self.number += 1
        line = next(self.lines, None)
        if line is None:
            raise self.refuse("the file ends too early")
        line = line.removesuffix("\r")
        if line.isprintable():
            return line.split()
        # split() and float() take more for white space than a file may have between its fields.
        fields = [field for field in re.split("[ \t]", line) if field]
        if not all(field.isprintable() for field in fields):
            raise self.refuse(f"no numbers: {fields}")
        return fields

    def count(self) -> int:
        fields = self.fields()
        if len(fields) != 1 or not re.fullmatch(r"\+?\d+", fields[0]) or int(fields[0]) >= 2**63:
            raise self.refuse(f"expected a count, got {fields}")
        return int(fields[0])

    def numbers(self, fields: list[str], count: int) -> list[float]:
        if len(fields) != count:
            raise self.refuse(f"expected {count} numbers, got {len(fields)} fields")
        try:
            numbers = [float(field) for field in fields]
        except ValueError as error:
            raise self.refuse(str(error)) from None
        for field, number in zip(fields, numbers, strict=True):
            # float() lets pass what is no number in a file: 1_000, and 1e999 as infinity.
            if "_" in field or (number in (math.inf, -math.inf) and "inf" not in field.lower()):
                raise self.refuse(f"{field!r} is not a number")
        return numbers

    def tracking_state(self, value: float) -> int:
        if not (0 <= value <= 255 and value == math.floor(value)):
            raise self.refuse(f"expected a tracking state from 0 to 255, got {value}")
        return int(value)


def parse_skeleton(
    text: bytes, name: str
) -> tuple[NDArray[np.float64], NDArray[np.uint64], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    """Parses the text of an NTU RGB+D ``.skeleton`` file; arguments, result and errors as in the native function.

    Args:
        text: what the file holds.
        name: what error messages call the file.

    Returns:
        joints float64 (frames, bodies, 25, 3), body_ids uint64 (frames, bodies), tracking_states uint8
        (frames, bodies), joint_tracking_states uint8 (frames, bodies, 25) and body_counts int64 (frames,).

    Raises:
        ValueError: the text is not such a file; the message starts with ``name:line:``.
    """
    lines = _Lines(text, name)
    frames = [[_parse_body(lines) for _ in range(lines.count())] for _ in range(lines.count())]
    for line in lines.lines:
        lines.number += 1
        if line.removesuffix("\r").strip(" \t"):
            raise lines.refuse(f"the file goes on after its {len(frames)} frames")
    return _padded(frames)


def _parse_body(lines: _Lines) -> _Body:
    fields = lines.fields()
    if not fields or not re.fullmatch(r"\+?\d+", fields[0]) or int(fields[0]) >= 2**64:
        raise lines.refuse("expected the id of a body")
    state = lines.tracking_state(lines.numbers(["0", *fields[1:]], 10)[-1])
    if lines.count() != _JOINTS:
        raise lines.refuse(f"expected {_JOINTS} joints")
    joints, states = [], []
    for _ in range(_JOINTS):
        numbers = lines.numbers(lines.fields(), 12)
        if not all(math.isfinite(number) for number in numbers[:3]):
            raise lines.refuse("a coordinate is not finite")
        joints.append(numbers[:3])
        states.append(lines.tracking_state(numbers[-1]))
    return int(fields[0]), state, joints, states


def _padded(
    frames: list[list[_Body]],
) -> tuple[NDArray[np.float64], NDArray[np.uint64], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    shape = len(frames), max(map(len, frames), default=0)
    joints, joint_states = np.zeros((*shape, _JOINTS, 3)), np.zeros((*shape, _JOINTS), np.uint8)
    ids, states = np.zeros(shape, np.uint64), np.zeros(shape, np.uint8)
    for frame, bodies in enumerate(frames):
        for body, values in enumerate(bodies):
            place = frame, body
            ids[place], states[place], joints[place], joint_states[place] = values
    return joints, ids, states, joint_states, np.array([len(bodies) for bodies in frames], dtype=np.int64)

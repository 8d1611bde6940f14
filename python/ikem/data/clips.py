"""What is known of the clips of a prepared data set, and its file ``clips.csv``."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter, eq, index
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["MISSING", "Clip", "Clips", "read_clips", "write_clips"]

MISSING = -(2**63)
"""What a column of numbers holds where the recordings do not say."""


@dataclass(frozen=True)
class Clip:
    """What is known of a clip: None where the recordings do not say.

    Args:
        name: as the data set's authors name it.
        label: the class, counted from 0; None if the clip is not labelled.
        subject: as in the recordings, a number or a name.
        camera, setup, replication: numbers as in the recordings.
        num_frames: the length before time was resized to T.
    """

    name: str
    label: int | None
    subject: int | str | None
    camera: int | None
    setup: int | None
    replication: int | None
    num_frames: int


_COLUMNS = [field.name for field in fields(Clip)]
_NUMBERS = ("label", "camera", "setup", "replication", "num_frames")
_row = attrgetter(*_COLUMNS)
_numbers = attrgetter(*_NUMBERS)


class Clips(Sequence[Clip]):
    """The clips of a data set, column by column: 52 bytes each and the name, where objects take 300.

    A :class:`Clip` is made when it is asked for.

    Args:
        clips: those to begin with.

    Example:
        >>> clips = Clips([Clip("wave", 0, "Ann", None, None, None, 60), Clip("walk", None, 2, 1, None, None, 80)])
        >>> clips[1].subject, clips.column("num_frames"), clips.column("label") == MISSING
        (2, array([60, 80]), array([False,  True]))
    """

    def __init__(self, clips: Iterable[Clip] = ()) -> None:
        self._names, self._ends = bytearray(), array("q", [0])
        self._columns = {name: array("q") for name in _NUMBERS}
        self._subject_codes = array("i")
        self._codes: dict[int | str | None, int] = {}
        self._subjects: list[int | str | None] = []
        for clip in clips:
            self.append(clip)

    def append(self, clip: Clip) -> None:
        """Adds a clip.

        Raises:
            OverflowError: a number has more than 64 bits.
        """
        for column, number in zip(self._columns.values(), _numbers(clip), strict=True):
            column.append(MISSING if number is None else number)
        code = self._codes.setdefault(clip.subject, len(self._subjects))
        if code == len(self._subjects):
            self._subjects.append(clip.subject)
        self._subject_codes.append(code)
        self._names += clip.name.encode()
        self._ends.append(len(self._names))

    def column(self, name: str) -> NDArray[np.int64]:
        """The numbers of all clips, (N,), :data:`MISSING` where one has none.

        Args:
            name: label, camera, setup, replication or num_frames.
        """
        return np.array(self._columns[name], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._subject_codes)

    @overload
    def __getitem__(self, where: int) -> Clip: ...
    @overload
    def __getitem__(self, where: slice) -> list[Clip]: ...
    def __getitem__(self, where: int | slice) -> Clip | list[Clip]:
        if isinstance(where, slice):
            return [self._clip(place) for place in range(len(self))[where]]
        return self._clip(range(len(self))[index(where)])

    def __iter__(self) -> Iterator[Clip]:
        return map(self._clip, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def _clip(self, place: int) -> Clip:
        numbers = (column[place] for column in self._columns.values())
        label, camera, setup, replication, num_frames = (None if number == MISSING else number for number in numbers)
        name = self._names[self._ends[place] : self._ends[place + 1]].decode()
        assert num_frames is not None
        return Clip(name, label, self._subjects[self._subject_codes[place]], camera, setup, replication, num_frames)


def write_clips(path: Path, clips: Clips) -> None:
    """Writes ``clips.csv``."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(_COLUMNS)
        rows.writerows(map(_row, clips))


def read_clips(path: Path) -> Clips:
    """Reads ``clips.csv``.

    Raises:
        ValueError: the file is not a table of clips; the message names the line.
    """
    clips = Clips()
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        if next(rows, None) != _COLUMNS:
            raise ValueError(f"{path}:1: expected the columns {','.join(_COLUMNS)}")
        for number, row in enumerate(rows, start=2):
            try:
                name, label, subject, *others, num_frames = row
                camera, setup, replication = map(_number, others)
                clip = Clip(name, _number(label), _subject(subject), camera, setup, replication, int(num_frames))
                clips.append(clip)
            except (ValueError, OverflowError) as error:
                raise ValueError(f"{path}:{number}: not a clip ({error})") from error
    return clips


def _number(text: str) -> int | None:
    return int(text) if text else None


def _subject(text: str) -> int | str | None:
    return int(text) if text.isdecimal() else text or None

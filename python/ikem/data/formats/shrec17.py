"""SHREC'17 hand gestures: one text file per clip (Intel RealSense, one hand)."""

from __future__ import annotations

import re
from pathlib import Path

from .base import ClipSource, Discovery, FileFormat, RawClip
from .folder import files_below
from .text import read_number_rows

__all__ = ["Shrec17", "Shrec17Fingers"]

_LISTS = {"train_gestures.txt": "train", "test_gestures.txt": "test"}
_NAME = "gesture_{}/finger_{}/subject_{}/essai_{}"


class Shrec17(FileFormat):
    """SHREC'17 dynamic hand gestures (De Smedt et al., 3DOR 2017): 2800 clips, 14 gestures, 28 subjects.

    The authors' lists ``train_gestures.txt`` and ``test_gestures.txt``, where they are found, are the protocol
    ``official``.
    """

    name = "shrec17"
    layout = "hand22"
    bodies = 1
    glob = "skeletons_world.txt"
    pattern = re.compile(r"/gesture_(\d+)/finger_(\d+)/subject_(\d+)/essai_(\d+)/skeletons_world\.txt$")
    example = "gesture_1/finger_1/subject_1/essai_1/skeletons_world.txt"
    classes: tuple[str, ...] = (
        "grab", "tap", "expand", "pinch", "rotation clockwise", "rotation counter-clockwise", "swipe right",
        "swipe left", "swipe up", "swipe down", "swipe x", "swipe +", "swipe v", "shake",
    )  # fmt: skip

    def __init__(self, raw: Path) -> None:
        super().__init__(raw)
        self._parts = self._read_lists()
        self._found: set[str] = set()

    @property
    def notes(self) -> list[str]:
        """Where the lists and the folders differ."""
        if not self._parts:
            return [f"without {' and '.join(_LISTS)} among the recordings there is no protocol 'official'"]
        differences = {
            "clips are in neither of the official lists": self._found - self._parts.keys(),
            "clips of the official lists are not among the recordings": self._parts.keys() - self._found,
        }
        return [f"{len(names)} {what}, such as {min(names)}" for what, names in differences.items() if names]

    def discover(self) -> Discovery:
        """The clips, with the part that the lists give each."""
        found = super().discover()
        self._found = {source.name for source in found.sources}
        return found

    def source(self, match: re.Match[str], path: Path) -> ClipSource:
        """Gesture, fingers, subject and trial are folders."""
        gesture, fingers, subject, trial = map(int, match.groups())
        name = _NAME.format(gesture, fingers, subject, trial)
        part = self._parts.get(name)
        return ClipSource(
            name,
            self.label(gesture, fingers),
            path,
            subject=subject,
            replication=trial,
            parts={"official": part} if part else {},
        )

    def label(self, gesture: int, fingers: int) -> int:
        """The class of a gesture; ``fingers`` is 1 where it is made with one finger, 2 with the whole hand."""
        return gesture - 1

    def read(self, source: ClipSource) -> RawClip:
        """Rows of x y z for the 22 joints, in meters with y up."""
        rows = read_number_rows(source.path, columns=22 * 3)
        return RawClip(rows.reshape(len(rows), 22, 3, 1).transpose(2, 0, 1, 3))

    def _read_lists(self) -> dict[str, str]:
        """The part of each clip that is named in the authors' lists."""
        parts: dict[str, str] = {}
        for path in files_below(self.raw):
            if (part := _LISTS.get(path.name)) is None:
                continue
            for row in read_number_rows(path, columns=7):
                name = _NAME.format(*map(int, row[:4]))
                if parts.setdefault(name, part) != part:
                    raise ValueError(f"{path}: {name} is listed for {parts[name]} and {part}")
        return parts


class Shrec17Fingers(Shrec17):
    """The same clips in 28 classes: each gesture with one finger, and with the whole hand."""

    name = "shrec17-28"
    classes = tuple(f"{gesture}, {hand}" for gesture in Shrec17.classes for hand in ("one finger", "whole hand"))

    def label(self, gesture: int, fingers: int) -> int:
        """Two classes for each gesture."""
        return 2 * (gesture - 1) + fingers - 1

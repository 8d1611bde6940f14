"""PKU-MMD, phases I and II: one text file per video, cut into clips by the authors' labels (Kinect v2)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .base import Align, ClipSource, Discovery, Format, LostFrames, RawClip
from .folder import archives_below, check_folder, files_below
from .text import parse_number_rows, read_number_rows

__all__ = ["PkuMmd"]

_VIDEO = re.compile(r"(?:\d{4}|A\d{2}N(?P<subject>\d{2}))-(?P<camera>[LMR])")
_CAMERAS = {"L": 1, "M": 2, "R": 3}
_SPLIT = re.compile(r"cross[-_](subject|view)(?:[-_]v2)?\.txt", re.IGNORECASE)
_SPLIT_PART = re.compile(r"(train|val|test)\w* +videos *:", re.IGNORECASE)


class _Action(NamedTuple):
    """A row of a label file: frames ``start`` to ``end`` - 1 of the video, counted from 0."""

    label: int
    start: int
    end: int


class PkuMmd(Format):
    """PKU-MMD (Liu et al., arXiv 1703.07475): 1076 videos of phase I and 1009 of phase II, 51 actions.

    The folder holds, at any depth, the skeleton files, the label files in a folder with ``label`` in its name, and
    the split files ``cross-subject.txt`` and ``cross-view.txt`` (``cross_subject_v2.txt`` and ``cross_view_v2.txt`` in
    phase II), which are the protocols of these names: what is for validation there is ``test``. A clip is an action
    of a video, named by both: ``0002-L_003`` is the third action in the label file of the video ``0002-L``. The
    letter is the camera, L = 1, M = 2, R = 3; phase II also numbers the people, ``A01N05-L`` shows subject 5.
    """

    name = "pku-mmd"
    layout = "ntu25"
    bodies = 2
    align: Align = "frame"
    lost_frames: LostFrames = "keep"
    example = "0002-L.txt"
    classes = tuple(
        " ".join(name.split())
        for name in """
        bow; brushing hair; brushing teeth; check time (from watch); cheer up; clapping;
        cross hands in front (say stop); drink water; drop; eat meal/snack; falling;
        giving something to other person; hand waving; handshaking; hopping (one foot jumping);
        hugging other person; jump up; kicking other person; kicking something;
        make a phone call/answer phone; pat on back of other person; pickup; playing with phone/tablet;
        point finger at the other person; pointing to something with finger; punching/slapping other person;
        pushing other person; put on a hat/cap; put something inside pocket; reading; rub two hands together;
        salute; sitting down; standing up; take off a hat/cap; take off glasses; take off jacket;
        take out something from pocket; taking a selfie; tear up paper; throw; touch back (backache);
        touch chest (stomachache/heart pain); touch head (headache); touch neck (neckache); typing on a keyboard;
        use a fan (with hand or paper)/feeling warm; wear jacket; wear on glasses; wipe face; writing
        """.split(";")
    )

    def __init__(self, raw: Path) -> None:
        super().__init__(raw)
        check_folder(raw, self.name)
        self._splits = self._read_splits()
        self._label_files: dict[str, Path] = {}
        self._actions: dict[str, list[_Action]] = {}
        self._lengths: dict[str, int] = {}  # of the videos read so far, in frames
        self._line_ends = lru_cache(maxsize=64)(_line_ends)  # threads read clips of neighbouring videos

    @property
    def notes(self) -> list[str]:
        """What lies between the actions, and what the split files lack."""
        return [*self._notes_on_frames(), *self._notes_on_splits()]

    def discover(self) -> Discovery:
        """The actions that the label files name."""
        videos, self._label_files, skipped = self._find_files()
        sources = [
            source
            for video, path in sorted(videos.items())
            if video in self._label_files
            for source in self._cut(video, path)
        ]
        for reason, names in (
            ("the video has no label file", videos.keys() - self._label_files.keys()),
            ("the label file has no video", self._label_files.keys() - videos.keys()),
            ("the label file names no action", {video for video, actions in self._actions.items() if not actions}),
        ):
            if names:
                skipped[reason] = sorted(names)
        return Discovery(sources, skipped)

    def read(self, source: ClipSource) -> RawClip:
        """The action's rows of x y z for the 25 joints of two bodies, in meters with y up."""
        video = source.path.stem
        if source.index is None:  # stands for a video whose labels cannot be read: this says why
            _read_labels(self._label_files[video], len(self.classes))
            raise ValueError(f"{self._label_files[video]}: the labels changed while they were read")
        ends = self._line_ends(source.path)
        self._lengths[video] = len(ends)
        _, start, end = self._actions[video][source.index]
        if start >= len(ends):
            raise ValueError(f"{source.path}: the action begins in frame {start} of {len(ends)}")
        with source.path.open("rb") as file:
            begin = int(ends[start - 1]) if start else 0
            file.seek(begin)
            content = file.read(int(ends[min(end, len(ends)) - 1]) - begin)
        rows = parse_number_rows(content, source.path, columns=2 * 25 * 3, first_line=start + 1)
        return RawClip(rows.reshape(len(rows), 2, 25, 3).transpose(3, 0, 2, 1))

    def _find_files(self) -> tuple[dict[str, Path], dict[str, Path], dict[str, list[str]]]:
        """The skeleton and the label file of each video, and the files that are neither, by reason."""
        videos: dict[str, Path] = {}
        labels: dict[str, Path] = {}
        others = []
        for path in files_below(self.raw):
            inside = path.relative_to(self.raw)
            if path.suffix != ".txt" or _SPLIT.fullmatch(path.name):
                continue
            if not _VIDEO.fullmatch(path.stem):
                others.append(str(inside))
                continue
            files = labels if any("label" in folder.lower() for folder in inside.parent.parts) else videos
            if path.stem in files:
                raise ValueError(f"raw: two files hold the video {path.stem}: {files[path.stem]} and {path}")
            files[path.stem] = path
        skipped = archives_below(self.raw)
        if others:
            skipped[f"the file is not named like {self.example}"] = others
        return videos, labels, skipped

    def _cut(self, video: str, path: Path) -> list[ClipSource]:
        """The clips of a video; one without an index stands for a video whose labels cannot be read."""
        match = _VIDEO.fullmatch(video)
        assert match is not None  # as _find_files looked
        subject = int(match["subject"]) if match["subject"] else None
        camera = _CAMERAS[match["camera"]]
        try:
            self._actions[video] = _read_labels(self._label_files[video], len(self.classes))
        except (ValueError, OSError):
            return [ClipSource(video, None, path)]
        parts = {protocol: named[video] for protocol, named in self._splits.items() if video in named}
        return [
            ClipSource(f"{video}_{index + 1:03d}", action.label, path, subject, camera, index=index, parts=parts)
            for index, action in enumerate(self._actions[video])
        ]

    def _read_splits(self) -> dict[str, dict[str, str]]:
        """Protocol -> video -> part."""
        splits: dict[str, dict[str, str]] = {}
        for path in files_below(self.raw):
            if match := _SPLIT.fullmatch(path.name):
                splits.setdefault(f"cross-{match[1].lower()}", {}).update(_read_split(path))
        return splits

    def _notes_on_frames(self) -> Iterator[str]:
        between = late = 0
        for video, length in sorted(self._lengths.items()):
            inside = np.zeros(length, dtype=bool)
            for _, start, end in self._actions[video]:
                inside[start:end] = True
                late += end > length
            between += length - int(inside.sum())
        yield f"{between} frames between the labelled actions of {len(self._lengths)} videos were left out"
        if late:
            yield f"{late} actions end with their video, before the frame that their label names"

    def _notes_on_splits(self) -> Iterator[str]:
        if not self._splits:
            yield "without cross-subject.txt and cross-view.txt among the recordings there are no such protocols"
        for protocol, named in self._splits.items():
            if unnamed := sorted(self._actions.keys() - named.keys()):
                yield f"{len(unnamed)} videos are in no part of {protocol}, such as {unnamed[0]}"


def _read_split(path: Path) -> dict[str, str]:
    """The part of each video that a split file names: a line ends with a colon, the names after it are of that part."""
    _, *parts = _SPLIT_PART.split(path.read_text(encoding="ascii", errors="replace"))
    named: dict[str, str] = {}
    for part, names in zip(parts[::2], parts[1::2], strict=True):
        for video in (match.group() for match in _VIDEO.finditer(names)):
            if named.setdefault(video, part) != part:
                raise ValueError(f"{path}: {video} is listed twice, for training and for validation")
    if len(set(named.values())) < 2:
        raise ValueError(f"{path}: expected lists of videos after 'Training videos:' and 'Validation videos:'")
    return {video: "train" if part.lower() == "train" else "test" for video, part in named.items()}


def _read_labels(path: Path, classes: int) -> list[_Action]:
    """The actions of a label file, rows of ``class,start,end,confidence``."""
    if not path.read_bytes().strip():
        return []
    actions = []
    for number, (label, start, end, _) in enumerate(read_number_rows(path, columns=4, separator=","), start=1):
        if not (1 <= label <= classes and 0 <= start < end and label.is_integer() and (start % 1, end % 1) == (0, 0)):
            raise ValueError(
                f"{path}:{number}: expected a class from 1 to {classes} and its first frame before its last, "
                f"got {label:g},{start:g},{end:g}"
            )
        actions.append(_Action(int(label) - 1, int(start), int(end)))
    return actions


def _line_ends(path: Path) -> NDArray[np.int64]:
    """Where the lines of a file end, in bytes, so that a clip is read without what lies before it."""
    content = path.read_bytes().rstrip()
    ends = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == ord("\n")) + 1
    return np.append(ends, len(content)) if content else ends

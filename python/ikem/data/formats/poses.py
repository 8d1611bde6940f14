"""What readers of pose estimators share: clips in JSON files, with as many people in each frame as were found."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ikem_ext.skeleton import SkeletonLayout

from .base import ClipSource, Discovery, Format, RawClip
from .clip_table import ClipTable, read_clip_table
from .folder import archives_below, check_folder

__all__ = ["Person", "PoseFiles", "Poses", "frame_files", "read_json"]


class Person(NamedTuple):
    """A person in a frame."""

    points: NDArray[np.float64]
    """(V, C + 1): the coordinates of each point, and its confidence from 0 to 1."""
    track: str | int | None = None
    """By which the person is known again in other frames."""


class Poses(NamedTuple):
    """A clip as the estimator wrote it."""

    frames: Iterable[list[Person]]
    """The people in each frame, one frame after another."""
    image_size: tuple[int, int] | None = None
    """Width and height of the image in pixels, where it is known."""


class PoseFiles(Format):
    """Clips that a pose estimator wrote, one JSON file per clip or one folder per clip with a JSON file per frame.

    The folder of a clip's file (or of a clip's folder) is its class, unless a table says otherwise; a clip that lies
    in the folder of all recordings itself has no label.

    Args:
        raw: the folder of all recordings.
        labels: a table of clips, see :func:`~ikem.data.formats.clip_table.read_clip_table`.
    """

    bodies = 2
    layouts: ClassVar[Mapping[int, str]]
    """How many points a person has -> which layout that is."""

    def __init__(self, raw: Path, labels: Path | None = None) -> None:
        super().__init__(raw)
        check_folder(raw, self.name)
        self._table_path = labels
        self._table: ClipTable | None = None if labels is None else read_clip_table(labels)
        self._clips = self._find_clips()
        self.classes = self._find_classes() if self._table is None else self._table.classes
        self.layout = self._find_layout()

    @property
    def notes(self) -> list[str]:
        """What of the table was not used."""
        unused = [] if self._table is None else self._table.unused
        return [f"columns of {self._table_path} that are not used: {', '.join(unused)}"] if unused else []

    def discover(self) -> Discovery:
        """The clips, with what their folders or the table say of them."""
        sources = [ClipSource(name, path=path, **self._facts(name, path)) for name, path in sorted(self._clips.items())]
        skipped = archives_below(self.raw)
        if self._table is not None and (absent := self._table.facts.keys() - self._clips.keys()):
            skipped[f"listed in {self._table_path}, but not among the recordings"] = sorted(absent)
        return Discovery(sources, skipped)

    def read(self, source: ClipSource) -> RawClip:
        """All people in all frames: those with a track each in a place of their own, others as they are listed."""
        poses = self.load(source.path)
        num_joints = self.layout.num_joints if isinstance(self.layout, SkeletonLayout) else 0
        points = _assemble(list(poses.frames), num_joints, source.path)
        joints, confidence = points[..., :-1], points[..., -1]
        return RawClip(joints.transpose(3, 0, 2, 1), np.clip(confidence, 0, 1).transpose(0, 2, 1), poses.image_size)

    @abstractmethod
    def find(self) -> Iterator[Path]:
        """The clips: the files, or the folders of files, that are one each."""

    @abstractmethod
    def load(self, path: Path) -> Poses:
        """Reads a clip.

        Raises:
            ValueError: a file is damaged; the message names it, and the line or the frame. The frames may raise it.
        """

    def _find_clips(self) -> dict[str, Path]:
        clips: dict[str, Path] = {}
        for path in sorted(self.find()):
            if (known := clips.setdefault(self._clip_name(path), path)) != path:
                raise ValueError(f"raw: {known} and {path} are both the clip {self._clip_name(path)}")
        return clips

    def _clip_name(self, path: Path) -> str:
        inside = path.relative_to(self.raw).as_posix()
        return self.raw.absolute().name if inside == "." else inside.removesuffix(".json")

    def _folder_class(self, path: Path) -> str | None:
        return None if path == self.raw or path.parent == self.raw else path.parent.name

    def _find_classes(self) -> tuple[str, ...]:
        return tuple(sorted({label for path in self._clips.values() if (label := self._folder_class(path))}))

    def _facts(self, name: str, path: Path) -> dict[str, Any]:
        if self._table is not None:
            return self._table.facts.get(name, {"label": None})
        label = self._folder_class(path)
        return {"label": None if label is None else self.classes.index(label)}

    def _find_layout(self) -> str | None:
        """The layout of the first person who is seen; files that are damaged are told of when they are read."""
        for path in self._clips.values():
            try:
                person = next((people[0] for people in self.load(path).frames if people), None)
            except (ValueError, OSError):
                continue
            if person is not None:
                return self.layouts.get(len(person.points))
        return None


def _assemble(frames: Sequence[list[Person]], num_joints: int, path: Path) -> NDArray[np.float64]:
    """The points of a clip, (frames, bodies, V, C + 1), zero where somebody is not seen."""
    tracked = all(len({person.track for person in people}) == len(people) for people in frames)
    bodies: dict[Any, int] = {}  # who -> the place among the bodies
    placed = []
    for frame, people in enumerate(frames):
        for place, person in enumerate(people):
            who = ("listed", place) if person.track is None or not tracked else person.track
            placed.append((frame, bodies.setdefault(who, len(bodies)), person.points))
    shape = placed[0][2].shape if placed else (num_joints, 3)
    points = np.zeros((len(frames), len(bodies), *shape))
    for frame, body, seen in placed:
        if seen.shape != shape:
            raise ValueError(f"{path}: frame {frame + 1}: expected {shape[0]} points as before, got {len(seen)}")
        points[frame, body] = seen
    return points


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        ValueError: it is none; the message names file and line.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not a JSON file ({error.msg})") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from None


def frame_files(folder: Path) -> list[Path]:
    """The JSON files in a folder, by the numbers in their names, so that 10 comes after 9; without hidden ones."""

    def parts(path: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]

    return sorted((path for path in folder.glob("*.json") if not path.name.startswith(".")), key=parts)

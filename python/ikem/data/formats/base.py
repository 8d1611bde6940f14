"""What every format offers: which clips a folder of recordings holds, and the joints of each."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ikem_ext.skeleton import SkeletonLayout

from .folder import ARCHIVE, check_folder, files_below, is_archive, linked_folders_below, resembles

__all__ = ["Align", "ClipSource", "Discovery", "FileFormat", "Format", "LostFrames", "RawClip", "without_padding"]

Align = Literal["frame", "clip", "none"]
LostFrames = Literal["interpolate", "drop", "keep"]


@dataclass(frozen=True)
class ClipSource:
    """A clip that was found but not yet read.

    Args:
        name: names the clip in the data set, as the data set's authors do.
        label: the class, counted from 0; None where it is not known.
        path: the file that holds it.
        subject, camera, setup, replication: as the file's name gives them, None where it does not.
        index: the clip's row in a file that holds many.
        parts: protocol -> ``train`` or ``test``, for the protocols that the recordings bring themselves. A clip that
            a protocol does not use has no part in it.
    """

    name: str
    label: int | None
    path: Path
    subject: int | str | None = None
    camera: int | None = None
    setup: int | None = None
    replication: int | None = None
    index: int | None = None
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RawClip:
    """What was recorded.

    Args:
        joints: float array (3, frames, V, bodies) in meters, y up; or (2, frames, V, bodies), points in an image, in
            pixels or shares of it, y down. A body that is not seen in a frame is zero.
        confidence: float array (frames, V, bodies), from 0 to 1, where the recording holds it.
        image_size: width and height of the image in pixels, where the recording says so.
        num_frames: how long the clip was, where the recording was resized in time already; default: as it is.
        body_ids: integers (frames, bodies), by which the sensor knows a body again, where the recording holds them.
    """

    joints: NDArray[np.floating]
    confidence: NDArray[np.floating] | None = None
    image_size: tuple[int, int] | None = None
    num_frames: int | None = None
    body_ids: NDArray[np.integer] | None = None


class Discovery(NamedTuple):
    """The clips found, sorted by name, and the names of those left out by reason."""

    sources: list[ClipSource]
    skipped: dict[str, list[str]]


class Format(ABC):
    """A data set's files, opened for reading.

    Args:
        raw: the folder, or the file, that holds the recordings.

    Raises:
        ValueError: there is nothing of that name, or it is not of this format.
    """

    name: ClassVar[str]
    layout: str | SkeletonLayout | None
    """The skeleton, by name where it is a built-in one; None if the recordings do not say."""
    classes: tuple[str, ...]
    bodies: int
    """How many bodies of a clip are kept unless another number is asked for."""
    align: Align = "none"
    """Who is turned to face the camera unless asked otherwise."""
    lost_frames: LostFrames = "interpolate"
    """What becomes of frames without any body unless asked otherwise."""
    scratch: Path | None = None
    """A folder for files that are gone with the reader; default: the system's."""

    def __init__(self, raw: Path) -> None:
        if not raw.exists():
            raise ValueError(f"raw: expected the recordings of {self.name}, but {raw} does not exist")
        if raw.is_file() and is_archive(raw):
            raise ValueError(f"raw: {raw} is an archive; unpack it, and give what was in it")
        self.raw = raw

    @property
    def origin(self) -> str:
        """What the prepared data set is to say that it was made from."""
        return self.name

    @property
    def notes(self) -> list[str]:
        """What else was found in the recordings, or done to them; asked for when all clips are read."""
        return []

    def begin(self, layout: SkeletonLayout, scratch: Path) -> None:
        """Takes note of what was chosen, before the clips are looked for.

        Args:
            layout: the skeleton, as the format has it or as the user says.
            scratch: see the attribute.

        Raises:
            ValueError: the recordings cannot be of that skeleton.
        """
        self.layout, self.scratch = layout, scratch

    @abstractmethod
    def discover(self) -> Discovery:
        """Finds the clips without reading them."""

    @abstractmethod
    def read(self, source: ClipSource) -> RawClip:
        """Reads one clip; several threads may do so at a time.

        Raises:
            ValueError: the file is damaged; the message names the file.
        """


def _refuse_doubles(found: Mapping[str, list[ClipSource]]) -> None:
    doubles = [
        f"two files hold the clip {name}: {sources[0].path} and {sources[1].path}"
        for name, sources in sorted(found.items())
        if len(sources) > 1
    ]
    if doubles:
        raise ValueError("raw: " + "; ".join(doubles))


class FileFormat(Format):
    """A format with one file per clip, whose name says what it shows."""

    glob: ClassVar[str]
    """Which files below the folder are looked at."""
    pattern: ClassVar[re.Pattern[str]]
    """What the end of a clip's path must match."""
    example: ClassVar[str]
    """Such a path, for messages."""

    def __init__(self, raw: Path) -> None:
        super().__init__(raw)
        check_folder(raw, self.name)

    def discover(self) -> Discovery:
        """Finds the clips below the folder by their file names, and names the files that only look like clips."""
        found: dict[str, list[ClipSource]] = defaultdict(list)
        skipped: dict[str, list[str]] = defaultdict(list)
        unlike = f"the file is not named like {self.example}"
        for path in files_below(self.raw):
            name = str(path.relative_to(self.raw))
            match = fnmatchcase(path.name, self.glob) and self.pattern.search(path.absolute().as_posix())
            if match:
                source = self.source(match, path)
                if source.label is not None and not 0 <= source.label < len(self.classes):
                    skipped[f"the action is not one of the {len(self.classes)} of {self.name}"].append(source.name)
                else:
                    found[source.name].append(source)
            elif is_archive(path):
                skipped[ARCHIVE].append(name)
            elif resembles(path, self.glob, self.example):
                skipped[unlike].append(name)
        for path in linked_folders_below(self.raw):
            skipped["a link to a folder, which is not followed"].append(str(path.relative_to(self.raw)))
        _refuse_doubles(found)
        return Discovery([found[name][0] for name in sorted(found)], dict(skipped))

    @abstractmethod
    def source(self, match: re.Match[str], path: Path) -> ClipSource:
        """The clip whose path matched; a label out of range leaves it out."""


def without_padding(joints: NDArray[np.floating]) -> NDArray[np.floating]:
    """A clip (axes, frames, V, bodies) up to the last frame in which anything is not zero."""
    frames = np.flatnonzero(joints.any(axis=(0, 2, 3)))
    return joints[:, : frames[-1] + 1 if len(frames) else 0]

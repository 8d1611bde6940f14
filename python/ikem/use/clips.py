"""From what a user names, recordings or clips of a prepared data set, to arrays that an encoder takes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ikem.data.dataset import PreparedDataset
from ikem.data.preprocess import Preprocessing
from ikem.data.recipe import Recipe, mapping_between
from ikem.data.recordings import NamedClip, read_recordings
from ikem.data.summary import DamagedClipsError

__all__ = ["Batch", "ClipReader", "ReadyClip", "is_there"]

BATCH = 32  # clips that are encoded together
DESCRIPTION = "dataset.json"  # by which a prepared data set is told from recordings


class ReadyClip(NamedTuple):
    """A clip as an encoder takes it.

    Args:
        file: which of the files it is from, as the user named it.
        name: of the clip in it.
        joints: float32 (3, T, V, M).
        num_frames: how many frames it had before they were resized to T.
        bodies: how many bodies are seen in it.
        taken: how many of them are in ``joints``.
    """

    file: str
    name: str
    joints: NDArray[np.float32]
    num_frames: int
    bodies: int
    taken: int


class Batch(NamedTuple):
    """Some clips together.

    Args:
        clips: N clips.
        joints: (N, 3, T, V, M).
        num_frames: (N,).
    """

    clips: list[ReadyClip]
    joints: Tensor
    num_frames: Tensor


@dataclass
class ClipReader:
    """Reads clips and makes them ready; what is wrong with one is kept until all others are read.

    Args:
        recipe: how recordings become clips.
        format: what the recordings are; default: what they look like.
        layout: their skeleton; default: as they say.

    Attributes:
        damages: one sentence for each clip, or file, that could not be read.
        notes: what is to be said of those that could, each once.
    """

    recipe: Recipe
    format: str | None = None
    layout: str | None = None
    damages: list[str] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)

    def batches(self, files: Sequence[str]) -> Iterator[Batch]:
        """Read all clips of files, some at a time.

        Args:
            files: recordings that `ikem prepare` reads, files or folders, or prepared data sets; ``FILE:CLIP`` is one
                clip of a file, by its name.
        """
        waiting: list[ReadyClip] = []
        for file in files:
            for clip in self.read(file):
                waiting.append(clip)
                if len(waiting) == BATCH:
                    yield _together(waiting)
                    waiting = []
        if waiting:
            yield _together(waiting)

    def read(self, file: str) -> Iterator[ReadyClip]:
        """Read the clips of one file."""
        path, wanted = _parted(file)
        found = False
        try:
            prepared = (path / DESCRIPTION).is_file()
            for clip in self._prepared(path, wanted) if prepared else self._recorded(path, wanted):
                found = True
                if clip is not None:
                    yield clip
            if not found:
                self.damages.append(f"{path}: there is no clip {wanted} in it" if wanted else f"{path}: it has no clip")
        except (ValueError, OSError) as error:
            self.damages.append(_of(path, error))

    def check(self, skip_damaged: bool) -> None:
        """Say what is to be said of the clips that were read, and refuse those that could not be.

        Args:
            skip_damaged: only say which they are.

        Raises:
            ValueError: there is one; DamagedClipsError: there are several.
        """
        for note in self.notes:
            print(note, file=sys.stderr)
        if not self.damages:
            return
        if not skip_damaged and len(self.damages) == 1:
            raise ValueError(self.damages[0])
        if not skip_damaged:
            raise DamagedClipsError(
                f"files: {len(self.damages)} cannot be used, so nothing is done; --skip_damaged true leaves them out",
                self.damages,
            )
        print(*(f"left out: {damage}" for damage in self.damages), sep="\n", file=sys.stderr)

    def _recorded(self, path: Path, wanted: str | None) -> Iterator[ReadyClip | None]:
        for named in read_recordings(path, format=self.format, layout=self.layout, damages=self.damages):
            if wanted is None or named.name == wanted:
                yield self._ready(path, named)

    def _ready(self, path: Path, named: NamedClip) -> ReadyClip | None:
        try:
            made = self.recipe(named.clip, named.layout)
        except ValueError as error:
            self.damages.append(f"{path}: clip {named.name}: {error}")
            return None
        if made.num_frames == 1:
            self.damages.append(f"{path}: clip {named.name}: expected at least 2 frames, as actions move, got 1")
            return None
        if mapping := mapping_between(named.layout, self.recipe.layout):
            stand_ins = [f"{joint} by {' and '.join(others)}" for joint, others in mapping.approximated.items()]
            self.notes[
                f"{path}: joints of {mapping.target.name} are taken from {mapping.source.name}; "
                f"made of others: {', '.join(stand_ins) or 'none'}"
            ] = None
        bodies = int(named.clip.joints.any(axis=(0, 2)).any(axis=0).sum())
        return ReadyClip(str(path), named.name, made.joints, made.num_frames, bodies, _bodies_in(made.joints))

    def _prepared(self, path: Path, wanted: str | None) -> Iterator[ReadyClip]:
        dataset = PreparedDataset(path)
        _require_same(Recipe.of(dataset), self.recipe)
        for place, clip in enumerate(dataset.clips):
            if wanted is None or clip.name == wanted:
                joints = dataset.joints[place]
                bodies = _bodies_in(joints)
                yield ReadyClip(str(path), clip.name, joints, clip.num_frames, bodies, bodies)


def is_there(file: str) -> bool:
    """Whether ``FILE`` or the file of ``FILE:CLIP`` exists."""
    return _parted(file)[0].exists()


def _parted(file: str) -> tuple[Path, str | None]:
    """Part ``FILE:CLIP``; a file of that whole name goes before."""
    path, colon, clip = file.rpartition(":")
    return (Path(path), clip) if colon and not Path(file).exists() and Path(path).exists() else (Path(file), None)


def _of(path: Path, error: Exception) -> str:
    message = str(error)
    return message if str(path) in message else f"{path}: {message}"


def _bodies_in(joints: NDArray[np.float32]) -> int:
    return int(joints.any(axis=(0, 1, 2)).sum())


def _require_same(found: Recipe, wanted: Recipe) -> None:
    """Refuse a data set that was prepared otherwise than what the encoders were trained on."""
    if found.layout != wanted.layout:
        raise ValueError(f"it has the skeleton {found.layout.name!r}, expected {wanted.layout.name!r}")
    for item in fields(Preprocessing):
        got, expected = (getattr(recipe.preprocessing, item.name) for recipe in (found, wanted))
        if got != expected:
            raise ValueError(
                f"it was prepared with {item.name} {got}, expected {expected}, as for the training; give the recordings"
            )


def _together(clips: list[ReadyClip]) -> Batch:
    joints = torch.from_numpy(np.stack([clip.joints for clip in clips]))
    return Batch(clips, joints, torch.tensor([clip.num_frames for clip in clips]))

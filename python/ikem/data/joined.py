"""Several prepared data sets of one skeleton as one, to pretrain on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ikem.config.data import ALL
from ikem.data.clips import Clip, Clips
from ikem.data.dataset import PreparedDataset


class JoinedArrays:
    """Arrays (n, ...) of one dtype as one array (N, ...), which stay where they are until clips are asked for.

    Example:
        >>> joined = JoinedArrays([np.zeros((2, 3)), np.ones((4, 3))])
        >>> joined.shape, joined[np.array([5, 1, 2])][:, 0]
        ((6, 3), array([1., 0., 1.]))
    """

    def __init__(self, arrays: Sequence[NDArray[Any]]) -> None:
        self.arrays = arrays
        self.first = np.cumsum([0, *map(len, arrays)])
        self.shape = (int(self.first[-1]), *arrays[0].shape[1:])
        self.dtype = arrays[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, clips: NDArray[np.int64]) -> NDArray[Any]:
        found = np.empty((len(clips), *self.shape[1:]), self.dtype)
        owner = np.searchsorted(self.first, clips, side="right") - 1
        for number, array in enumerate(self.arrays):
            mine = owner == number
            found[mine] = array[clips[mine] - self.first[number]]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.concatenate(self.arrays).astype(dtype or self.dtype, copy=False)


class JoinedDataset(PreparedDataset):
    """Prepared data sets of one skeleton, number of frames and number of bodies, one after another.

    There are no labels: the classes of one are not those of another. Names and subjects have the name of their data set
    before them, ``ucla/3``. The protocols are those that all have, each with its training parts joined and the same for
    the others, and ``all``, by which every clip trains.

    Args:
        folders: of the data sets.

    Raises:
        ValueError: a folder is no prepared data set, is named twice, or is one of another skeleton or shape.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        parts = [PreparedDataset(folder) for folder in folders]
        first = parts[0]
        for other in parts[1:]:
            _require_alike(first, other)
        names = _names(folders)
        self.folders = tuple(folders)
        self.folder = Path(" + ".join(map(str, folders)))  # for messages
        self.name = "+".join(names)
        self.joints = JoinedArrays([part.joints for part in parts])  # type: ignore[assignment]
        self.clips = Clips(_renamed(clip, name) for part, name in zip(parts, names, strict=True) for clip in part.clips)
        self.labels = np.full(len(self.clips), -1)
        self.num_frames = np.concatenate([part.num_frames for part in parts])
        self.classes = []
        self.layout = first.layout
        self.preprocessing = first.preprocessing
        self.selection = first.selection
        self.protocols = _joined_protocols(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return JoinedDataset, (self.folders,)


def open_dataset(folders: Path | Sequence[Path]) -> PreparedDataset:
    """Open a prepared data set, or several as one."""
    return PreparedDataset(folders) if isinstance(folders, Path) else JoinedDataset(folders)


def _require_alike(first: PreparedDataset, other: PreparedDataset) -> None:
    if first.layout != other.layout:
        raise ValueError(
            f"data.folder: expected data sets of one skeleton, got {first.layout.name} in {first.folder} and "
            f"{other.layout.name} in {other.folder}; `ikem prepare --layout_out` stores recordings as another skeleton"
        )
    if first.joints.shape[1:] != other.joints.shape[1:]:
        shapes = [f"(N, 3, T = {x.joints.shape[2]}, V, M = {x.joints.shape[4]})" for x in (first, other)]
        raise ValueError(
            f"data.folder: expected data sets of one number of frames and bodies, got {shapes[0]} in {first.folder} "
            f"and {shapes[1]} in {other.folder}; prepare them with the same --frames and --bodies"
        )
    keys = ("center", "align", "scale", "third")
    unlike = [key for key in keys if first.preprocessing.get(key) != other.preprocessing.get(key)]
    for key in unlike:
        values = [repr(each.preprocessing.get(key)) for each in (first, other)]
        print(f"data.folder: {first.folder} was prepared with {key} {values[0]}, {other.folder} with {values[1]}")


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, or whole paths where those are not different."""
    counts = Counter(folder.resolve() for folder in folders)
    if twice := [str(folder) for folder, count in counts.items() if count > 1]:
        raise ValueError(f"data.folder: expected each data set once, got {', '.join(twice)} more than once")
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _renamed(clip: Clip, dataset: str) -> Clip:
    subject = None if clip.subject is None else f"{dataset}/{clip.subject}"
    return replace(clip, name=f"{dataset}/{clip.name}", label=None, subject=subject)


def _joined_protocols(parts: Sequence[PreparedDataset]) -> dict[str, dict[str, NDArray[np.int64]]]:
    first = np.cumsum([0, *map(len, parts)])
    joined = {
        name: {
            part: np.concatenate(
                [start + dataset.protocols[name][part] for dataset, start in zip(parts, first, strict=False)]
            )
            for part in ("train", "test")
        }
        for name in parts[0].protocols
        if name != ALL and all(name in dataset.protocols for dataset in parts)
    }
    return {**joined, ALL: {"train": np.arange(first[-1]), "test": np.array([], dtype=np.int64)}}

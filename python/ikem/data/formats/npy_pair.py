"""Pairs of an ``.npy`` file with joints and a pickle with names and labels: CrosSCLR, AimCLR, IKEM, CMD."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .arrays import FileArray, open_npy
from .base import Align, ClipSource, Discovery, Format, LostFrames, RawClip, without_padding
from .names import class_names, clip_facts, protocol_of, read_labels
from .restricted_pickle import load_pickle

__all__ = ["NpyPair"]

_PARTS = {"train": "train", "val": "test", "test": "test"}
_FILE = re.compile(r"(train|val|test)_(data|position|data_joint)\.npy")


class NpyPair(Format):
    """What the code of CrosSCLR, AimCLR, PSTL, ActCLR, IKEM, 2s-AGCN and CMD makes of NTU and PKU-MMD.

    A folder, such as ``NTU-RGB-D/xsub``, whose name says the protocol, with a file of joints for each of the parts
    ``train`` and ``val`` (or ``test``):

    - ``train_data.npy``, float (N, 3, 300, 25, 2): as recorded, zero beyond a clip's end;
    - or ``train_position.npy``, (N, 3, 50, 25, 2): preprocessed, which is why nobody is turned to the camera again;
    - or ``train_data_joint.npy``, (N, 3, 300, 25, 2): as 2s-AGCN and CMD normalize it, with z up, and repeat it.

    Beside it are its labels: ``train_label.pkl``, a pickle of names and labels, and with IKEM the clips' lengths; or
    ``train_label.npy`` (N, 1). CMD's lengths are in ``train_num_frame.npy`` (N,). Without lengths, a clip ends with its
    last frame that is not all zero. Of a folder with more than one of the three kinds, name a file of the kind meant.
    """

    name = "npy-pair"
    example = "xsub/train_data.npy"

    def __init__(self, raw: Path) -> None:
        super().__init__(raw)
        folder = raw if raw.is_dir() else raw.parent
        self._kind, files = _files_of(raw)
        self._pairs = {_PARTS[part]: _Pair.open(folder, part, file) for part, file in files.items()}
        self._protocol = protocol_of(folder.resolve().name)
        pairs = self._pairs.values()
        if len({pair.joints.shape[3:] for pair in pairs}) > 1:
            raise ValueError(f"{folder}: training and test clips differ in their joints or bodies")
        joints, self.bodies = next(iter(pairs)).joints.shape[3:]
        self.layout = "ntu25" if joints == 25 else None
        self.align: Align = "frame" if self._kind == "data" else "none"
        self.lost_frames: LostFrames = "keep" if self._kind == "data" else "interpolate"
        names = [name for pair in pairs for name in pair.names]
        are_named = all(pair.are_named for pair in pairs)
        self._prefixed = not are_named or len(set(names)) < len(names)
        self.classes = class_names(max(pair.classes for pair in pairs), names if are_named else ())

    def discover(self) -> Discovery:
        """One clip per row of each file."""
        sources = [
            ClipSource(
                f"{part}/{name}" if self._prefixed else name,
                label,
                pair.path,
                index=row,
                parts={self._protocol: part},
                **clip_facts(name),
            )
            for part, pair in self._pairs.items()
            for row, (name, label) in enumerate(zip(pair.names, pair.labels, strict=True))
        ]
        return Discovery(sorted(sources, key=lambda source: source.name), {})

    def read(self, source: ClipSource) -> RawClip:
        """The clip's row, up to its end."""
        assert source.index is not None  # as discover gives it
        pair = self._pairs[source.parts[self._protocol]]
        joints = pair.joints[source.index]
        length = None if pair.num_frames is None else pair.num_frames[source.index]
        if self._kind == "position":
            return RawClip(joints, num_frames=length)
        joints = without_padding(joints) if length is None else joints[:, :length]
        if self._kind == "data_joint":
            x, y, z = joints
            joints = np.stack((x, z, -y))
        return RawClip(joints)


class _Pair(NamedTuple):
    """The clips of one part."""

    path: Path
    joints: FileArray
    labels: list[int | None]
    classes: int
    names: list[str]
    are_named: bool
    """Whether the names stand in the file; otherwise they are the numbers of the rows."""
    num_frames: list[int] | None

    @classmethod
    def open(cls, folder: Path, part: str, path: Path) -> _Pair:
        joints = open_npy(path)
        if len(joints.shape) != 5 or joints.shape[1] != 3 or joints.dtype.kind != "f":
            raise ValueError(f"{path}: expected floats (N, 3, T, V, M), got {joints.dtype} {joints.shape}")
        rows = [f"{row:06d}" for row in range(len(joints))]
        pickled, plain = (folder / f"{part}_label.{suffix}" for suffix in ("pkl", "npy"))
        if pickled.exists():
            names, labels, lengths = _read_pickle(pickled, len(joints))
        elif plain.exists():
            names, labels, lengths = rows, _column(open_npy(plain), len(joints), plain), None
        else:
            raise ValueError(f"{folder}: expected the labels of {path.name} in {pickled.name} or {plain.name}")
        if (counts := folder / f"{part}_num_frame.npy").exists():
            lengths = _lengths(open_npy(counts), len(joints), counts)
        numbers, classes = read_labels(labels, len(joints), f"{folder}, labels of {path.name}")
        return cls(path, joints, numbers, classes, names, names is not rows, lengths)


def _read_pickle(path: Path, clips: int) -> tuple[list[str], NDArray[Any], list[int] | None]:
    """Names, labels and, with IKEM, lengths."""
    content = load_pickle(path)
    if not isinstance(content, list | tuple) or len(content) not in (2, 3):
        raise ValueError(f"{path}: expected (names, labels) or (names, labels, lengths)")
    names = [name.removesuffix(".skeleton") for name in _column(content[0], clips, path).astype(str).tolist()]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: clips have the same name, such as {Counter(names).most_common(1)[0][0]}")
    lengths = _lengths(content[2], clips, path) if len(content) == 3 else None
    return names, _column(content[1], clips, path), lengths


def _files_of(raw: Path) -> tuple[str, dict[str, Path]]:
    """The kind of the files, and the file of each part."""
    folder = raw if raw.is_dir() else raw.parent
    found = [match for path in sorted(folder.iterdir()) if (match := _FILE.fullmatch(path.name))]
    if not raw.is_dir():
        meant = _FILE.fullmatch(raw.name)
        found = [match for match in found if meant is not None and match[2] == meant[2]]
    kinds = sorted({match[2] for match in found})
    if not kinds:
        below = sorted({str(path.parent) for path in folder.glob("*/*.npy") if _FILE.fullmatch(path.name)})
        hint = f"; name one of {below}" if below else ""
        raise ValueError(f"raw: expected files like train_data.npy, train_position.npy or val_data.npy in {raw}{hint}")
    if len(kinds) > 1:
        raise ValueError(f"raw: {raw} has files of the kinds {kinds}; name a file of the kind meant, {found[0][0]} say")
    files = {match[1]: folder / match[0] for match in found}
    if {"val", "test"} <= set(files):
        raise ValueError(f"raw: {raw} has files for val and for test; of the two, one can be the test part")
    return kinds[0], files


def _column(values: Any, clips: int, path: Path) -> NDArray[Any]:
    column = np.asarray(values)
    if column.shape[:1] != (clips,):
        raise ValueError(f"{path}: expected something for each of {clips} clips, got {column.shape}")
    return column


def _lengths(values: Any, clips: int, path: Path) -> list[int]:
    lengths = _column(values, clips, path)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 0).any():
        raise ValueError(f"{path}: expected the lengths of {clips} clips, got {lengths.dtype} {lengths.shape}")
    return lengths.tolist()

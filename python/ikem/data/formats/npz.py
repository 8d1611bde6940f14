"""A user's own recordings: one ``.npz`` file with arrays for all clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ikem_ext.skeleton import SkeletonLayout

from .arrays import FileArray, NpzFile
from .base import ClipSource, Discovery, Format, RawClip
from .joint_names import UnknownJointsError, find_layout, joint_order

__all__ = ["Npz"]

_LARGE = {"joints", "frames", "confidence"}
_NUMBERS = {"cameras": "camera", "setups": "setup", "replications": "replication"}
_SMALL = {
    "num_frames", "image_size", "labels", "class_names", "subjects", "names", "train", "layout", "joint_names",
    "source", *_NUMBERS,
}  # fmt: skip


class Npz(Format):
    """Arrays of one's own, with any skeleton.

    The file's keys, N clips with V joints, M bodies and C = 3 axes (meters with y up) or 2 (points in an image, in
    pixels or shares of it, y down):

    - ``joints``: float (N, C, T, V, M), of at most T frames, zero beyond a clip's end; or ``frames``: float
      (L, V, C) or (L, M, V, C), the L frames of all clips one after another. Zero where a body or a joint is not
      seen, which NaN says as well;
    - ``num_frames``: integers (N,), the clips' lengths;
    - ``confidence``, optional: float (N, T, V, M), or (L, V) or (L, M, V) beside ``frames``, from 0 to 1;
    - ``image_size``, optional: width and height of the image in pixels;
    - ``labels``, optional: integers (N,), counted from 0, -1 where a clip has none; or strings (N,), '' where it
      has none;
    - ``class_names``, optional: strings, one per class; default: the numbers, or the labels themselves, sorted;
    - ``subjects``, optional: integers or strings (N,);
    - ``cameras``, ``setups``, ``replications``, optional: integers (N,);
    - ``names``, optional: strings (N,), all different; default: the clip's row;
    - ``train``, optional: 0 or 1 (N,), which clips are for training; the protocol is then called ``given``;
    - ``layout``, optional: the name of a built-in layout;
    - ``joint_names``, optional: strings (V,). They say which layout it is, and in which order the joints are, which
      are brought into that of the layout;
    - ``source``, optional: what the recordings are called in tables and reports; default: ``npz``.
    """

    name = "npz"

    def __init__(self, raw: Path) -> None:
        super().__init__(raw)
        try:
            self._file = NpzFile(raw)
        except (ValueError, OSError) as error:
            raise ValueError(f"raw: {raw} is not an .npz file of plain arrays ({error})") from error
        self._small = {key: self._file.load(key) for key in self._file if key in _SMALL}
        self._check_keys()
        self._ragged = "frames" in self._file
        self._num_frames = self._integers("num_frames", least=0)
        self._ends = np.cumsum(self._num_frames)
        self._num_joints, self.bodies = self._check_joints()
        self._check_confidence()
        self._image_size = self._check_image_size()
        self._labels, self.classes = self._check_labels()
        self.layout = self._check_layout()
        self._order: list[int] = []  # where the file has the joints of the layout, if it has them elsewhere
        self._notes: list[str] = []
        self._frames_of_nan: dict[int, int] = {}  # of the clips read so far
        self._rows: dict[str, FileArray] = {}

    @property
    def origin(self) -> str:
        """The file's own word for what it holds, if it has one."""
        return str(self._small.get("source", self.name))

    @property
    def notes(self) -> list[str]:
        """What of the file was not used, or not as it is."""
        notes = list(self._notes)
        if unused := sorted(set(self._file) - _SMALL - _LARGE):
            notes.append(f"arrays of the file that are not used: {', '.join(unused)}")
        if lost := [count for count in self._frames_of_nan.values() if count]:
            notes.append(f"{sum(lost)} frames in {len(lost)} clips hold NaN, in joints that count as lost there")
        return notes

    def begin(self, layout: SkeletonLayout, scratch: Path) -> None:
        """Brings the joints, if the file names them, into the order of the layout."""
        super().begin(layout, scratch)
        if layout.num_joints != self._num_joints:
            key = "frames" if self._ragged else "joints"
            shape = self._file.header(key).shape
            clip = f"(3, frames, {layout.num_joints}, bodies) for the layout {layout.name!r}"
            raise ValueError(f"{self.raw}: {key} must hold clips {clip}, got {shape if self._ragged else shape[1:]}")
        if "joint_names" not in self._small:
            return
        names = self._strings("joint_names", self._num_joints)
        try:
            order = joint_order(names, layout)
        except UnknownJointsError as error:
            raise ValueError(f"{self.raw}: joint_names: {error}") from None
        if order != list(range(len(order))):
            self._order = order
            self._notes.append(f"the joints were brought into the order of the layout {layout.name}")
        renamed = [
            f"{names[index]} is its {joint}"
            for index, joint in zip(order, layout.joint_names, strict=True)
            if names[index] != joint
        ]
        if renamed:
            self._notes.append(f"joints that the layout {layout.name} calls otherwise: {', '.join(renamed)}")

    def discover(self) -> Discovery:
        """One clip per row."""
        self._rows = {key: self._file.rows(key, self.scratch) for key in self._file if key in _LARGE}
        columns: dict[str, list[Any]] = {
            field: self._integers(key).tolist() for key, field in _NUMBERS.items() if key in self._small
        }
        if "subjects" in self._small:
            text = self._small["subjects"].dtype.kind == "U"
            columns["subject"] = (
                self._strings("subjects", len(self._num_frames)) if text else self._integers("subjects").tolist()
            )
        if "train" in self._small:
            flags = self._integers("train", least=0, most=1).tolist()
            columns["parts"] = [{"given": "train" if flag else "test"} for flag in flags]
        sources = [
            ClipSource(
                name=name,
                label=self._labels[row],
                path=self.raw,
                index=row,
                **{field: values[row] for field, values in columns.items()},
            )
            for row, name in enumerate(self._check_names())
        ]
        return Discovery(sources, {})

    def read(self, source: ClipSource) -> RawClip:
        """The clip's rows without what lies beyond its end."""
        row = source.index
        assert row is not None  # as discover gives it
        joints, confidence = self._read_joints(row), self._read_confidence(row)
        lost = np.isnan(joints).any(axis=0)  # (frames, V, bodies)
        self._frames_of_nan[row] = int(lost.any(axis=(1, 2)).sum())
        if lost.any():
            joints = np.where(lost, 0, joints)
            confidence = np.where(lost, 0, 1.0 if confidence is None else confidence)
        if self._order:
            joints = joints[:, :, self._order]
            confidence = None if confidence is None else confidence[:, self._order]
        return RawClip(joints, confidence, self._image_size)

    def _read_joints(self, row: int) -> NDArray[np.floating]:
        """(C, frames, V, M)."""
        length, end = self._num_frames[row], self._ends[row]
        if not self._ragged:
            return self._rows["joints"][row][:, :length]
        frames = self._rows["frames"][end - length : end]
        return (frames[:, None] if frames.ndim == 3 else frames).transpose(3, 0, 2, 1)

    def _read_confidence(self, row: int) -> NDArray[np.floating] | None:
        """(frames, V, M)."""
        length, end = self._num_frames[row], self._ends[row]
        if "confidence" not in self._rows:
            return None
        if not self._ragged:
            return self._rows["confidence"][row][:length]
        frames = self._rows["confidence"][end - length : end]
        return (frames[:, None] if frames.ndim == 2 else frames).swapaxes(1, 2)

    def _refuse(self, key: str, expected: str, got: object) -> NoReturn:
        raise ValueError(f"{self.raw}: {key} must be {expected}, got {got}")

    def _check_keys(self) -> None:
        if "num_frames" not in self._small or ("joints" in self._file) == ("frames" in self._file):
            raise ValueError(
                f"{self.raw}: expected the arrays num_frames and either joints or frames, got {sorted(self._file)}"
            )

    def _check_joints(self) -> tuple[int, int]:
        """How many joints and bodies there are."""
        key = "frames" if self._ragged else "joints"
        shape, dtype = self._file.header(key)[:2]
        if not np.issubdtype(dtype, np.floating):
            self._refuse(key, "floats", dtype)
        if self._ragged:
            if len(shape) not in (3, 4) or shape[-1] not in (2, 3):
                self._refuse(key, "(L, V, 3) or (L, M, V, 3), or 2 in place of 3", shape)
            if shape[0] != sum(self._num_frames):
                self._refuse(key, f"of the {sum(self._num_frames)} frames that num_frames sums to", shape[0])
            return shape[-2], 1 if len(shape) == 3 else shape[1]
        clips = len(self._num_frames)
        if len(shape) != 5 or shape[0] != clips or shape[1] not in (2, 3):
            self._refuse(key, f"(N, 3, T, V, M), or 2 in place of 3, for the N = {clips} clips of num_frames", shape)
        self._integers("num_frames", least=0, most=shape[2])
        return shape[3], shape[4]

    def _check_confidence(self) -> None:
        if "confidence" not in self._file:
            return
        joints = self._file.header("frames" if self._ragged else "joints").shape
        wanted = joints[:-1] if self._ragged else (joints[0], *joints[2:])
        shape, dtype = self._file.header("confidence")[:2]
        if shape != wanted or not np.issubdtype(dtype, np.floating):
            self._refuse("confidence", f"floats {wanted}, as the joints are {joints}", f"{dtype} {shape}")

    def _check_image_size(self) -> tuple[int, int] | None:
        if "image_size" not in self._small:
            return None
        size = self._small["image_size"]
        if size.shape != (2,) or not np.issubdtype(size.dtype, np.integer) or (size < 1).any():
            self._refuse("image_size", "width and height in pixels", size)
        return int(size[0]), int(size[1])

    def _check_labels(self) -> tuple[list[int | None], tuple[str, ...]]:
        """The clips' labels, and the names of the classes."""
        names = self._strings("class_names") if "class_names" in self._small else None
        if "labels" not in self._small:
            return [None] * len(self._num_frames), tuple(names or ())
        if self._small["labels"].dtype.kind == "U":
            texts = self._strings("labels", len(self._num_frames))
            names = names or sorted(set(texts) - {""})
            index: dict[str, int | None] = {"": None, **{name: label for label, name in enumerate(names)}}
            if unknown := sorted(set(texts) - set(index)):
                self._refuse("labels", f"one of the class_names {names}", unknown[0])
            return [index[text] for text in texts], tuple(names)
        labels = self._integers("labels", least=-1).tolist()
        used = max(labels, default=-1) + 1
        if names is not None and len(names) < used:
            self._refuse("class_names", f"at least {used} strings, as labels go to {used - 1}", names)
        return [None if label < 0 else label for label in labels], tuple(names or map(str, range(used)))

    def _check_layout(self) -> str | None:
        if "layout" in self._small:
            return str(self._small["layout"])
        if "joint_names" not in self._small:
            return None
        layout = find_layout(self._strings("joint_names", self._num_joints))
        return None if layout is None else layout.name

    def _integers(self, key: str, *, least: int | None = None, most: int | None = None) -> NDArray[np.int64]:
        values = self._small[key]
        clips = len(self._small["num_frames"]) if self._small["num_frames"].ndim == 1 else 0
        if values.shape != (clips,) or not (np.issubdtype(values.dtype, np.integer) or values.dtype == bool):
            self._refuse(key, f"integers ({clips},), one per clip", f"{values.dtype} {values.shape}")
        wrong = values < (-np.inf if least is None else least)
        wrong |= values > (np.inf if most is None else most)
        if wrong.any():
            row = int(np.argmax(wrong))
            expected = f"at least {least}" if most is None else f"from {least} to {most}"
            self._refuse(key, expected, f"{values[row]} for clip {row}")
        return values.astype(np.int64)

    def _strings(self, key: str, count: int | None = None) -> list[str]:
        values = self._small[key]
        if values.ndim != 1 or values.dtype.kind != "U" or (count is not None and len(values) != count):
            self._refuse(key, f"{'' if count is None else f'{count} '}strings", f"{values.dtype} {values.shape}")
        return [str(value) for value in values]

    def _check_names(self) -> list[str]:
        clips = len(self._num_frames)
        if "names" not in self._small:
            return [str(row) for row in range(clips)]
        names = self._strings("names", clips)
        if len(set(names)) < clips:
            self._refuse("names", f"{clips} different strings", f"{len(set(names))} different ones")
        return names

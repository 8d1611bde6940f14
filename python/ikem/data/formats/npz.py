"""A user's own recordings: one ``.npz`` file with arrays for all clips."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import ClipSource, Discovery, Format, RawClip

__all__ = ["Npz"]

_OPTIONAL = {"subjects": "subject", "cameras": "camera", "setups": "setup", "replications": "replication"}
_KEYS = {"joints", "num_frames", "labels", "class_names", "names", "train", "layout", "source", *_OPTIONAL}


class Npz(Format):
    """Arrays of one's own, with any skeleton.

    The file's keys, N clips of at most T frames with V joints and M bodies:

    - ``joints``: float (N, 3, T, V, M) in meters with y up, zero beyond a clip's end and where a body is not seen;
    - ``num_frames``: integers (N,), the clips' lengths;
    - ``labels``, optional: integers (N,), counted from 0, -1 for a clip without a label;
    - ``class_names``, optional: strings, one per class; default: the numbers;
    - ``subjects``, ``cameras``, ``setups``, ``replications``, optional: integers (N,);
    - ``names``, optional: strings (N,), all different; default: the clip's row;
    - ``train``, optional: 0 or 1 (N,), which clips are for training; the protocol is then called ``given``;
    - ``layout``, optional: the name of a built-in layout;
    - ``source``, optional: what the recordings are called in tables and reports; default: ``npz``.
    """

    name = "npz"

    def __init__(self, raw: Path) -> None:
        super().__init__(raw)
        try:
            file = np.load(raw, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise ValueError("a single array")
            with file:
                arrays = dict(file)
        except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"raw: {raw} is not an .npz file of plain arrays ({error})") from error
        unknown, missing = set(arrays) - _KEYS, {"joints", "num_frames"} - set(arrays)
        if unknown or missing:
            raise ValueError(f"{raw}: unknown keys {sorted(unknown)}, missing keys {sorted(missing)}")
        self._arrays = arrays
        self._joints = self._check_joints()
        self._num_frames = self._integers("num_frames", least=0, most=self._joints.shape[2])
        if "labels" in arrays:
            self._labels = self._integers("labels", least=-1)
        else:
            self._labels = np.full(len(self._joints), -1)
        self.bodies = self._joints.shape[4]
        self.layout = str(arrays["layout"]) if "layout" in arrays else None
        self.classes = self._check_classes()

    @property
    def origin(self) -> str:
        """The file's own word for what it holds, if it has one."""
        return str(self._arrays.get("source", self.name))

    def discover(self) -> Discovery:
        """One clip per row."""
        columns: dict[str, list[Any]] = {
            field: self._integers(key).tolist() for key, field in _OPTIONAL.items() if key in self._arrays
        }
        if "train" in self._arrays:
            flags = self._integers("train", least=0, most=1).tolist()
            columns["parts"] = [{"given": "train" if flag else "test"} for flag in flags]
        names = self._check_names()
        sources = [
            ClipSource(
                name=name,
                label=int(self._labels[row]) if self._labels[row] >= 0 else None,
                path=self.raw,
                index=row,
                **{field: values[row] for field, values in columns.items()},
            )
            for row, name in enumerate(names)
        ]
        return Discovery(sources, {})

    def read(self, source: ClipSource) -> RawClip:
        """The clip's row without what lies beyond its end."""
        assert source.index is not None  # as discover gives it
        return RawClip(self._joints[source.index, :, : self._num_frames[source.index]])

    def _refuse(self, key: str, expected: str, got: object) -> None:
        raise ValueError(f"{self.raw}: {key} must be {expected}, got {got}")

    def _check_joints(self) -> NDArray[np.floating]:
        joints = self._arrays["joints"]
        if joints.ndim != 5 or joints.shape[1] != 3 or not np.issubdtype(joints.dtype, np.floating):
            self._refuse("joints", "floats (N, 3, T, V, M)", f"{joints.dtype} {joints.shape}")
        return joints

    def _integers(self, key: str, *, least: int | None = None, most: int | None = None) -> NDArray[np.int64]:
        values, clips = self._arrays[key], len(self._joints)
        if values.shape != (clips,) or not (np.issubdtype(values.dtype, np.integer) or values.dtype == bool):
            self._refuse(key, f"integers ({clips},), one per clip", f"{values.dtype} {values.shape}")
        for limit, wrong in ((least, values < (least or 0)), (most, values > (most or 0))):
            if limit is not None and wrong.any():
                row = int(np.argmax(wrong))
                self._refuse(key, f"from {least} to {most or 'any number'}", f"{values[row]} for clip {row}")
        return values.astype(np.int64)

    def _check_classes(self) -> tuple[str, ...]:
        used = int(self._labels.max(initial=-1)) + 1
        if "class_names" not in self._arrays:
            return tuple(str(label) for label in range(used))
        names = self._arrays["class_names"]
        if names.ndim != 1 or names.dtype.kind != "U" or len(names) < used:
            self._refuse("class_names", f"at least {used} strings, as labels go to {used - 1}", names)
        return tuple(str(name) for name in names)

    def _check_names(self) -> list[str]:
        clips = len(self._joints)
        if "names" not in self._arrays:
            return [str(row) for row in range(clips)]
        names = self._arrays["names"]
        if names.shape != (clips,) or names.dtype.kind != "U" or len(set(names.tolist())) < clips:
            self._refuse("names", f"{clips} different strings", f"{names.dtype} {names.shape}")
        return [str(name) for name in names]

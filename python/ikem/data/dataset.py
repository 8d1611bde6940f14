"""The prepared data set: a folder with the joints of all clips in one array, and what is known of each clip.

- ``joints.npy``: float32 (N, 3, T, V, M), read by mapping it into memory;
- ``clips.csv``: name, label, subject, camera, setup, replication, num_frames of each clip;
- ``dataset.json``: layout, classes, source, preprocessing, what was selected, and the protocols with their parts;
- ``summary.json`` and ``summary.md``: what was left out and why, where the folder comes from recordings.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ikem_ext.skeleton import SkeletonLayout

from .clips import MISSING, Clip, Clips, read_clips, write_clips
from .held_out import hold_out
from .protocols import Protocols
from .summary import PrepareSummary

__all__ = ["Clip", "DatasetWriter", "PreparedDataset", "write_dataset"]

_VERSION = 1
_JOINTS, _CLIPS, _DESCRIPTION = "joints.npy", "clips.csv", "dataset.json"


class PreparedDataset:
    """A folder written by ``ikem prepare``.

    Args:
        folder: the folder.

    Attributes:
        folder: the folder.
        name: the format of the recordings it was made from, or what they call themselves.
        joints: float32 (N, 3, T, V, M), mapped into memory and read-only.
        clips: a :class:`Clip` for each of the N clips, kept column by column.
        labels: int64 (N,), -1 for a clip without a label.
        num_frames: int64 (N,), the clips' lengths before time was resized to T.
        classes: the names of the classes.
        layout: the skeleton.
        preprocessing: the options it was prepared with.
        selection: which clips and bodies of the recordings were taken.
        protocols: protocol -> part -> indices of clips, int64; the parts ``train`` and ``test`` are always there.

    Raises:
        ValueError: the folder is not a complete prepared data set; the message names the file and what is wrong.

    Example:
        >>> import tempfile
        >>> from ikem_ext import get_layout
        >>> clips = [Clip("wave", 0, 1, None, None, None, 60), Clip("walk", 1, 2, None, None, None, 80)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_dataset(
        ...         Path(folder) / "data",
        ...         joints=np.zeros((2, 3, 50, 25, 1)),
        ...         clips=clips,
        ...         classes=["wave", "walk"],
        ...         layout=get_layout("ntu25"),
        ...         source="npz",
        ...         preprocessing={},
        ...         protocols={"cross-subject": {"train": [0], "test": [1]}},
        ...     )
        ...     dataset = PreparedDataset(Path(folder) / "data")
        ...     dataset.joints.shape, dataset.split("cross-subject", "test")
        ((2, 3, 50, 25, 1), array([1]))
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        for name in (_DESCRIPTION, _CLIPS, _JOINTS):
            if not (self.folder / name).is_file():
                raise ValueError(f"folder: {self.folder} is not a prepared data set, it has no {name}")
        self.clips = read_clips(self.folder / _CLIPS)
        self._read_description()
        self._read_joints()
        labels = self.clips.column("label")
        known = labels != MISSING
        for place in np.flatnonzero(known & ((labels < 0) | (labels >= len(self.classes))))[:1]:
            clip = self.clips[place]
            self._refuse(_CLIPS, f"label {clip.label} of clip {clip.name} is not one of {len(self.classes)} classes")
        self.labels = np.where(known, labels, -1)
        self.num_frames = self.clips.column("num_frames")

    def parts(self, protocol: str) -> dict[str, NDArray[np.int64]]:
        """Returns the indices of the clips of every part of a protocol, ascending.

        Args:
            protocol: one of the data set's protocols, such as ``xsub``; or ``xsub/subject=1,5``, which holds out
                training clips of it by subject, camera, setup or replication: they are tested on, in place of its own
                test clips, and the other training clips train.

        Raises:
            ValueError: there is no such protocol, or no such training clip.
        """
        parts = self.protocols.get(protocol) or hold_out(protocol, self.protocols, self.clips)
        if parts is None:
            raise ValueError(f"protocol: expected one of {sorted(self.protocols)} in {self.folder}, got {protocol!r}")
        return {part: clips.copy() for part, clips in parts.items()}

    def split(self, protocol: str, part: str) -> NDArray[np.int64]:
        """The indices of the clips that belong to a part of a protocol.

        Args:
            protocol: as for :meth:`parts`.
            part: ``train`` or ``test``, or another part that the protocol has.

        Returns:
            int64 array, ascending.

        Raises:
            ValueError: there is no such protocol or part.
        """
        parts = self.parts(protocol)
        if part not in parts:
            raise ValueError(f"part: expected one of {sorted(parts)} in {self.folder}, got {part!r}")
        return parts[part]

    def __len__(self) -> int:
        """N, the number of clips."""
        return len(self.clips)

    def __reduce__(self) -> tuple[type[PreparedDataset], tuple[Path]]:
        # Worker processes map the file themselves, instead of being sent all of its contents.
        return PreparedDataset, (self.folder,)

    def _refuse(self, name: str, reason: str) -> None:
        raise ValueError(f"{self.folder / name}: {reason}")

    def _read_description(self) -> None:
        try:
            description = json.loads((self.folder / _DESCRIPTION).read_text(encoding="utf-8"))
            version = description["version"]
            if version != _VERSION:
                self._refuse(_DESCRIPTION, f"version {version} where {_VERSION} is read; prepare the data again")
            self.name: str = description["source"]
            self.classes: list[str] = description["classes"]
            self.layout = SkeletonLayout.from_dict(description["layout"])
            self.preprocessing: dict[str, Any] = description["preprocessing"]
            self.selection: dict[str, Any] = description.get("selection", {})  # which older ones do not say
            protocols = description["protocols"]
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{self.folder / _DESCRIPTION}: not the description of a data set ({error!r})") from error
        self._take_protocols(protocols)

    def _take_protocols(self, protocols: Protocols) -> None:
        try:
            self.protocols = {
                protocol: {part: np.fromiter(clips, dtype=np.int64) for part, clips in parts.items()}
                for protocol, parts in protocols.items()
            }
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            self._refuse(_DESCRIPTION, f"expected protocols whose parts are lists of clips ({error!r})")
        for protocol, parts in self.protocols.items():
            if not {"train", "test"} <= set(parts):
                self._refuse(_DESCRIPTION, f"protocol {protocol} has the parts {sorted(parts)}, needs train and test")
            for part, indices in parts.items():
                if len(indices) and not 0 <= indices.min() <= indices.max() < len(self.clips):
                    self._refuse(_DESCRIPTION, f"{protocol} {part} names clips beyond the {len(self.clips)} there are")

    def _read_joints(self) -> None:
        try:
            joints = np.load(self.folder / _JOINTS, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{self.folder / _JOINTS}: not a complete array ({error})") from error
        expected = f"float32 ({len(self.clips)}, 3, T, {self.layout.num_joints}, M)"
        shape = joints.shape
        if (
            joints.dtype != np.float32
            or len(shape) != 5
            or (shape[0], shape[1], shape[3]) != (len(self.clips), 3, self.layout.num_joints)
        ):
            self._refuse(_JOINTS, f"expected {expected}, got {joints.dtype} {shape}")
        self.joints: np.memmap[Any, np.dtype[np.float32]] = joints


class DatasetWriter:
    """Writes a prepared data set clip by clip, beside its place; only :meth:`finish` moves it there.

    Used as a context manager; leaving it without :meth:`finish` removes what was written.

    Args:
        folder: where the data set is to be.
        clip_shape: (3, T, V, M).
        overwrite: whether a prepared data set that is there already is replaced.

    Raises:
        FileExistsError: something is there already.
    """

    def __init__(
        self, folder: str | os.PathLike[str], clip_shape: tuple[int, int, int, int], *, overwrite: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.clip_shape = clip_shape
        self._check_place(overwrite)
        self.clips = Clips()

    def __enter__(self) -> DatasetWriter:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._partial = Path(tempfile.mkdtemp(prefix=f"{self.folder.name}.partial-", dir=self.folder.parent))
        self._partial.chmod(0o755)  # mkdtemp keeps others out, but the data set is a folder like any other
        self._file: BinaryIO = (self._partial / _JOINTS).open("wb")
        self._header = self._write_header()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        shutil.rmtree(self._partial, ignore_errors=True)  # gone already if the data set was finished

    def append(self, joints: NDArray[np.floating], clip: Clip) -> None:
        """Adds a clip.

        Args:
            joints: (3, T, V, M), stored as float32.
            clip: what is known of it.
        """
        if joints.shape != self.clip_shape:
            raise ValueError(f"joints: expected the shape {self.clip_shape} for clip {clip.name}, got {joints.shape}")
        self._file.write(np.ascontiguousarray(joints, dtype="<f4").data)
        self.clips.append(clip)

    def finish(
        self,
        *,
        classes: Sequence[str],
        layout: SkeletonLayout,
        source: str,
        preprocessing: Mapping[str, Any],
        protocols: Protocols,
        selection: Mapping[str, Any] | None = None,
        summary: PrepareSummary | None = None,
    ) -> None:
        """Writes everything else and moves the folder to its place.

        Args as for :func:`write_dataset`; ``selection`` says which clips and bodies of the recordings were taken.
        """
        self._file.seek(0)
        if self._write_header() != self._header:
            raise RuntimeError("the header of joints.npy changed its length")
        self._file.close()
        write_clips(self._partial / _CLIPS, self.clips)
        if summary is not None:
            _write_json(self._partial / "summary.json", summary.to_dict())
            (self._partial / "summary.md").write_text(summary.to_markdown(), encoding="utf-8")
        description = {
            "version": _VERSION,
            "source": source,
            "clips": len(self.clips),
            "frames": self.clip_shape[1],
            "bodies": self.clip_shape[3],
            "preprocessing": dict(preprocessing),
            "selection": dict(selection or {}),
            "layout": layout.to_dict(),
            "classes": list(classes),
            "protocols": protocols,
        }
        _write_json(self._partial / _DESCRIPTION, description)
        self._move()

    def _check_place(self, overwrite: bool) -> None:
        if not self.folder.exists():
            return
        if not overwrite:
            raise FileExistsError(f"{self.folder} exists already; name another folder or ask to overwrite it")
        if not (self.folder / _DESCRIPTION).is_file():
            raise FileExistsError(f"{self.folder} is not overwritten, as it is no prepared data set")

    def _write_header(self) -> int:
        """Writes the header of the array for the clips so far, and returns its length.

        NumPy leaves room in it for the first dimension to grow, so it can be written again at the end.
        """
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(self.clips), *self.clip_shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
        return self._file.tell()

    def _move(self) -> None:
        old = self._partial.with_name(self._partial.name + ".replaced")
        if self.folder.exists():
            self.folder.rename(old)
        self._partial.rename(self.folder)
        shutil.rmtree(old, ignore_errors=True)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def write_dataset(
    folder: str | os.PathLike[str],
    *,
    joints: Iterable[NDArray[np.floating]],
    clips: Sequence[Clip],
    classes: Sequence[str],
    layout: SkeletonLayout,
    source: str,
    preprocessing: Mapping[str, Any],
    protocols: Protocols,
    summary: PrepareSummary | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a prepared data set from arrays: beside its place first, then renamed.

    Args:
        folder: where it is to be.
        joints: (N, 3, T, V, M), or the N arrays one after another.
        clips: what is known of each of the N clips.
        classes: the names of the classes.
        layout: the skeleton.
        source: the format of the recordings it comes from.
        preprocessing: the options of the preprocessing.
        protocols: protocol -> part -> indices of clips.
        summary: what was left out and why.
        overwrite: whether a prepared data set that is there already is replaced.

    Raises:
        FileExistsError: the folder exists.
        ValueError: there are no clips, their number is not that of the joints, or shapes differ.
    """
    rows = iter(joints)
    first = next(rows, None)
    if first is None or first.ndim != 4:
        raise ValueError("joints: expected an array (N, 3, T, V, M) of at least one clip")
    with DatasetWriter(folder, first.shape, overwrite=overwrite) as writer:
        for clip, row in zip(clips, (array for part in ((first,), rows) for array in part), strict=True):
            writer.append(row, clip)
        writer.finish(
            classes=classes,
            layout=layout,
            source=source,
            preprocessing=preprocessing,
            protocols=protocols,
            summary=summary,
        )

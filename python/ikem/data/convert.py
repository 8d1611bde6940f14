"""From a prepared data set to the files that other projects' code reads."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray
from rich.console import Console

from ikem_ext.skeleton import Third

from .dataset import PreparedDataset
from .formats.arrays import open_npy
from .progress import track

__all__ = ["ExchangeFormat", "convert"]

ExchangeFormat = Literal["ctr-gcn", "npy-pair", "pyskl"]

_Joints = NDArray[np.float32]  # of a clip, (3, T, V, M)
_OTHER_NAME = {"train": "train", "test": "val"}  # of our parts
_PAIRS = [f"{part}_{file}" for part in _OTHER_NAME.values() for file in ("position.npy", "label.pkl")]
_SUFFIXES = {"ctr-gcn": ".npz", "pyskl": ".pkl"}
_NO_DATE = (1980, 1, 1, 0, 0, 0)  # of archives' members, so that the same data are the same bytes


def convert(
    dataset: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    to: ExchangeFormat | None = None,
    protocol: str | None = None,
    lengths: bool = False,
    overwrite: bool = False,
) -> None:
    """Writes a prepared data set as the files that other projects' code reads.

    They hold the joints as they were prepared, T frames of each clip.

    Args:
        dataset: the prepared data set.
        out: what to write: an .npz file for ctr-gcn, a folder for npy-pair, a .pkl file for pyskl. It appears when all
            is done. `ikem prepare` finds the protocol of the first two in their names, such as NTU60_XSub.npz or xsub.
        to: ctr-gcn, joints (N, T, M * V * 3) and one-hot labels, for CTR-GCN and MAMP; npy-pair, train_position.npy
            (N, 3, T, V, M) and train_label.pkl, and the same for val, for CrosSCLR, AimCLR, PSTL, ActCLR and IKEM;
            or pyskl, annotations and splits, for PYSKL and MMAction2.
        protocol: whose training and test clips are written. Default: the data set's only one; with pyskl, all of them.
        lengths: with npy-pair, the pickles also hold how long the clips were before they were resized, as IKEM's code
            reads them; that of the others reads names and labels alone.
        overwrite: replace what is there already.

    Raises:
        ValueError: an argument is wrong, or the data set has no clip for it.
        FileExistsError: ``out`` exists.
    """
    if to is None or to not in get_args(ExchangeFormat):
        raise ValueError(f"to: expected one of {', '.join(get_args(ExchangeFormat))}, got {to}")
    if lengths and to != "npy-pair":
        raise ValueError(f"lengths: there is a place for them in npy-pair, not in {to}")
    out = Path(out)
    _check_place(out, to, overwrite)
    prepared = PreparedDataset(dataset)
    with _beside(out) as partial:
        if to == "pyskl":
            written = _splits(prepared, protocol)
            _write_pyskl(partial, written)
        else:
            written = _labelled_parts(prepared, protocol)
            if to == "ctr-gcn":
                _write_ctr_gcn(partial, written)
            else:
                _write_npy_pair(partial, written, lengths)
    _tell(out, prepared, written)


@dataclass(frozen=True)
class _Clips:
    """Some of a data set's clips."""

    dataset: PreparedDataset
    indices: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.indices), *self.dataset.joints.shape[1:]

    @property
    def names(self) -> list[str]:
        return [self.dataset.clips[index].name for index in self.indices]

    @property
    def labels(self) -> list[int]:
        return self.dataset.labels[self.indices].tolist()

    def joints(self) -> Iterator[_Joints]:
        """Of one clip after another, with a progress bar."""
        rows = open_npy(Path(self.dataset.joints.filename))  # type: ignore[arg-type]
        for index in track(self.indices.tolist(), "Writing clips"):
            yield rows[index]


def _labelled_parts(prepared: PreparedDataset, protocol: str | None) -> dict[str, _Clips]:
    """The labelled clips of a protocol's parts."""
    if protocol is None:
        if len(prepared.protocols) > 1:
            raise ValueError(f"protocol: expected one of {sorted(prepared.protocols)}, as each is a file of its own")
        (protocol,) = prepared.protocols
    parts = {}
    for part in ("train", "test"):
        indices = prepared.split(protocol, part)
        parts[part] = _Clips(prepared, indices[prepared.labels[indices] >= 0])
        if not len(parts[part].indices):
            raise ValueError(f"protocol: {protocol} has no labelled clip for {part} in {prepared.folder}")
    return parts


def _splits(prepared: PreparedDataset, protocol: str | None) -> dict[str, _Clips]:
    """The parts of one protocol, or of all, as splits."""
    protocols = list(prepared.protocols) if protocol is None else [protocol]
    return {
        f"{name}_{_OTHER_NAME[part]}": _Clips(prepared, prepared.split(name, part))
        for name in protocols
        for part in ("train", "test")
    }


def _tell(out: Path, prepared: PreparedDataset, written: Mapping[str, _Clips]) -> None:
    counts = ", ".join(f"{name} {len(clips.indices)}" for name, clips in written.items())
    left_out = len(prepared) - len(_all_of(written).indices)
    others = f"; left out are {left_out} clips that are in none of these, or have no label" if left_out else ""
    Console().print(f"{out}: {counts}{others}", markup=False, highlight=False, soft_wrap=True)


def _all_of(written: Mapping[str, _Clips]) -> _Clips:
    clips = list(written.values())
    return _Clips(clips[0].dataset, np.unique(np.concatenate([part.indices for part in clips])))


def _check_place(out: Path, to: str, overwrite: bool) -> None:
    suffix = _SUFFIXES.get(to)
    if suffix and out.suffix != suffix:
        raise ValueError(f"out: expected the name of an {suffix} file for {to}, got {out}")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists already; name another place or ask to overwrite it")
    if out.is_dir() and not all(path.name in _PAIRS for path in out.iterdir()):
        raise FileExistsError(f"{out} is not overwritten, as it holds other files than {', '.join(_PAIRS)}")


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A place beside ``out`` to write at, which is moved there at the end, or removed after an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{out.name}.partial-", dir=out.parent))
    try:
        yield folder / out.name
        if out.is_dir():
            out.rename(folder / "replaced")
        (folder / out.name).replace(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ----------------------------------------------------------------------------------------------------------------------
# Arrays


def _write_ctr_gcn(path: Path, parts: Mapping[str, _Clips]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for part, clips in parts.items():
            count, _, frames, joints, bodies = clips.shape
            bodies = max(bodies, 2)  # which their loaders take for granted
            with archive.open(zipfile.ZipInfo(f"x_{part}.npy", _NO_DATE), "w", force_zip64=True) as file:
                rows = (_as_rows(clip, bodies) for clip in clips.joints())
                _write_array(file, (count, frames, bodies * joints * 3), np.float32, rows)
            classes = len(clips.dataset.classes)
            with archive.open(zipfile.ZipInfo(f"y_{part}.npy", _NO_DATE), "w", force_zip64=True) as file:
                one_hot = (np.arange(classes) == label for label in clips.labels)
                _write_array(file, (count, classes), np.float64, one_hot)


def _as_rows(joints: _Joints, bodies: int) -> _Joints:
    """(3, T, V, M) -> (T, bodies * V * 3), zero for bodies that are not there."""
    padded = np.pad(joints, ((0, 0), (0, 0), (0, 0), (0, bodies - joints.shape[3])))
    return padded.transpose(1, 3, 2, 0).reshape(joints.shape[1], -1)


def _write_npy_pair(folder: Path, parts: Mapping[str, _Clips], lengths: bool) -> None:
    folder.mkdir()
    for part, clips in parts.items():
        prefix = _OTHER_NAME[part]
        with (folder / f"{prefix}_position.npy").open("wb") as file:
            _write_array(file, clips.shape, np.float32, clips.joints())
        columns: list[list[Any]] = [clips.names, clips.labels]
        if lengths:
            columns.append(clips.dataset.num_frames[clips.indices].tolist())
        (folder / f"{prefix}_label.pkl").write_bytes(pickle.dumps(tuple(columns), _PROTOCOL))


def _write_array(file: IO[bytes], shape: tuple[int, ...], dtype: DTypeLike, rows: Iterable[NDArray[Any]]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for row in rows:
        file.write(np.ascontiguousarray(row, dtype).data)


# ----------------------------------------------------------------------------------------------------------------------
# Pickles, written piece by piece: pickle.dump would hold all of it

_PROTOCOL = 3  # the first with bytes; what is remembered goes by numbers in it, which pieces may use anew


def _write_pyskl(path: Path, splits: Mapping[str, _Clips]) -> None:
    clips = _all_of(splits)
    with path.open("wb") as file:
        file.write(pickle.PROTO + bytes([_PROTOCOL]) + pickle.EMPTY_DICT)
        file.write(_piece("split") + _piece({name: part.names for name, part in splits.items()}) + pickle.SETITEM)
        file.write(_piece("annotations") + pickle.EMPTY_LIST)
        for name, label, joints in zip(clips.names, clips.labels, clips.joints(), strict=True):
            known = {"frame_dir": name, "label": label, "total_frames": joints.shape[1]}
            file.write(_piece({key: value for key, value in known.items() if (key, value) != ("label", -1)}))
            for key, array in _keypoints(joints, clips.dataset.layout.third).items():
                file.write(_piece(key) + _array_piece(array) + pickle.SETITEM)
            file.write(pickle.APPEND)
        file.write(pickle.SETITEM + pickle.STOP)


def _keypoints(joints: _Joints, third: Third) -> dict[str, NDArray[np.float32]]:
    """Bodies first, axes last; points in an image with y down and scores of their own, as they are recorded."""
    keypoint = joints.transpose(3, 1, 2, 0)
    if third == "depth":
        return {"keypoint": keypoint}
    seen = np.broadcast_to(keypoint.any(axis=(2, 3), keepdims=True)[..., 0], keypoint.shape[:3])
    score = keypoint[..., 2] if third == "confidence" else seen.astype(np.float32)
    return {"keypoint": keypoint[..., :2] * np.array((1, -1), np.float32), "keypoint_score": score}


def _piece(content: Any) -> bytes:
    """The instructions that push a value, without those that begin and end a pickle."""
    return pickle.dumps(content, _PROTOCOL)[2:-1]


def _array_piece(array: NDArray[Any]) -> bytes:
    """Likewise; the first thing named is NumPy's function, and by the name that all of its versions know."""
    return _piece(np.ascontiguousarray(array)).replace(b"numpy._core.multiarray", b"numpy.core.multiarray", 1)

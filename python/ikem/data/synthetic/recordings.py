"""Synthetic clips, as arrays and as a file."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .body import LAYOUT


@dataclass(frozen=True)
class Recordings:
    """Synthetic clips in the form that ``ikem prepare npz`` reads.

    Attributes:
        joints: float32 (N, 3, frames, 25, 1) in meters in the camera's frame, zero beyond ``num_frames``.
        num_frames: int64 (N,).
        labels: int64 (N,), indices into ``class_names``.
        class_names: (classes,).
        subjects: int64 (N,), from 1.
        cameras: int64 (N,), 1 to 3.
        replications: int64 (N,), from 1.
        names: (N,), one per clip.
        layout: the joints' layout, ``"ntu25"``.
        source: ``"synthetic"``, so that whatever is made from these clips says so.
    """

    joints: NDArray[np.float32]
    num_frames: NDArray[np.int64]
    labels: NDArray[np.int64]
    class_names: NDArray[np.str_]
    subjects: NDArray[np.int64]
    cameras: NDArray[np.int64]
    replications: NDArray[np.int64]
    names: NDArray[np.str_]
    layout: str = LAYOUT.name
    source: str = "synthetic"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an ``.npz`` file: beside its place first, then renamed."""
        path = Path(path)
        if path.suffix != ".npz":
            raise ValueError(f"path: expected a file that ends in .npz, got {str(path)!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.stem}.{os.getpid()}.npz")
        try:
            np.savez_compressed(unfinished, **{field.name: getattr(self, field.name) for field in fields(self)})
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

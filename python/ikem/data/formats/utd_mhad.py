"""UTD-MHAD: one MATLAB file per clip (Kinect v1, one person)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import scipy.io

from .base import ClipSource, FileFormat, RawClip

__all__ = ["UtdMhad"]


class UtdMhad(FileFormat):
    """UTD-MHAD (Chen, Jafari, Kehtarnavaz, ICIP 2015): 861 clips, 27 actions, 8 subjects, up to 4 trials."""

    name = "utd-mhad"
    layout = "utd20"
    bodies = 1
    glob = "*_skeleton.mat"
    pattern = re.compile(r"/a(\d+)_s(\d+)_t(\d+)_skeleton\.mat$")
    example = "a1_s1_t1_skeleton.mat"
    classes = (
        "swipe left", "swipe right", "wave", "clap", "throw", "arm cross", "basketball shoot", "draw x",
        "draw circle (clockwise)", "draw circle (counter clockwise)", "draw triangle", "bowling", "boxing",
        "baseball swing", "tennis swing", "arm curl", "tennis serve", "push", "knock", "catch", "pickup and throw",
        "jog", "walk", "sit to stand", "stand to sit", "lunge", "squat",
    )  # fmt: skip

    def source(self, match: re.Match[str], path: Path) -> ClipSource:
        """Action, subject and trial stand in the file's name."""
        action, subject, trial = map(int, match.groups())
        name = path.stem.removesuffix("_skeleton")
        return ClipSource(name, action - 1, path, subject=subject, replication=trial)

    def read(self, source: ClipSource) -> RawClip:
        """The array ``d_skel`` (20, 3, frames)."""
        try:
            joints = scipy.io.loadmat(source.path, variable_names=["d_skel"])["d_skel"]
        except Exception as error:  # whatever a damaged file makes of the reader
            raise ValueError(f"{source.path}: no MATLAB file with the array d_skel ({error!r})") from error
        if joints.ndim != 3 or joints.shape[:2] != (20, 3) or not np.issubdtype(joints.dtype, np.floating):
            raise ValueError(
                f"{source.path}: d_skel must be a float array (20, 3, frames), got {joints.dtype} {joints.shape}"
            )
        return RawClip(joints.transpose(1, 2, 0)[..., None])

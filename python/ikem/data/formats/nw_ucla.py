"""Northwestern-UCLA: one JSON file per clip (Kinect v1, one person), as CTR-GCN's authors distribute it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from .base import ClipSource, FileFormat, RawClip

__all__ = ["NwUcla"]

_ACTIONS = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)  # the numbers in file names, in the order of the classes


class NwUcla(FileFormat):
    """Northwestern-UCLA (Wang et al., CVPR 2014): 1484 clips, 10 actions, 10 subjects, 3 views."""

    name = "nw-ucla"
    layout = "kinect20"
    bodies = 1
    glob = "*.json"
    pattern = re.compile(r"/a(\d+)_s(\d+)_e(\d+)_v(\d+)\.json$")
    example = "a01_s01_e00_v01.json"
    classes = (
        "pick up with one hand", "pick up with two hands", "drop trash", "walk around", "sit down", "stand up",
        "donning", "doffing", "throw", "carry",
    )  # fmt: skip

    def source(self, match: re.Match[str], path: Path) -> ClipSource:
        """Action, subject, execution and view stand in the file's name."""
        action, subject, execution, view = map(int, match.groups())
        label = _ACTIONS.index(action) if action in _ACTIONS else -1
        return ClipSource(path.stem, label, path, subject=subject, camera=view, replication=execution)

    def read(self, source: ClipSource) -> RawClip:
        """The array ``skeletons`` (frames, 20, 3); ``label`` must agree with the file's name."""
        try:
            content = json.loads(source.path.read_bytes())
            joints = np.array(content["skeletons"], dtype=np.float64)
            label = int(content["label"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{source.path}: no JSON file with label and skeletons (frames, 20, 3) ({error!r})"
            ) from error
        if joints.ndim != 3 or joints.shape[1:] != (20, 3):
            raise ValueError(f"{source.path}: skeletons must have the shape (frames, 20, 3), got {joints.shape}")
        assert source.label is not None  # as the file's name gives it
        if label != source.label + 1:
            raise ValueError(f"{source.path}: label is {label}, but the file's name says class {source.label + 1}")
        return RawClip(joints.transpose(2, 0, 1)[..., None])

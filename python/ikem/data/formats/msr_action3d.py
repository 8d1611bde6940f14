"""MSR-Action3D: one text file per clip (depth camera like Kinect v1, one person)."""

from __future__ import annotations

import re
from pathlib import Path

from .base import ClipSource, FileFormat, RawClip
from .text import read_number_rows

__all__ = ["MsrAction3d"]


class MsrAction3d(FileFormat):
    """MSR-Action3D (Li et al., CVPRW 2010): 567 clips, 20 actions, 10 subjects; in places the tracker lost the body."""

    name = "msr-action3d"
    layout = "msr20"
    bodies = 1
    glob = "*_skeleton3D.txt"
    pattern = re.compile(r"/a(\d+)_s(\d+)_e(\d+)_skeleton3D\.txt$")
    example = "a01_s01_e01_skeleton3D.txt"
    classes = (
        "high arm wave", "horizontal arm wave", "hammer", "hand catch", "forward punch", "high throw", "draw x",
        "draw tick", "draw circle", "hand clap", "two hand wave", "side-boxing", "bend", "forward kick", "side kick",
        "jogging", "tennis swing", "tennis serve", "golf swing", "pick up and throw",
    )  # fmt: skip

    def source(self, match: re.Match[str], path: Path) -> ClipSource:
        """Action, subject and execution stand in the file's name."""
        action, subject, execution = map(int, match.groups())
        name = path.stem.removesuffix("_skeleton3D")
        return ClipSource(name, action - 1, path, subject=subject, replication=execution)

    def read(self, source: ClipSource) -> RawClip:
        """Rows ``x y z confidence``, 20 per frame."""
        rows = read_number_rows(source.path, columns=4)
        if len(rows) % 20:
            raise ValueError(f"{source.path}:{len(rows)}: the last frame has {len(rows) % 20} of 20 joints")
        return RawClip(rows[:, :3].reshape(-1, 20, 3).transpose(2, 0, 1)[..., None])

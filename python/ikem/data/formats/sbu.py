"""SBU Kinect Interaction: one text file per clip with two people (Kinect v1, 15 joints)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from .base import ClipSource, FileFormat, RawClip
from .text import read_number_rows

__all__ = ["Sbu"]


class Sbu(FileFormat):
    """SBU Kinect Interaction v2 (Yun et al., CVPRW 2012): 282 clips, 8 interactions, 21 ordered pairs of 7 people.

    The subject of a clip is the first of the pair; the clip's name starts with both, such as ``s01s02``.
    """

    name = "sbu"
    layout = "sbu15"
    bodies = 2
    glob = "skeleton_pos.txt"
    pattern = re.compile(r"/(s(\d\d)s\d\d)/(\d\d)/(\d\d\d)/skeleton_pos\.txt$")
    example = "s01s02/01/001/skeleton_pos.txt"
    classes = (
        "approaching", "departing", "kicking", "pushing", "shaking hands", "hugging", "exchanging objects", "punching",
    )  # fmt: skip

    def source(self, match: re.Match[str], path: Path) -> ClipSource:
        """The pair, the interaction and the repetition are folders."""
        pair, subject, action, replication = match.groups()
        name = f"{pair}/{action}/{replication}"
        return ClipSource(name, int(action) - 1, path, subject=int(subject), replication=int(replication))

    def read(self, source: ClipSource) -> RawClip:
        """Rows of the frame's number, then x y z for the 15 joints of each person, in meters with y up.

        The files hold x and y scaled to the image, with y down, and a scaled depth. Positions are had back as
        the data set's authors say, X = 1280 - 2560 x, Y = 960 - 1920 y, Z = 1280 z millimeters: only so do
        the bones keep their lengths through a clip.
        """
        rows = read_number_rows(source.path, columns=1 + 2 * 15 * 3, separator=",")
        normalized = rows[:, 1:].reshape(len(rows), 2, 15, 3)
        seen = normalized.any(axis=(2, 3), keepdims=True)
        joints = (np.array([1.28, 0.96, 0.0]) + np.array([-2.56, -1.92, 1.28]) * normalized) * seen
        return RawClip(joints.transpose(3, 0, 2, 1))

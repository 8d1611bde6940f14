"""NTU RGB+D and NTU RGB+D 120: one ``.skeleton`` text file per clip (Kinect v2, up to two people)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ikem_ext._native import parse_skeleton
from numpy.typing import NDArray

from .base import Align, ClipSource, FileFormat, LostFrames, RawClip
from .folder import files_below

__all__ = [
    "Ntu60",
    "Ntu120",
    "SkeletonRecording",
    "find_missing_lists",
    "read_missing_lists",
    "read_skeleton_file",
]

_CLIP_NAME = re.compile(r"\bS\d{3}C\d{3}P\d{3}R\d{3}A\d{3}\b")


class SkeletonRecording(NamedTuple):
    """What a ``.skeleton`` file holds; ``bodies`` is the most that one frame has, others are padded with zeros.

    The bodies of a frame stand in the order of the file. The sensor may list a person first in one frame and
    second in the next; ``body_ids`` tells who is who.
    """

    joints: NDArray[np.float64]
    """(frames, bodies, 25, 3), in the camera space of Kinect v2: meters, y up, z away from the sensor."""
    body_ids: NDArray[np.uint64]
    """(frames, bodies)."""
    tracking_states: NDArray[np.uint8]
    """(frames, bodies), of the whole body."""
    joint_tracking_states: NDArray[np.uint8]
    """(frames, bodies, 25): 0 not tracked, 1 inferred, 2 tracked."""
    body_counts: NDArray[np.int64]
    """(frames,), how many bodies the frame has."""


def read_skeleton_file(path: str | PathLike[str]) -> SkeletonRecording:
    r"""Reads an NTU RGB+D ``.skeleton`` file.

    The text is parsed by native code while other threads run.

    Args:
        path: the file; its lines end with LF or CRLF.

    Returns:
        The joints of every body in every frame, with ids and tracking states.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a complete skeleton file, or a coordinate is not finite. The message
            starts with ``path:line:``.

    Source: Shahroudy et al., "NTU RGB+D", CVPR 2016.

    Example:
        >>> import tempfile
        >>> joint = "0.1 0.2 3.0 250 190 960 510 0 0 0 0 2"
        >>> text = "\n".join(["1", "1", "72057594037931101 0 1 1 1 1 0 0.03 0.06 2", "25", *[joint] * 25])
        >>> with tempfile.NamedTemporaryFile("w", suffix=".skeleton") as file:
        ...     _ = file.write(text)
        ...     file.flush()
        ...     recording = read_skeleton_file(file.name)
        >>> recording.joints.shape, int(recording.body_ids[0, 0])
        ((1, 1, 25, 3), 72057594037931101)
    """
    return SkeletonRecording(*parse_skeleton(Path(path).read_bytes(), str(path)))


def find_missing_lists(folder: Path) -> list[Path]:
    """The lists of clips with missing skeletons that lie among the recordings, whatever they are called exactly.

    Such a list is a text file whose name has the word ``missing`` in it and that names a clip:
    ``NTU_RGBD_samples_with_missing_skeletons.txt`` and ``ntu_rgb120_missings.txt`` alike.
    """
    named = (path for path in files_below(folder) if re.search(r"missing.*\.txt$", path.name, re.IGNORECASE))
    return [path for path in named if _CLIP_NAME.search(path.read_text(encoding="utf-8", errors="replace"))]


def read_missing_lists(lists: Iterable[Path]) -> set[str]:
    """The clips that the data set's authors list as having missing or incomplete skeletons.

    Args:
        lists: the authors' files, such as ``NTU_RGBD_samples_with_missing_skeletons.txt``.

    Raises:
        ValueError: a file names no clip.
    """
    names: set[str] = set()
    for path in lists:
        listed = _CLIP_NAME.findall(path.read_text(encoding="utf-8", errors="replace"))
        if not listed:
            raise ValueError(f"missing: {path} names no clip of the form S001C001P001R001A001")
        names.update(listed)
    return names


_CLASSES = tuple(
    " ".join(name.split())
    for name in """
    drink water; eat meal/snack; brushing teeth; brushing hair; drop; pickup; throw; sitting down;
    standing up (from sitting position); clapping; reading; writing; tear up paper; wear jacket; take off jacket;
    wear a shoe; take off a shoe; wear on glasses; take off glasses; put on a hat/cap; take off a hat/cap;
    cheer up; hand waving; kicking something; reach into pocket; hopping (one foot jumping); jump up;
    make a phone call/answer phone; playing with phone/tablet; typing on a keyboard;
    pointing to something with finger; taking a selfie; check time (from watch); rub two hands together;
    nod head/bow; shake head; wipe face; salute; put the palms together; cross hands in front (say stop);
    sneeze/cough; staggering; falling; touch head (headache); touch chest (stomachache/heart pain);
    touch back (backache); touch neck (neckache); nausea or vomiting condition;
    use a fan (with hand or paper)/feeling warm; punching/slapping other person; kicking other person;
    pushing other person; pat on back of other person; point finger at the other person; hugging other person;
    giving something to other person; touch other person's pocket; handshaking; walking towards each other;
    walking apart from each other;
    put on headphone; take off headphone; shoot at the basket; bounce ball; tennis bat swing;
    juggling table tennis balls; hush (quiet); flick hair; thumb up; thumb down; make ok sign; make victory sign;
    staple book; counting money; cutting nails; cutting paper (using scissors); snapping fingers; open bottle;
    sniff (smell); squat down; toss a coin; fold paper; ball up paper; play magic cube; apply cream on face;
    apply cream on hand back; put on bag; take off bag; put something into a bag; take something out of a bag;
    open a box; move heavy objects; shake fist; throw up cap/hat; hands up (both hands); cross arms; arm circles;
    arm swings; running on the spot; butt kicks (kick backward); cross toe touch; side kick; yawn;
    stretch oneself; blow nose; hit other person with something; wield knife towards other person;
    knock over other person (hit with body); grab other person's stuff; shoot at other person with a gun;
    step on foot; high-five; cheers and drink; carry something with other person; take a photo of other person;
    follow other person; whisper in other person's ear; exchange things with other person;
    support somebody with hand; finger-guessing game (playing rock-paper-scissors)
    """.split(";")
)


class Ntu120(FileFormat):
    """NTU RGB+D 120 (Liu et al., TPAMI 2020): 114480 clips, 120 actions, 106 subjects, 32 setups."""

    name = "ntu120"
    layout = "ntu25"
    classes = _CLASSES
    bodies = 2
    align: Align = "frame"
    lost_frames: LostFrames = "keep"
    glob = "*.skeleton"
    pattern = re.compile(r"/S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})\.skeleton$")
    example = "S001C001P001R001A001.skeleton"
    known_missing = 535
    """How many clips the authors list as having missing or incomplete skeletons."""

    def source(self, match: re.Match[str], path: Path) -> ClipSource:
        """Setup, camera, performer, replication and action stand in the file's name."""
        setup, camera, subject, replication, action = map(int, match.groups())
        return ClipSource(path.stem, action - 1, path, subject, camera, setup, replication)

    def read(self, source: ClipSource) -> RawClip:
        """All bodies, in the order in which the file lists them in each frame."""
        recording = read_skeleton_file(source.path)
        return RawClip(recording.joints.transpose(3, 0, 2, 1), body_ids=recording.body_ids)

    def unlisted(self, missing: set[str]) -> str | None:
        """Says so if clips that the authors know to be bad are not among those listed as such.

        Args:
            missing: the names of the clips in all lists that were given or found.
        """
        listed = sum(int(name[-3:]) <= len(self.classes) for name in missing)
        if listed >= self.known_missing:
            return None
        known = f"the authors of {self.name} list {self.known_missing} clips with missing or incomplete skeletons"
        if not listed:
            return f"{known}, which may still be in: no such list was given (--missing) or lies among the recordings"
        left = self.known_missing - listed
        return f"{known}, of which {left} may still be in: the lists given and found name {listed} clips of this set"


class Ntu60(Ntu120):
    """NTU RGB+D (Shahroudy et al., CVPR 2016): 56880 clips, 60 actions, 40 subjects, 3 cameras."""

    name = "ntu60"
    classes = _CLASSES[:60]
    known_missing = 302

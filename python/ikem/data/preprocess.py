"""From the joints of a recording to an array of fixed size.

The steps are those that Wei et al. (arXiv 2309.12009) take on NTU RGB+D, following Li et al. ("3D Human Action
Representation Learning via Cross-View Consistency Pursuit", CVPR 2021): center, resize time, face the camera; and,
for sets of few people, scale to the size of the body. Joints are float32 arrays (3, frames, V, M), in meters with y up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ikem_ext.skeleton import SkeletonLayout

from .formats import Align, LostFrames

__all__ = [
    "Center",
    "NoBodyError",
    "Preprocessed",
    "Preprocessing",
    "center_joints",
    "face_camera",
    "fill_lost_frames",
    "resize_time",
    "scale_to_body",
    "turn_to_camera",
]

Joints = NDArray[np.float32]
Center = Literal["frame", "first_frame", "none"]


class NoBodyError(ValueError):
    """A clip in which no body is ever seen."""


class Preprocessed(NamedTuple):
    """A clip as it is stored.

    Args:
        joints: float32 (3, T, V, M).
        num_frames: L, the number of frames that were resized to T.
        lost_frames: in how many frames of the recording no body is seen.
        cut_frames: how many frames in which a body is seen lie beyond the first L.
    """

    joints: Joints
    num_frames: int
    lost_frames: int
    cut_frames: int = 0


@dataclass(frozen=True)
class Preprocessing:
    """What is done to every clip of a data set.

    Args:
        frames: T, the number of frames that every clip is resized to.
        bodies: M, the number of bodies kept; clips with fewer are padded with zeros.
        center: what is subtracted: ``frame``, the root of each body in each frame; ``first_frame``, the root
            of the first body in the first frame in which one is seen, so that people still walk and stand
            apart; or ``none``.
        align: who is turned to face the camera: ``frame``, each body in each frame, as published; ``clip``, all
            bodies of the clip together, by one angle, so that people still turn and face each other; or ``none``.
        scale: whether a clip is divided by the mean length of its bones.
        lost_frames: what becomes of frames in which a body is not seen: ``interpolate`` fills them in,
            ``drop`` takes out the frames without any body, and ``keep`` leaves them as they are, but, as
            published, takes only the first L frames, where L is the number of frames in which the first
            joint of the first body is not zero.

    Example:
        >>> from ikem_ext import get_layout
        >>> recording = np.random.default_rng(0).normal(size=(3, 80, 25, 1))
        >>> preprocessing = Preprocessing(frames=50, bodies=2, center="frame", align="frame", lost_frames="keep")
        >>> clip = preprocessing(recording, get_layout("ntu25"))
        >>> clip.joints.shape, clip.num_frames
        ((3, 50, 25, 2), 80)
    """

    frames: int
    bodies: int
    center: Center
    align: Align
    lost_frames: LostFrames
    scale: bool = False

    def __post_init__(self) -> None:
        for name in ("frames", "bodies"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a positive integer, got {value!r}")
        for name, choices in (("center", Center), ("align", Align), ("lost_frames", LostFrames)):
            if getattr(self, name) not in choices.__args__:  # type: ignore[attr-defined]
                raise ValueError(f"{name}: expected one of {choices.__args__}, got {getattr(self, name)!r}")  # type: ignore[attr-defined]

    def __call__(self, recording: NDArray[np.floating], layout: SkeletonLayout) -> Preprocessed:
        """Preprocesses one clip.

        Args:
            recording: (3, frames, V, bodies) in meters with y up, zero where a body is not seen.
            layout: the skeleton; its root is what is centered on, its torso says where the shoulders are.

        Raises:
            ValueError: the recording is not of that shape, or a coordinate is not finite.
            NoBodyError: no body is seen in any frame.
        """
        joints = _checked(recording, layout)[..., : self.bodies]
        seen = np.asarray(_seen(joints).any(axis=1))
        if not seen.any():
            raise NoBodyError("no body is ever seen")
        num_frames = len(seen)
        if self.lost_frames == "interpolate":
            joints = fill_lost_frames(joints)
        elif self.lost_frames == "drop":
            joints = joints[:, seen]
            num_frames = joints.shape[1]
        else:
            num_frames = int(joints[:, :, 0, 0].any(axis=0).sum())
            if num_frames == 0:
                raise NoBodyError("the first joint of the first body is never seen")
        joints = center_joints(joints, layout.root, self.center)
        joints = resize_time(joints[:, :num_frames], self.frames)
        if self.align == "frame":
            joints = face_camera(joints, layout)
        elif self.align == "clip":
            joints = turn_to_camera(joints, layout)
        if self.scale:
            joints = scale_to_body(joints, layout)
        padding = self.bodies - joints.shape[3]
        return Preprocessed(
            np.pad(joints, ((0, 0), (0, 0), (0, 0), (0, padding))),
            num_frames,
            lost_frames=len(seen) - int(seen.sum()),
            cut_frames=int(seen[num_frames:].sum()) if self.lost_frames == "keep" else 0,
        )


def _checked(recording: NDArray[np.floating], layout: SkeletonLayout) -> Joints:
    if recording.ndim != 4 or recording.shape[0] != 3 or recording.shape[2] != layout.num_joints:
        raise ValueError(
            f"joints must have the shape (3, frames, {layout.num_joints}, bodies) for the layout {layout.name!r}, "
            f"got {recording.shape}"
        )
    with np.errstate(over="ignore"):
        joints = recording.astype(np.float32)
    wrong = np.argwhere(~np.isfinite(joints))
    if len(wrong):
        axis, frame, joint, body = min(wrong.tolist(), key=lambda place: (place[1], place))
        raise ValueError(
            f"frame {frame + 1}: the {'xyz'[axis]} coordinate of {layout.joint_names[joint]} of body {body + 1} is "
            f"{recording[axis, frame, joint, body]}, which is not a finite float32"
        )
    return joints


def _seen(joints: Joints) -> NDArray[np.bool_]:
    """Which bodies are seen in which frames, (frames, M)."""
    return np.asarray(joints.any(axis=(0, 2)))


def fill_lost_frames(joints: Joints) -> Joints:
    """Fills in the frames in which a body is not seen.

    Between two frames in which it is seen, a body's joints are interpolated linearly. A frame that is still
    without any body then, as before the first body is seen and after the last, repeats the nearest frame that
    has one. A body that comes later or leaves earlier than another is left alone.

    Example:
        >>> joints = np.zeros((3, 5, 1, 1), dtype=np.float32)
        >>> joints[0, [1, 3]] = [[[1]], [[3]]]
        >>> fill_lost_frames(joints)[0, :, 0, 0].tolist()
        [1.0, 1.0, 2.0, 3.0, 3.0]
    """
    filled = joints.copy()
    frames = np.arange(joints.shape[1])
    present = _seen(joints)
    for body in range(joints.shape[3]):
        known = np.flatnonzero(present[:, body])
        if len(known) == 0:
            continue
        gaps = np.setdiff1d(frames[known[0] : known[-1]], known)
        after = np.searchsorted(known, gaps)
        first, last = known[after - 1], known[after]
        share = ((gaps - first) / (last - first)).astype(np.float32)[:, None]
        track = joints[..., body]
        filled[..., body][:, gaps] = track[:, first] * (1 - share) + track[:, last] * share
    known = np.flatnonzero(_seen(filled).any(axis=1))
    if len(known):
        filled = filled[:, known[np.abs(known[:, None] - frames).argmin(axis=0)]]
    return filled


def center_joints(joints: Joints, root: int, center: Center) -> Joints:
    """Moves the origin to the root joint; bodies that are not seen stay zero.

    Args:
        joints: (3, frames, V, M).
        root: the joint.
        center: see :class:`Preprocessing`.
    """
    if center == "none":
        return joints
    if center == "frame":
        return joints - joints[:, :, root : root + 1]
    present = _seen(joints)
    frame, body = np.argwhere(present)[0]
    origin = joints[:, frame, root, body]
    return (joints - origin[:, None, None, None]) * present[None, :, None, :]


def resize_time(joints: Joints, frames: int) -> Joints:
    """Resizes the time axis by linear interpolation with half-pixel centers, as images are resized.

    Frame ``i`` of the result samples the position ``(i + 0.5) * L / frames - 0.5`` of the L given ones, clamped
    to the first and the last.

    Args:
        joints: (3, L, V, M).
        frames: the new number of frames.

    Example:
        >>> ramp = np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1)
        >>> resize_time(ramp, 2).ravel().tolist()
        [0.5, 2.5]
    """
    length = joints.shape[1]
    position = np.clip((np.arange(frames) + 0.5) * length / frames - 0.5, 0, length - 1)
    before = position.astype(np.int64)
    after = np.minimum(before + 1, length - 1)
    share = (position - before).astype(np.float32)[None, :, None, None]
    return joints[:, before] * (1 - share) + joints[:, after] * share


def face_camera(joints: Joints, layout: SkeletonLayout) -> Joints:
    """Turns every body about the vertical axis, in each frame, so that its shoulders face the camera.

    With ``v`` from the left to the right shoulder and ``|v|`` its length in the horizontal plane, the angle is
    ``theta = arccos(v_x / (|v| + 1e-4))``, negated where the sum of ``v_z`` over all frames is not negative, and
    the rotation is ``[[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]]``. The sign is thus one for the whole clip, as in
    the published code, also where the person turns around.

    Args:
        joints: (3, frames, V, M), y up; joints 1 and 2 of the layout's torso are the shoulders.
        layout: the skeleton.
    """
    _, left, right = layout.torso
    across_x, _, across_z = joints[:, :, right] - joints[:, :, left]  # (frames, M) each
    length = np.sqrt(across_x**2 + across_z**2)
    theta = np.arccos(across_x / (length + np.float32(1e-4)))
    return _rotate(joints, np.where(across_z.sum(axis=0) >= 0, -theta, theta)[:, None, :])


def turn_to_camera(joints: Joints, layout: SkeletonLayout) -> Joints:
    """Turns a clip about the vertical axis so that the first body's shoulders face the camera on average.

    All bodies and frames are rotated by one angle, which takes the mean over the frames of the vector from the left
    to the right shoulder to the direction of x.

    Args:
        joints: (3, frames, V, M), y up; joints 1 and 2 of the layout's torso are the shoulders.
        layout: the skeleton.
    """
    _, left, right = layout.torso
    across_x, _, across_z = (joints[:, :, right, 0] - joints[:, :, left, 0]).mean(axis=1)
    return _rotate(joints, -np.arctan2(across_z, across_x))


def _rotate(joints: Joints, theta: NDArray[np.float32]) -> Joints:
    cosine, sine = np.cos(theta), np.sin(theta)
    x, y, z = joints
    return np.stack((cosine * x - sine * z, y, sine * x + cosine * z))


def scale_to_body(joints: Joints, layout: SkeletonLayout) -> Joints:
    """Divides a clip by the mean length of its bones, over all frames in which a body is seen.

    What is left does not tell tall people from small ones.

    Args:
        joints: (3, frames, V, M).
        layout: the skeleton.
    """
    bones = np.delete(joints - joints[:, :, list(layout.parents)], layout.root, axis=2)
    lengths = np.linalg.norm(bones, axis=0).mean(axis=1)  # (frames, M)
    seen = lengths > 0
    return joints * (seen.sum() / lengths.sum()) if seen.any() else joints

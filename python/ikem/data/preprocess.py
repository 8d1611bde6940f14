"""From the joints of a recording to an array of fixed size.

The steps are those that Wei et al. (arXiv 2309.12009) take on NTU RGB+D, following Li et al. ("3D Human Action
Representation Learning via Cross-View Consistency Pursuit", CVPR 2021): center, resize time, face the camera; and,
for sets of few people, scale to the size of the body. Joints are float32 arrays (3, frames, V, M), in meters with y up.
Points in an image come as (2, frames, V, M) with y down, and lie in the plane of x and y, y up, from then on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from ikem_ext.layout_mapping import LayoutMapping
from ikem_ext.skeleton import SkeletonLayout, Third

from .formats import Align, LostFrames
from .lost_joints import LostJoints, fill_lost_joints, find_lost_joints, interpolate

__all__ = [
    "Center",
    "ImageThird",
    "LostJoints",
    "NoBodyError",
    "Preprocessed",
    "Preprocessing",
    "Scale",
    "center_joints",
    "face_camera",
    "fill_lost_frames",
    "resize_time",
    "scale_to_body",
    "turn_to_camera",
]

Joints = NDArray[np.float32]
Center = Literal["frame", "first_frame", "none"]
Scale = Literal["none", "body", "image"]
ImageThird = Literal["zero", "confidence"]

_LARGEST_SHARE = 2  # of an image; what reaches farther is in pixels


class NoBodyError(ValueError):
    """A clip in which no body is ever seen."""


class Preprocessed(NamedTuple):
    """A clip as it is stored.

    Args:
        joints: float32 (3, T, V, M).
        num_frames: L, the number of frames that were resized to T.
        lost_frames: in how many frames of the recording no body is seen.
        cut_frames: how many frames in which a body is seen lie beyond the first L.
        third: what the third coordinate is.
        lost_joints: how many single joints were lost and are filled in.
    """

    joints: Joints
    num_frames: int
    lost_frames: int
    cut_frames: int = 0
    third: Third = "depth"
    lost_joints: int = 0


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
        scale: what a clip is divided by: ``body``, the mean length of its bones; ``image``, half of the image's longer
            side; or ``none``. True and False stand for ``body`` and ``none``. Default: ``body`` for points in an image,
            otherwise ``none``.
        lost_frames: what becomes of frames in which a body is not seen: ``interpolate`` fills them in,
            ``drop`` takes out the frames without any body, and ``keep`` leaves them as they are, but, as
            published, takes only the first L frames, where L is the number of frames in which the first
            joint of the first body is not zero.
        lost_joints: which single joints of a body that is seen count as lost, and are filled in: ``zero``, those that
            are exactly zero or have no confidence; ``nan``, those that are not a number as well; or ``keep``, none.
            Default: ``keep`` where lost frames are kept, otherwise ``zero``. See :func:`fill_lost_joints`.
        third: what the third coordinate of points in an image becomes: ``zero``, or the ``confidence`` of each.

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
    scale: Scale | bool | None = None
    lost_joints: LostJoints | None = None
    third: ImageThird = "zero"

    def __post_init__(self) -> None:
        if isinstance(self.scale, bool):
            self._set("scale", "body" if self.scale else "none")
        if self.lost_joints is None:
            self._set("lost_joints", "keep" if self.lost_frames == "keep" else "zero")
        for name in ("frames", "bodies"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a positive integer, got {value!r}")
        known = {
            "center": Center,
            "align": Align,
            "lost_frames": LostFrames,
            "lost_joints": LostJoints,
            "third": ImageThird,
        }
        for name, choices in {**known, **({} if self.scale is None else {"scale": Scale})}.items():
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name}: expected one of {get_args(choices)}, got {getattr(self, name)!r}")

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)  # the way to complete a frozen dataclass

    def scale_of(self, third: Third) -> Scale:
        """What is scaled by where joints have such a third coordinate."""
        if self.scale is None:
            return "none" if third == "depth" else "body"
        return self.scale  # type: ignore[return-value]  # __post_init__ has seen to it

    def __call__(
        self,
        recording: NDArray[np.floating],
        layout: SkeletonLayout,
        *,
        confidence: NDArray[np.floating] | None = None,
        image_size: tuple[int, int] | None = None,
        mapping: LayoutMapping | None = None,
    ) -> Preprocessed:
        """Preprocesses one clip.

        Args:
            recording: (3, frames, V, bodies) in meters with y up; or (2, frames, V, bodies), points in an image, in
                pixels or shares of it, y down. Zero where a body is not seen.
            layout: the skeleton; its root is what is centered on, its torso says where the shoulders are.
            confidence: (frames, V, bodies), from 0, which is a lost joint, to 1.
            image_size: width and height of the image in pixels.
            mapping: from the layout to another, which is then that of the result.

        Raises:
            ValueError: the recording is not of that shape, a coordinate is not finite, or what is asked for does not
                fit points in an image, or joints in space.
            NoBodyError: no body is seen in any frame.
        """
        joints = self._checked(recording, layout)
        third: Third = self.third if len(joints) == 2 else "depth"
        self._check_fit(joints, third, confidence, image_size)
        scores = _scores(joints, confidence)[..., : self.bodies]
        joints = joints[..., : self.bodies]
        lost = find_lost_joints(joints, scores, self.lost_joints)
        joints, scores = np.where(lost, np.float32(0), joints), np.where(lost, np.float32(0), scores)
        weights = None if confidence is None else scores
        present = _seen(joints)
        seen = np.asarray(present.any(axis=1))
        if not seen.any():
            raise NoBodyError("no body is ever seen")
        lost &= present[:, None]
        if lost.any():
            joints = fill_lost_joints(joints, lost, layout, weights)
        num_frames = len(seen)
        if self.lost_frames == "interpolate":
            joints = fill_lost_frames(joints, weights)
        elif self.lost_frames == "drop":
            joints, scores = joints[:, seen], scores[seen]
            num_frames = joints.shape[1]
        else:
            num_frames = int(joints[:, :, 0, 0].any(axis=0).sum())
            if num_frames == 0:
                raise NoBodyError("the first joint of the first body is never seen")
        if third != "depth":
            joints = _in_plane(joints, image_size)
        if mapping is not None:
            joints, scores, layout = mapping(joints), mapping(scores), mapping.target
        joints = center_joints(joints, layout.root, self.center)
        joints = self._turn(resize_time(joints[:, :num_frames], self.frames), layout)
        scale = self.scale_of(third)
        if scale == "body":
            joints = scale_to_body(joints, layout)
        elif scale == "image":
            joints = joints * np.float32(2 / max(image_size or (1, 1)))
        if third == "confidence":
            joints[2] = resize_time(scores[None, :num_frames], self.frames)[0]
        padding = self.bodies - joints.shape[3]
        return Preprocessed(
            np.pad(joints, ((0, 0), (0, 0), (0, 0), (0, padding))),
            num_frames,
            lost_frames=len(seen) - int(seen.sum()),
            cut_frames=int(seen[num_frames:].sum()) if self.lost_frames == "keep" else 0,
            third=third,
            lost_joints=int(lost.sum()),
        )

    def _turn(self, joints: Joints, layout: SkeletonLayout) -> Joints:
        if self.align == "none":
            return joints
        return face_camera(joints, layout) if self.align == "frame" else turn_to_camera(joints, layout)

    def _checked(self, recording: NDArray[np.floating], layout: SkeletonLayout) -> Joints:
        if recording.ndim != 4 or recording.shape[0] not in (2, 3) or recording.shape[2] != layout.num_joints:
            raise ValueError(
                f"joints must have the shape (3, frames, {layout.num_joints}, bodies) for the layout {layout.name!r}, "
                f"got {recording.shape} (points in an image have 2 instead of 3)"
            )
        with np.errstate(over="ignore"):
            joints = recording.astype(np.float32)
        refused = np.isinf(joints) if self.lost_joints == "nan" else ~np.isfinite(joints)
        wrong = np.argwhere(refused)
        if len(wrong):
            axis, frame, joint, body = min(wrong.tolist(), key=lambda place: (place[1], place))
            value = recording[axis, frame, joint, body]
            raise ValueError(
                f"frame {frame + 1}: the {'xyz'[axis]} coordinate of {layout.joint_names[joint]} of body {body + 1} is "
                f"{value}, which is not a finite float32"
                + (" (lost_joints nan fills such joints in)" if np.isnan(value) else "")
            )
        return joints

    def _check_fit(
        self, joints: Joints, third: Third, confidence: NDArray[np.floating] | None, image_size: tuple[int, int] | None
    ) -> None:
        if third == "depth" and (self.third == "confidence" or self.scale == "image"):
            option = "third: confidence" if self.third == "confidence" else "scale: image"
            raise ValueError(f"{option} is for points in an image (2, frames, V, bodies), not for joints with depth")
        if third != "depth" and self.align != "none":
            raise ValueError(f"align: expected none for points in an image, which cannot be turned, got {self.align!r}")
        if self.scale_of(third) == "image" and image_size is None and (np.abs(joints) > _LARGEST_SHARE).any():
            raise ValueError(
                "scale: image needs the size of the image, which the recording does not say; scale by the body instead"
            )
        if third == "confidence" and confidence is None:
            raise ValueError("third: expected the recording to hold confidences, which it does not")


def _scores(joints: Joints, confidence: NDArray[np.floating] | None) -> NDArray[np.float32]:
    """The confidence of each joint, (frames, V, bodies); 1 where the recording has none."""
    if confidence is None:
        return np.ones(joints.shape[1:], np.float32)
    if confidence.shape != joints.shape[1:]:
        raise ValueError(f"confidence: expected the shape {joints.shape[1:]} of the joints, got {confidence.shape}")
    return np.nan_to_num(confidence.astype(np.float32), posinf=0, neginf=0).clip(min=0)


def _in_plane(points: Joints, image_size: tuple[int, int] | None) -> Joints:
    """Points in an image, y down, as joints in the plane z = 0, y up; in pixels, where the image's size is known."""
    if image_size is not None and np.abs(points).max() <= _LARGEST_SHARE:
        points = points * np.array(image_size, np.float32).reshape(2, 1, 1, 1)
    x, y = points
    return np.stack((x, 0 - y, np.zeros_like(x)))


def _seen(joints: Joints) -> NDArray[np.bool_]:
    """Which bodies are seen in which frames, (frames, M)."""
    return np.asarray(joints.any(axis=(0, 2)))


def fill_lost_frames(joints: Joints, confidence: NDArray[np.float32] | None = None) -> Joints:
    """Fills in the frames in which a body is not seen.

    Between two frames in which it is seen, a body's joints are interpolated linearly; with confidences, the surer of
    the two weighs more, see :func:`fill_lost_joints`. A frame that is still without any body then, as before the first
    body is seen and after the last, repeats the nearest frame that has one. A body that comes later or leaves earlier
    than another is left alone.

    Args:
        joints: (3, frames, V, M).
        confidence: (frames, V, M).

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
        weights = None if confidence is None else confidence[..., body]
        filled[..., body][:, gaps] = interpolate(joints[..., body], known, gaps, weights)
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
    return (joints * (seen.sum() / lengths.sum())).astype(np.float32) if seen.any() else joints

"""The frames of a stream: who is seen in each and where their joints are, checked, resampled and put together again."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ikem.data.formats import RawClip
from ikem_ext.skeleton import SkeletonLayout

__all__ = ["Frame", "FrameChecks", "Frames", "Resampler", "frames_of", "together"]

#: By so much of the time between two frames may a time stamp come early, as one that was rounded to milliseconds.
_EARLY = 0.1


class Frames(NamedTuple):
    """What a stream hands over at a time: one frame, or some in a row.

    Args:
        joints: (3, V, bodies) of one frame or (3, frames, V, bodies), in meters with y up; or 2 in place of 3 for
            points in an image, y down. A body, or a joint, that is not seen is zero.
        timestamps: in seconds, of each frame; None in a stream without, all frames of which are equally far apart.
        ids: by which bodies are known again, (bodies,) or (frames, bodies), numbers or strings; without, the m-th body
            of one frame is the m-th of the next.
        confidence: (V, bodies) or (frames, V, bodies), from 0 to 1.
    """

    joints: ArrayLike
    timestamps: ArrayLike | None = None
    ids: Sequence[Hashable] | Sequence[Sequence[Hashable]] | None = None
    confidence: ArrayLike | None = None


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Args:
        joints: float32 (3 or 2, V, bodies) of those that are seen.
        bodies: who they are: an id each, or their places in the list.
        confidence: float32 (V, bodies).
    """

    joints: NDArray[np.float32]
    bodies: tuple[Hashable, ...]
    confidence: NDArray[np.float32] | None = None

    def of(self, bodies: Sequence[Hashable]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Joints (axes, V, n) and confidence (V, n) of n bodies, zero for those that are not seen."""
        axes, joints, _ = self.joints.shape
        places = {body: place for place, body in enumerate(self.bodies)}
        found = np.zeros((axes, joints, len(bodies)), np.float32)
        sure = np.zeros((joints, len(bodies)), np.float32)
        for place, body in enumerate(bodies):
            if body in places:
                found[..., place] = self.joints[..., places[body]]
                sure[:, place] = 1 if self.confidence is None else self.confidence[:, places[body]]
        return found, sure


@dataclass(frozen=True)
class FrameChecks:
    """What a stream's frames have to be.

    Args:
        layout: their skeleton.
        axes: 3 coordinates of joints in space, 2 of points in an image.
        nan_is_lost: a joint that is not a number is a lost one.
    """

    layout: SkeletonLayout
    axes: int = 3
    nan_is_lost: bool = False

    def __call__(self, pushed: Frames) -> tuple[list[Frame], NDArray[np.float64] | None]:
        """Returns the single frames, and their time stamps (frames,).

        Raises:
            ValueError: an array is of another shape, or holds what is no finite number.
        """
        joints = self._joints(pushed.joints)
        single = joints.ndim == 3
        if single:
            joints = joints[:, None]
        shape = joints.shape[1:]  # (frames, V, bodies)
        confidence = None if pushed.confidence is None else _array("confidence", pushed.confidence, shape, single)
        times = None if pushed.timestamps is None else _array("timestamps", pushed.timestamps, shape[:1], single)
        ids = None if pushed.ids is None else _ids(pushed.ids, shape[0], shape[2], single)
        frames = []
        for number in range(shape[0]):
            seen = np.flatnonzero(joints[:, number].any(axis=(0, 1)))
            bodies = tuple(seen.tolist() if ids is None else (ids[number][place] for place in seen))
            if len(set(bodies)) < len(bodies):
                raise ValueError(f"ids: expected every body of a frame to have another, got {list(bodies)}")
            sure = None if confidence is None else confidence[number][:, seen].astype(np.float32)
            frames.append(Frame(joints[:, number][..., seen], bodies, sure))
        return frames, times

    def _joints(self, given: ArrayLike) -> NDArray[np.float32]:
        joints = np.asarray(given)
        axes, number = self.axes, self.layout.num_joints
        if joints.ndim not in (3, 4) or joints.shape[0] != axes or joints.shape[-2] != number:
            raise ValueError(
                f"joints: expected the shape ({axes}, {number}, bodies) of a frame, or ({axes}, frames, {number}, "
                f"bodies), for the layout {self.layout.name!r}, got {joints.shape}"
            )
        if joints.dtype.kind not in "iuf":
            raise ValueError(f"joints: expected numbers, got {joints.dtype}")
        with np.errstate(over="ignore"):
            joints = joints.astype(np.float32)
        if self.nan_is_lost:
            joints = np.where(np.isnan(joints).any(axis=0), np.float32(0), joints)
        if len(wrong := np.argwhere(~np.isfinite(joints))):
            axis, joint, body = wrong[0][[0, -2, -1]].tolist()
            value = joints[tuple(wrong[0])]
            name = self.layout.joint_names[joint]
            raise ValueError(f"joints: the {'xyz'[axis]} coordinate of {name} of body {body + 1} is {value}")
        return joints


def _array(name: str, given: ArrayLike, shape: tuple[int, ...], single: bool) -> NDArray[np.float64]:
    array = np.asarray(given)
    expected = shape[1:] if single else shape
    if array.shape != expected or array.dtype.kind not in "iuf":
        raise ValueError(f"{name}: expected numbers of the shape {expected}, got {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got {array[~np.isfinite(array)][0]}")
    return array.astype(np.float64).reshape(shape)


def _ids(given: Sequence, frames: int, bodies: int, single: bool) -> list[list[Hashable]]:
    rows = [list(given)] if single else [list(row) for row in given]
    if len(rows) != frames or any(len(row) != bodies for row in rows):
        expected = (bodies,) if single else (frames, bodies)
        raise ValueError(f"ids: expected one for each body, {expected}, got {[len(row) for row in rows]}")
    return rows


def frames_of(clip: RawClip, *, by_id: bool = False) -> list[Frame]:
    """The frames of a recording.

    Args:
        clip: the recording.
        by_id: bodies are who the sensor says, where it says so; otherwise, who stands in which place of the list.
    """
    frames = []
    for number in range(clip.joints.shape[1]):
        seen = np.flatnonzero(clip.joints[:, number].any(axis=(0, 1)))
        known = clip.body_ids[number][seen] if by_id and clip.body_ids is not None else seen
        frames.append(
            Frame(
                clip.joints[:, number][..., seen].astype(np.float32),
                tuple(known.tolist()),
                None if clip.confidence is None else clip.confidence[number][:, seen].astype(np.float32),
            )
        )
    return frames


def together(
    frames: Sequence[Frame], axes: int, joints: int, *, by_id: bool, image_size: tuple[int, int] | None = None
) -> RawClip:
    """The recording that some frames make.

    Args:
        frames: at least one.
        axes: 3, or 2 for points in an image.
        joints: V.
        by_id: bodies are known by ids, in the order in which they appear, and the recording says so; otherwise each has
            the place that it had in the list.
        image_size: width and height in pixels.
    """
    bodies: list[Hashable] = list(dict.fromkeys(body for frame in frames for body in frame.bodies))
    if not by_id:
        bodies = list(range(1 + max((place for place in bodies if isinstance(place, int)), default=0)))
    places = {body: place for place, body in enumerate(bodies)}
    clip = np.zeros((axes, len(frames), joints, max(len(bodies), 1)), np.float32)
    confidence = np.zeros(clip.shape[1:], np.float32)
    ids = np.zeros((len(frames), clip.shape[3]), np.int64)
    for number, frame in enumerate(frames):
        at = [places[body] for body in frame.bodies]
        clip[:, number, :, at] = np.moveaxis(frame.joints, -1, 0)  # the indexed axes come first
        confidence[number][:, at] = 1 if frame.confidence is None else frame.confidence
        ids[number, at] = np.array(at, np.int64) + 1
    sure = confidence if any(frame.confidence is not None for frame in frames) else None
    return RawClip(clip, sure, image_size, None, ids if by_id else None)


class Resampler:
    """Turns frames that come at any times into frames that are equally far apart, as those of the training were.

    Between two frames each joint that both have is interpolated linearly. Of one that only one of them has, the nearer
    frame says whether it is there: nothing is interpolated with a joint that was lost. The frames that come out are as
    many at any rate of those that go in, so what is derived from their differences is motion in units of time.

    Args:
        frame_rate: of what comes out, in frames per second.
        longest_gap: in seconds; two frames that are farther apart have nothing to do with each other.

    Example:
        >>> slow = [Frame(np.full((3, 1, 1), value, np.float32), (0,)) for value in (1, 3)]
        >>> resampler = Resampler(frame_rate=30, longest_gap=1)
        >>> [frame.joints[0, 0, 0].tolist() for at, frame in zip((0, 1 / 15), slow) for frame in resampler(frame, at)]
        [1.0, 2.0, 3.0]
    """

    def __init__(self, frame_rate: float, longest_gap: float) -> None:
        self.frame_rate = frame_rate
        self.longest_gap = longest_gap
        self.origin = 0.0
        self._ticks = 0  # frames that came out since the origin
        self._last: tuple[Frame, float] | None = None

    def interrupts(self, time: float) -> bool:
        """Whether a frame of that time has nothing to do with those before: a new stream begins."""
        return self._last is None or time - self._last[1] > self.longest_gap

    def __call__(self, frame: Frame, time: float) -> list[Frame]:
        """Takes a frame and its time, which must not be before the last one's, and returns those that are due."""
        if self.interrupts(time):
            self.origin, self._ticks, self._last = time, 0, (frame, time)
        assert self._last is not None
        before, then = self._last
        due = []
        while (tick := self.origin + self._ticks / self.frame_rate) <= time + _EARLY / self.frame_rate:
            due.append(_between(before, frame, (tick - then) / (time - then) if time > then else 1.0))
            self._ticks += 1
        self._last = (frame, time)
        return due


def _between(before: Frame, after: Frame, share: float) -> Frame:
    """The frame at a share of the time between two."""
    if share > 1 - 1e-6:
        return after
    if share < 1e-6:
        return before
    bodies = tuple(dict.fromkeys((*before.bodies, *after.bodies)))
    (first, sure_first), (second, sure_second) = before.of(bodies), after.of(bodies)
    near, sure = (first, sure_first) if share < 0.5 else (second, sure_second)
    both = first.any(axis=0) & second.any(axis=0) & (sure_first > 0) & (sure_second > 0)
    weight = np.float32(share)
    joints = np.where(both, first + weight * (second - first), near)
    seen = np.flatnonzero(joints.any(axis=(0, 1)))
    confidence = None
    if before.confidence is not None or after.confidence is not None:
        confidence = np.where(both, sure_first + weight * (sure_second - sure_first), sure)[:, seen]
    return Frame(joints[..., seen], tuple(bodies[place] for place in seen), confidence)

"""Which bodies of a recording are kept, and who is who from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from .formats import RawClip

__all__ = ["BodySelection", "KeepBodies", "KeptBodies"]

KeepBodies = Literal["first", "energy", "denoised"]
Joints = NDArray[np.floating]  # (2 or 3, frames, V, bodies)
Places = NDArray[np.int64]  # (frames, K): where in each frame's list of bodies the K-th one stands, -1 if nowhere

_NOWHERE = 1e30  # the extent of a body without a joint that could be placed
NOISE_FRAMES = 11  # a body in no more frames is noise
NOISE_SPREAD = 0.8  # in a sound frame a body is at most this many times as wide as it is high
NOISE_SHARE = 0.69754  # a body of which this share of the frames is not sound is noise


class KeptBodies(NamedTuple):
    """A clip with the bodies that are to be kept standing first.

    Args:
        clip: the clip.
        left_out: how many bodies find no place among those kept.
        noise: how many bodies were taken for noise.
    """

    clip: RawClip
    left_out: int
    noise: int


@dataclass(frozen=True)
class BodySelection:
    """Chooses which M of a recording's bodies are kept, and in which order.

    Args:
        bodies: M.
        keep: ``first``, in the order in which the recording lists them in each frame, as Wei et al. (arXiv 2309.12009)
            and ST-GCN do; ``energy``, those that move most, by the sum over x, y and z of the standard deviation over
            all joints and all frames in which the body is seen, as 2s-AGCN (Shi et al., CVPR 2019) and CMD (Mao et al.,
            ECCV 2022) do; or ``denoised``, by the rules of CTR-GCN (Chen et al., ICCV 2021): bodies seen in no more
            than 11 frames are noise, then those that in 69.754 % of their frames or more are wider than 0.8 times
            their height, as long as another is left; of the others those come first that move most, by the sum over x,
            y and z of the variance over joints and frames (without the frames that are too wide, if that is less), and
            each takes the first of the M places that nobody has at the time.
        track: follow bodies through the frames. A body is who has its ``body_id``; otherwise, in each frame, bodies
            and those seen before are matched so that the distances are least in sum. A body that is farther than its
            own size from where every other was last seen is a new one. Bodies that follow each other in time share one
            of the M places. Without it, the m-th body of one frame is the m-th of the next, unless ``denoised``
            tells them apart by their ids.

    Example:
        >>> joints = np.zeros((3, 20, 25, 2))
        >>> joints[..., 0], joints[0, :, :, 1] = 1, np.arange(20)[:, None]  # one stands still, the other walks
        >>> kept = BodySelection(bodies=1, keep="energy")(RawClip(joints))
        >>> kept.clip.joints[0, -1, 0].tolist(), kept.left_out
        ([19.0, 1.0], 1)
    """

    bodies: int
    keep: KeepBodies = "first"
    track: bool = False

    def __post_init__(self) -> None:
        choices = get_args(KeepBodies)
        if self.keep not in choices:
            raise ValueError(f"keep_bodies: expected one of {choices}, got {self.keep!r}")

    @property
    def heeds_ids(self) -> bool:
        """Whether bodies are told apart by the ids that a recording may have."""
        return self.track or self.keep == "denoised"

    def __call__(self, clip: RawClip) -> KeptBodies:
        """Brings the bodies to keep to the front; coordinates that are not finite stay, and say nothing of a body."""
        present = np.asarray(clip.joints.any(axis=(0, 2)))  # (frames, bodies)
        as_recorded = KeptBodies(clip, int(present[:, self.bodies :].any(axis=0).sum()), 0)
        if (self.keep == "first" and not self.track) or not present.any():
            return as_recorded
        joints = np.where(np.isfinite(clip.joints), clip.joints, 0)
        ids = _distinct(clip.body_ids, present)
        if self.track:
            places = _followed(joints, present, ids)
        elif self.keep == "denoised" and ids is not None:
            places = _by_id(present, ids)
        else:
            places = np.where(present, np.arange(present.shape[1]), -1)
            places = places[:, present.any(axis=0)]
        order, noise = self._order(joints, places)
        places = places[:, order]
        if self.track or self.keep == "denoised":
            places, left_out = _shared(places, self.bodies)
        else:
            left_out = max(0, len(order) - self.bodies)
        return KeptBodies(_rearranged(clip, places), left_out, noise)

    def _order(self, joints: Joints, places: Places) -> tuple[NDArray[np.int64], int]:
        """The bodies to keep, the most important first, and how many were taken for noise."""
        count = places.shape[1]
        if self.keep == "first":
            return np.arange(count), 0
        tracks = [_track(joints, places[:, body]) for body in range(count)]
        if self.keep == "energy":
            energy = [track.std(axis=(1, 2)).sum() for track in tracks]
            return np.argsort(-np.array(energy), kind="stable"), 0
        sound = _without_noise(tracks)
        motion = [_motion(tracks[body]) for body in sound]
        return np.array(sound)[np.argsort(-np.array(motion), kind="stable")], count - len(sound)


def _distinct(ids: NDArray[np.integer] | None, present: NDArray[np.bool_]) -> NDArray[np.integer] | None:
    """The ids, unless two bodies of a frame have the same: then they tell nobody apart."""
    if ids is None or any(len(set(row[seen])) < seen.sum() for row, seen in zip(ids, present, strict=True)):
        return None
    return ids


def _by_id(present: NDArray[np.bool_], ids: NDArray[np.integer]) -> Places:
    """Who has the same id is the same body; in the order in which they are first seen."""
    frames, positions = np.nonzero(present)
    found = {identity: column for column, identity in enumerate(dict.fromkeys(ids[frames, positions].tolist()))}
    places = np.full((len(present), len(found)), -1)
    places[frames, [found[identity] for identity in ids[frames, positions].tolist()]] = positions
    return places


def _followed(joints: Joints, present: NDArray[np.bool_], ids: NDArray[np.integer] | None) -> Places:
    """Matches the bodies of each frame with those seen before; in the order in which they are first seen."""
    columns: list[NDArray[np.int64]] = []
    centers: list[NDArray[np.floating]] = []  # where each body was last seen
    names: list[int] = []
    for frame in range(len(present)):
        here = np.flatnonzero(present[frame])
        if not len(here):
            continue
        center, size = _center_and_size(joints[:, frame][..., here])
        cost = np.full((len(here), len(columns) + len(here)), size[:, None])  # those on the right are new bodies
        if columns:
            cost[:, : len(columns)] = np.linalg.norm(center[:, None] - np.array(centers), axis=2)
        if ids is not None and columns:
            same = ids[frame, here][:, None] == np.array(names)
            cost[:, : len(columns)][same] = -1  # nothing is nearer than this
        for body, column in zip(*linear_sum_assignment(cost), strict=True):
            if column >= len(columns):
                column = len(columns)
                columns.append(np.full(len(present), -1))
                centers.append(center[body])
                names.append(0)
            columns[column][frame] = here[body]
            if size[body] < _NOWHERE:
                centers[column] = center[body]
            if ids is not None:
                names[column] = ids[frame, here[body]]
    return np.stack(columns, axis=1)


def _center_and_size(bodies: Joints) -> tuple[Joints, Joints]:
    """The means (n, axes) of the joints that are seen, and their greatest extents (n,) along an axis.

    Of a body without any, which is nowhere, the extent is so great that it is not taken for somebody new.
    """
    seen = bodies.any(axis=0)
    center = bodies.sum(axis=1) / seen.sum(axis=0).clip(min=1)
    highest, lowest = np.where(seen, bodies, -np.inf).max(axis=1), np.where(seen, bodies, np.inf).min(axis=1)
    size = (highest - lowest).max(axis=0)
    return center.T, np.where(np.isfinite(size), size, _NOWHERE)


def _track(joints: Joints, place: NDArray[np.int64]) -> Joints:
    """One body in the frames in which it is seen, (axes, frames, V)."""
    frames = np.flatnonzero(place >= 0)
    return np.moveaxis(joints, 2, -1)[:, frames, place[frames]]


def _too_wide(track: Joints) -> NDArray[np.bool_]:
    width, height = (track[axis].max(axis=1) - track[axis].min(axis=1) for axis in (0, 1))
    return np.asarray(width > NOISE_SPREAD * height)


def _without_noise(tracks: list[Joints]) -> list[int]:
    """The bodies that are no noise; where all are, all."""
    sound = [body for body, track in enumerate(tracks) if track.shape[1] > NOISE_FRAMES] or list(range(len(tracks)))
    for body in list(sound):
        if len(sound) > 1 and _too_wide(tracks[body]).mean() >= NOISE_SHARE:
            sound.remove(body)
    return sound


def _motion(track: Joints) -> float:
    def variance(part: Joints) -> float:
        return float(part.var(axis=(1, 2)).sum())

    narrow = track[:, ~_too_wide(track)]
    return min(variance(track), variance(narrow)) if narrow.shape[1] else variance(track)


def _shared(places: Places, bodies: int) -> tuple[Places, int]:
    """Puts bodies that are there at different times in one place; also returns how many find none.

    From its first to its last frame a place is taken; only in one frame may two bodies meet, which is then the later's.
    """
    shared: list[NDArray[np.int64]] = []
    left_out = 0
    for place in places.T:
        frames = np.flatnonzero(place >= 0)
        for taken in shared:
            others = np.flatnonzero(taken >= 0)
            if min(frames[-1], others[-1]) - max(frames[0], others[0]) <= 0:
                taken[frames] = place[frames]
                break
        else:
            if len(shared) < bodies:
                shared.append(place.copy())
            else:
                left_out += 1
    return np.stack(shared, axis=1), left_out


def _rearranged(clip: RawClip, places: Places) -> RawClip:
    frames = np.arange(len(places))[:, None]
    seen = places >= 0
    joints = np.where(seen[..., None], np.moveaxis(clip.joints, 2, -1)[:, frames, places], 0)  # (axes, frames, K, V)
    confidence = clip.confidence
    if confidence is not None:
        confidence = np.moveaxis(np.where(seen[..., None], np.moveaxis(confidence, 1, -1)[frames, places], 0), -1, 1)
    ids = None if clip.body_ids is None else np.where(seen, clip.body_ids[frames, places], 0)
    return replace(clip, joints=np.moveaxis(joints, -1, 2), confidence=confidence, body_ids=ids)

"""Single joints that a tracker lost, while it saw the rest of the body."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ikem_ext.skeleton import SkeletonLayout

__all__ = ["LostJoints", "fill_lost_joints", "find_lost_joints", "interpolate"]

LostJoints = Literal["zero", "nan", "keep"]

_LEAST_WEIGHT = 1e-3  # of a frame that is interpolated from, so that two unsure ones have a mean


def find_lost_joints(
    joints: NDArray[np.float32], confidence: NDArray[np.float32], lost_joints: LostJoints | None
) -> NDArray[np.bool_]:
    """Finds joints that are exactly zero, not a number, or of no confidence.

    One joint alone of a body in space that is zero in all frames is no lost one: that is where a recording that was
    centered has its origin.

    Args:
        joints: (3, frames, V, M), as recorded; or (2, frames, V, M), points in an image.
        confidence: (frames, V, M).
        lost_joints: ``keep`` finds none.

    Returns:
        (frames, V, M), true also for all joints of a body that is not seen.
    """
    if lost_joints == "keep":
        return np.zeros(joints.shape[1:], dtype=bool)
    lost = np.isnan(joints).any(axis=0) | ~joints.any(axis=0) | (confidence == 0)
    seen = ~lost.all(axis=1)  # (frames, M)
    if len(joints) == 3:
        never = (lost | ~seen[:, None]).all(axis=0)  # (V, M)
        origin = never & (never.sum(axis=0) == 1) & ~np.nan_to_num(joints).any(axis=(0, 1))
        lost &= ~(origin & seen[:, None])
    return lost


def interpolate(
    track: NDArray[np.float32], known: NDArray[np.intp], gaps: NDArray[np.intp], weights: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Interpolates between the frames around each gap.

    Of the frame ``a`` before the frame ``t`` and ``b`` after it the one has the weight ``w_a / (t - a)`` and the other
    ``w_b / (b - t)``, divided by their sum: without weights that is linear interpolation.

    Args:
        track: (axes, frames, V).
        known: the frames that are known, ascending.
        gaps: those that are not, each of them between two known ones.
        weights: (frames, V); at least 0.001 is taken.

    Returns:
        (axes, gaps, V).
    """
    after = np.searchsorted(known, gaps)
    first, last = known[after - 1], known[after]
    before, behind = (gaps - first)[:, None], (last - gaps)[:, None]
    if weights is not None:
        sure = np.maximum(weights.astype(np.float64), _LEAST_WEIGHT)
        before, behind = before * sure[last], behind * sure[first]
    share = (before / (before + behind)).astype(np.float32)
    return track[:, first] * (1 - share) + track[:, last] * share


def fill_lost_joints(
    joints: NDArray[np.float32],
    lost: NDArray[np.bool_],
    layout: SkeletonLayout,
    confidence: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Fills in single joints of bodies that are seen.

    Between two frames in which it is seen, a joint is interpolated (see :func:`interpolate`; confidences are the
    weights). Before the first of them and after the last it goes with the body: it moves as those joints do on the
    mean that are seen in the frame and in the nearest one that has the joint. A joint that a body never has is put
    where those are that the body has and that lie nearest to it on the graph, in the middle of them.

    Args:
        joints: (2 or 3, frames, V, M).
        lost: (frames, V, M), which joints to fill in, none of a body that is not seen.
        layout: the skeleton.
        confidence: (frames, V, M).

    Example:
        >>> arm = SkeletonLayout("arm", ("shoulder", "elbow", "hand"), parents=(0, 0, 1), torso=(0, 1, 2))
        >>> joints = np.ones((3, 4, 3, 1), np.float32)
        >>> joints[0, :, :, 0] = [[1, 2, 3], [2, 0, 4], [3, 4, 0], [4, 5, 0]]
        >>> fill_lost_joints(joints, joints[0] == 0, arm)[0, :, :, 0].tolist()
        [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [3.0, 4.0, 5.0], [4.0, 5.0, 6.0]]
    """
    filled = joints.copy()
    present = np.asarray(joints.any(axis=(0, 2)))  # (frames, M)
    for body in np.flatnonzero(lost.any(axis=(0, 1))):
        seen = present[:, body, None] & ~lost[..., body]  # (frames, V)
        there = np.flatnonzero(seen.any(axis=0))
        for joint in np.flatnonzero(lost[..., body].any(axis=0)):
            known, gaps = np.flatnonzero(seen[:, joint]), np.flatnonzero(lost[:, joint, body])
            if len(known) == 0:
                continue
            inside = gaps[(known[0] < gaps) & (gaps < known[-1])]
            track = joints[:, :, [joint], body]
            weights = None if confidence is None else confidence[:, [joint], body]
            filled[:, inside, joint, body] = interpolate(track, known, inside, weights)[..., 0]
            for frame in np.setdiff1d(gaps, inside):
                nearest = known[0] if frame < known[0] else known[-1]
                both = seen[frame] & seen[nearest]
                moved = (joints[:, frame, both, body] - joints[:, nearest, both, body]).sum(axis=1) / max(both.sum(), 1)
                filled[:, frame, joint, body] = joints[:, nearest, joint, body] + moved
        for joint in np.flatnonzero(lost[..., body].any(axis=0) & ~seen.any(axis=0)):
            distance = np.array(layout.distances(int(joint)))[there]
            around = filled[..., there[distance == distance.min()], body].mean(axis=2)
            frames = lost[:, joint, body]
            filled[:, frames, joint, body] = around[:, frames]
    return filled

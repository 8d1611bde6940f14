"""One skeleton read as another: joints by their names, and means of others where a skeleton has no such joint."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .skeleton import SkeletonLayout

__all__ = ["LayoutMapping", "map_layouts"]


@dataclass(frozen=True, eq=False)
class LayoutMapping:
    """How the joints of one skeleton are had from those of another; :meth:`SkeletonLayout.mapping` makes it.

    Args:
        source: the skeleton that is there.
        target: the skeleton that is wanted.
        weights: float32 (target V, source V); each row sums to 1, or to 0 for a joint that cannot be had.
        approximated: for each joint of the target that the source does not have, the joints that stand for it.
        unmapped: the joints of the target that cannot be had, by name.
        unused: the joints of the source that the target does not take, by name.

    Example:
        >>> mapping = SkeletonLayout.mapping("coco17", "ntu25")
        >>> poses = np.ones((3, 50, 17, 1), np.float32)  # (3, frames, V, bodies)
        >>> mapping(poses).shape
        (3, 50, 25, 1)
    """

    source: SkeletonLayout
    target: SkeletonLayout
    weights: NDArray[np.float32]
    approximated: dict[str, tuple[str, ...]]
    unmapped: tuple[str, ...]
    unused: tuple[str, ...]

    def __call__(self, joints: NDArray[np.floating]) -> NDArray[np.float32]:
        """The joints (..., source V, M) as those of the target, (..., target V, M)."""
        return np.asarray(self.weights @ joints, dtype=np.float32)

    def require_all(self) -> None:
        """Refuses a mapping that leaves joints of the target without a place.

        Raises:
            ValueError: there are such joints; they are named.
        """
        if self.unmapped:
            raise ValueError(
                f"layout {self.target.name!r} has joints that layout {self.source.name!r} says nothing of: "
                + ", ".join(self.unmapped)
            )


# Names for one joint, the first of which is used here. A ``*`` stands for left and right.
_SYNONYMS = """
    hip_center spine_base mid_hip hip pelvis
    shoulder_center spine_shoulder thorax
    spine spine_mid torso spine_navel spine2
    chest spine_chest spine3
    *_clavicle *_collar
    thumb_base thumb_cmc
    thumb_first thumb_mcp
    thumb_second thumb_ip
    index_base index_finger_mcp
    index_first index_finger_pip
    index_second index_finger_dip
    index_tip index_finger_tip
    middle_base middle_finger_mcp
    middle_first middle_finger_pip
    middle_second middle_finger_dip
    middle_tip middle_finger_tip
    ring_base ring_finger_mcp
    ring_first ring_finger_pip
    ring_second ring_finger_dip
    ring_tip ring_finger_tip
    pinky_base pinky_mcp
    pinky_first pinky_pip
    pinky_second pinky_dip
"""

# What stands for a joint that is missing: the mean of the joints named, or, where these cannot be had either, of those
# behind the next bar.
_STAND_INS = """
    hip_center: left_hip right_hip
    shoulder_center: left_shoulder right_shoulder | neck
    neck: shoulder_center
    spine: hip_center shoulder_center
    spine1: hip_center spine
    chest: spine shoulder_center
    head: left_ear right_ear | left_eye right_eye | nose | neck
    nose: left_eye right_eye | head
    *_eye: nose
    *_eye_inner: *_eye
    *_eye_outer: *_eye
    *_ear: head
    *_mouth: nose
    *_clavicle: shoulder_center *_shoulder
    *_hip: hip_center
    *_wrist: *_hand
    *_hand: *_index *_pinky | *_wrist
    *_hand_tip: *_hand
    *_thumb: *_hand
    *_index: *_hand
    *_pinky: *_hand
    *_ankle: *_heel | *_foot
    *_heel: *_ankle
    *_foot: *_big_toe *_small_toe | *_foot_index | *_ankle
    *_foot_index: *_big_toe *_small_toe | *_foot
    *_big_toe: *_foot_index | *_foot
    *_small_toe: *_foot_index | *_foot
    palm: wrist middle_base
"""


def _sides(text: str) -> list[str]:
    lines = [line.strip() for line in text.strip().splitlines()]
    return [line.replace("*", side) for line in lines for side in (("left", "right") if "*" in line else ("",))]


_COMMON_NAME = {name: line.split()[0] for line in _sides(_SYNONYMS) for name in line.split()}
_STAND_INS_OF = {
    name: [group.split() for group in groups.split("|")]
    for name, groups in (line.split(":") for line in _sides(_STAND_INS))
}


def _common_name(joint: str) -> str:
    return _COMMON_NAME.get(joint, joint)


def map_layouts(source: SkeletonLayout, target: SkeletonLayout) -> LayoutMapping:
    """See :meth:`SkeletonLayout.mapping`."""
    places = {name: joint for joint, name in enumerate(source.joint_names)}
    for name, joint in list(places.items()):
        places.setdefault(_common_name(name), joint)

    def row(joint: str, asked: frozenset[str]) -> NDArray[np.float64] | None:
        """The weights that make up a joint, None if it cannot be had without those that were asked for it."""
        if joint in places:
            return np.eye(source.num_joints)[places[joint]]
        for group in _STAND_INS_OF.get(joint, []):
            rows = [None if other in asked else row(other, asked | {joint}) for other in group]
            found = [each for each in rows if each is not None]
            if len(found) == len(group):
                return np.mean(found, axis=0)
        return None

    weights = np.zeros((target.num_joints, source.num_joints))
    approximated, unmapped = {}, []
    for joint, name in enumerate(target.joint_names):
        own = places.get(name, places.get(_common_name(name)))
        found = np.eye(source.num_joints)[own] if own is not None else row(_common_name(name), frozenset())
        if found is None:
            unmapped.append(name)
            continue
        weights[joint] = found
        if own is None:
            approximated[name] = tuple(source.joint_names[place] for place in np.flatnonzero(found))
    unused = [name for place, name in enumerate(source.joint_names) if not weights[:, place].any()]
    return LayoutMapping(source, target, weights.astype(np.float32), approximated, tuple(unmapped), tuple(unused))

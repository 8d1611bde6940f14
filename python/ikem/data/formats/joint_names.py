"""Joints by their names, however a recording spells and orders them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ikem_ext import LAYOUTS, SkeletonLayout

__all__ = ["UnknownJointsError", "find_layout", "joint_order"]

# What the sensors and their users call the same joint of the trunk.
_SYNONYMS = (
    frozenset(("neck", "shoulder_center", "spine_shoulder", "spine_chest")),
    frozenset(("spine", "spine_mid", "spine_navel", "torso")),
    frozenset(("hip_center", "spine_base", "pelvis", "mid_hip", "root")),
)
_SIDES = {"l": "left", "r": "right", "left": "left", "right": "right"}


class UnknownJointsError(ValueError):
    """Names that are not those of a layout."""


def joint_order(names: Sequence[str], layout: SkeletonLayout) -> list[int]:
    """Where a recording has each joint of a layout.

    Spelling does not matter (``ShoulderLeft``, ``l_shoulder``, ``left shoulder``), nor which of its names a joint of
    the trunk has.

    Args:
        names: the recording's joints, in its order.
        layout: the skeleton.

    Returns:
        For each joint of the layout its index in ``names``.

    Raises:
        UnknownJointsError: the joints are not the same; the message names those that differ.

    Example:
        >>> from ikem_ext import SkeletonLayout
        >>> arm = SkeletonLayout("arm", ("left_hand", "left_elbow", "spine"), parents=(1, 2, 2), torso=(2, 1, 0))
        >>> joint_order(["torso", "HandLeft", "l_elbow"], arm)
        [1, 2, 0]
    """
    spelled = {_spelled(name): index for index, name in enumerate(names)}
    wanted = [_spelled(name) for name in layout.joint_names]
    free = spelled.keys() - set(wanted)
    found = [spelled.get(name, spelled.get(_synonym(name, free))) for name in wanted]
    absent = [joint for joint, index in zip(layout.joint_names, found, strict=True) if index is None]
    unknown = [name for index, name in enumerate(names) if index not in found]
    if absent or unknown:
        raise UnknownJointsError(
            f"the joints are not those of the layout {layout.name}: it has no {unknown or 'others'}, "
            f"and has {absent or 'no others'}"
        )
    return [index for index in found if index is not None]


def find_layout(names: Sequence[str]) -> SkeletonLayout | None:
    """The built-in layout that has these joints, in this order if there is one, or else in another; None without any.

    Example:
        >>> find_layout(LAYOUTS["utd20"].joint_names).name
        'utd20'
    """
    for layout in LAYOUTS.values():
        if layout.joint_names == tuple(names):
            return layout
    for layout in LAYOUTS.values():
        try:
            joint_order(names, layout)
        except UnknownJointsError:
            continue
        return layout
    return None


def _spelled(name: str) -> str:
    """Small letters, words joined by underscores, the side first."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]
    sides = [_SIDES[word] for word in words if word in _SIDES]
    return "_".join(sides + ["center" if word == "centre" else word for word in words if word not in _SIDES])


def _synonym(name: str, others: set[str]) -> str:
    """What else the joint is called among the names that are no joint of the layout."""
    group = next((group for group in _SYNONYMS if name in group), frozenset())
    return next(iter(sorted(group & others)), "")

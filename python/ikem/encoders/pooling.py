"""How a feature map becomes a vector: what is averaged, and what is kept apart."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ikem_ext.skeleton import SkeletonLayout

Pooling = Literal["mean", "joints", "parts"]

_ARM = {"clavicle", "collar", "shoulder", "elbow", "wrist", "hand", "thumb", "index", "pinky"}
_LEG = {"hip", "knee", "ankle", "foot", "heel", "toe"}
_FINGERS = ("thumb", "index", "middle", "ring", "pinky")


def body_parts(layout: SkeletonLayout) -> dict[str, tuple[int, ...]]:
    """Return the joints of each part of a skeleton, told by their names: both arms, both legs, and the trunk.

    Shoulders and hips belong to the limbs, the head to the trunk. Of a hand: its fingers, and the palm.

    Raises:
        ValueError: if the names tell of no limbs.

    Example:
        >>> from ikem_ext.skeleton import get_layout
        >>> body_parts(get_layout("sbu15"))["left_arm"]
        (3, 4, 5)
        >>> list(body_parts(get_layout("ntu25")))
        ['trunk', 'left_arm', 'right_arm', 'left_leg', 'right_leg']
    """
    parts: dict[str, list[int]] = {}
    for joint, name in enumerate(layout.joint_names):
        parts.setdefault(_part(name), []).append(joint)
    if "" in parts and any(part in parts for part in _FINGERS):
        parts["palm"] = parts.pop("")
    elif "" in parts:
        parts = {"trunk": parts.pop(""), **parts}
    if len(parts) < 2:
        raise ValueError(
            f"encoder.pooling: expected mean or joints, as the names of layout {layout.name!r} tell of no arms, "
            f"legs or fingers: {', '.join(layout.joint_names)}"
        )
    return {part: tuple(joints) for part, joints in parts.items()}


def _part(name: str) -> str:
    """The limb or finger that a joint belongs to, from its name; empty for the rest."""
    first, *others = name.split("_")
    if first in ("left", "right") and _LEG & set(others):
        return f"{first}_leg"  # before the arm: a foot has an index too
    if first in ("left", "right") and _ARM & set(others):
        return f"{first}_arm"
    return first if first in _FINGERS else ""


def group_means(pooling: Pooling, layout: SkeletonLayout) -> Tensor | None:
    """Return what maps features of joints (..., V) to those that are kept apart (..., V'), or None for all in one.

    Example:
        >>> from ikem_ext.skeleton import get_layout
        >>> group_means("parts", get_layout("ntu25")).shape, group_means("joints", get_layout("ntu25")).shape
        (torch.Size([25, 5]), torch.Size([25, 25]))
    """
    if pooling == "mean":
        return None
    if pooling == "joints":
        return torch.eye(layout.num_joints)
    parts = body_parts(layout)
    means = torch.zeros(layout.num_joints, len(parts))
    for place, joints in enumerate(parts.values()):
        means[list(joints), place] = 1 / len(joints)
    return means

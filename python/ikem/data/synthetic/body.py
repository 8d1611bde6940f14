"""The body: which angles a pose has, their limits, and the bones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ikem_ext import LAYOUTS

Array = NDArray[np.float64]
Pose = dict[str, Array]

LAYOUT = LAYOUTS["ntu25"]
JOINTS = {name: index for index, name in enumerate(LAYOUT.joint_names)}
SIDES = ("left", "right")

SIDE_LIMITS = {
    "shoulder_elevation": (-50, 170),
    "shoulder_plane": (-40, 135),
    "shoulder_rotation": (-90, 80),
    "elbow": (0, 145),
    "forearm_pronation": (-80, 80),
    "wrist_flexion": (-60, 70),
    "hip_flexion": (-25, 120),
    "hip_abduction": (-20, 40),
    "hip_rotation": (-35, 40),
    "knee": (0, 140),
    "ankle_plantarflexion": (-25, 45),
}
LIMITS: dict[str, tuple[float, float]] = {
    "pelvis_pitch": (-15, 60),
    "pelvis_roll": (-15, 15),
    "turn": (-180, 180),
    "spine_flexion": (-25, 70),
    "spine_bend": (-30, 30),
    "spine_twist": (-40, 40),
    "neck_flexion": (-40, 45),
    "neck_bend": (-35, 35),
    "neck_twist": (-65, 65),
    **{f"{side}_{angle}": limit for side in SIDES for angle, limit in SIDE_LIMITS.items()},
    "jump": (0, 0.5),  # meters, the only entry that is not an angle
}
"""Anatomical limits of each angle in degrees, and of ``jump`` in meters."""

MIRRORED = ("pelvis_roll", "turn", "spine_bend", "spine_twist", "neck_bend", "neck_twist")


class _Part(NamedTuple):
    parent: str  # as seen from the pelvis; the layout's tree hangs from the chest
    bone: tuple[float, float, float]  # from the parent, at rest, in fractions of the body's height
    noise: float  # standard deviation of the sensor's noise in meters


# Parents first. Limbs are those of the right side; the left ones are their mirror image.
PARTS = {
    "spine_base": _Part("", (0, 0, 0), 0.002),
    "spine_mid": _Part("spine_base", (0, 0.158, 0), 0.002),
    "spine_shoulder": _Part("spine_mid", (0, 0.118, 0), 0.002),
    "neck": _Part("spine_shoulder", (0, 0.04, 0), 0.003),
    "head": _Part("neck", (0, 0.072, -0.008), 0.003),
    "shoulder": _Part("spine_shoulder", (0.088, -0.025, 0), 0.005),
    "elbow": _Part("shoulder", (0, -0.155, 0), 0.008),
    "wrist": _Part("elbow", (0, -0.138, 0), 0.011),
    "hand": _Part("wrist", (0, -0.036, 0), 0.016),
    "hand_tip": _Part("hand", (0, -0.032, 0), 0.022),
    "thumb": _Part("hand", (-0.008, -0.018, -0.018), 0.022),
    "hip": _Part("spine_base", (0.044, -0.02, 0), 0.003),
    "knee": _Part("hip", (0, -0.222, 0), 0.006),
    "ankle": _Part("knee", (0, -0.212, 0), 0.01),
    "foot": _Part("ankle", (0.006, -0.03, -0.064), 0.016),
}


def part_of(joint: str) -> str:
    """The joint's name without its side, a key of that table."""
    return joint.removeprefix("left_").removeprefix("right_")

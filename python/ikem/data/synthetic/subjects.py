"""People: what each keeps from clip to clip, how they stand, and which hand they use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .body import LIMITS, MIRRORED, PARTS, Array, Pose
from .posing import Clips, blend, both, crouch, one


@dataclass(frozen=True)
class Subjects:
    """What a person keeps from clip to clip; arrays (subjects,)."""

    sizes: dict[str, Array]  # see forward_kinematics
    amplitude: Array
    tempo: Array
    left_handed: NDArray[np.bool_]
    posture: dict[str, Array]

    @classmethod
    def draw(cls, count: int, rng: np.random.Generator) -> Subjects:
        """So many people, who differ in body, tempo and habits."""
        height = np.clip(rng.normal(1.70, 0.10, count), 1.45, 1.98)
        breadth = rng.normal(1, 0.08, count)
        proportions = {part: rng.normal(1, 0.04, count) for part in PARTS}
        for part in ("shoulder", "hip"):
            proportions[part] = proportions[part] * breadth
        return cls(
            sizes={part: height * np.clip(share, 0.8, 1.2) for part, share in proportions.items()},
            amplitude=rng.uniform(0.78, 1.15, count),
            tempo=rng.uniform(0.78, 1.28, count),
            left_handed=rng.random(count) < 0.15,
            posture={
                "spine_flexion": rng.uniform(-2, 14, count),
                "neck_flexion": rng.uniform(-8, 12, count),
                "spine_bend": rng.uniform(-4, 4, count),
                **both(
                    shoulder_elevation=rng.uniform(4, 16, count),
                    shoulder_plane=rng.uniform(-5, 40, count),
                    shoulder_rotation=rng.uniform(-10, 25, count),
                    elbow=rng.uniform(6, 30, count),
                    forearm_pronation=rng.uniform(-10, 50, count),
                    hip_abduction=rng.uniform(1, 9, count),
                    hip_rotation=rng.uniform(-18, 4, count),
                ),
            },
        )


def idle_pose(subjects: Subjects, who: NDArray[np.int64], clips: Clips) -> Pose:
    """Standing as the person stands, swaying a little; sometimes the free hand is on the hip."""
    pose = {name: np.zeros_like(clips.seconds) for name in LIMITS}
    for name, value in subjects.posture.items():
        pose[name] += value[who][:, None] + clips.draw(-3, 3)
    crouch(pose, np.ones_like(clips.seconds), clips.draw(1, 5), clips.draw(2, 9), clips.draw(-2, 4))
    on_hip = clips.draw(0, 1) < 0.2
    akimbo = one("left", shoulder_elevation=48, shoulder_plane=-30, shoulder_rotation=60, elbow=91)
    blend(pose, np.where(on_hip, 1.0, 0.0), **akimbo)
    swaying = ["spine_flexion", "spine_bend", "spine_twist", "neck_flexion", "neck_twist", "pelvis_roll"]
    for name in [*swaying, *both(shoulder_elevation=0, elbow=0)]:
        sway = np.sin(clips.cycle(0.25, 0.6)) + 0.6 * np.sin(clips.cycle(0.55, 0.4))
        pose[name] += clips.draw(0.5, 2.5) * sway
    return pose


def mirror(pose: Pose, mirrored: NDArray[np.bool_]) -> Pose:
    """Swaps left and right in the clips that ``mirrored`` (n,) marks."""
    swapped = {"left": "right", "right": "left"}

    def twin(name: str) -> Array:
        side, _, angle = name.partition("_")
        other = pose[f"{swapped[side]}_{angle}"] if side in swapped else pose[name]
        return -other if name in MIRRORED else other

    return {name: np.where(mirrored[:, None], twin(name), pose[name]) for name in LIMITS}

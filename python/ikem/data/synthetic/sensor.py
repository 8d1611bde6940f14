"""The sensor: where it stands, and what it gets wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .body import JOINTS, LAYOUT, PARTS, Array, part_of
from .kinematics import rotation


def to_camera(
    joints: Array, inside: NDArray[np.bool_], max_yaw: float, rng: np.random.Generator
) -> tuple[Array, NDArray[np.int64]]:
    """Puts each clip before one of three cameras: returns joints in its frame and its number (1 to 3)."""
    n = len(joints)
    middle = (joints[:, :, 0] * inside[..., None]).sum(1) / inside.sum(1)[:, None]
    ground = joints - (middle * (1, 0, 1))[:, None, None]
    camera = rng.integers(1, 4, n)
    # The cameras stand at -1, 0 and 1 times two thirds of the largest angle, people face them roughly.
    yaw = max_yaw * ((camera - 2) * 2 / 3 + rng.uniform(-1, 1, n) / 3)
    view = rotation("x", rng.uniform(-12, 4, n)) @ rotation("y", yaw)
    sideways, lens, distance = rng.uniform(-0.6, 0.6, n), rng.uniform(0.8, 1.6, n), rng.uniform(2.2, 4.2, n)
    feet = np.stack([sideways, -lens, distance], axis=1)
    return np.einsum("nij,ntvj->ntvi", view, ground) + feet[:, None, None], camera


def add_noise(joints: Array, level: float, rng: np.random.Generator) -> Array:
    """Jitter from frame to frame plus slow drift, each joint with its own deviation."""
    deviation = level * np.array([PARTS[part_of(name)].noise for name in LAYOUT.joint_names])[:, None]
    white = rng.standard_normal(joints.shape)
    drift = np.empty_like(white)
    drift[:, 0] = rng.standard_normal(drift[:, 0].shape)
    for frame in range(1, joints.shape[1]):
        drift[:, frame] = 0.9 * drift[:, frame - 1] + np.sqrt(1 - 0.9**2) * white[:, frame]
    return joints + deviation * (0.6 * rng.standard_normal(joints.shape) + 0.8 * drift)


def drop_joints(joints: Array, num_frames: NDArray[np.int64], level: float, rng: np.random.Generator) -> None:
    """The tracker loses joints of the limbs for a while and leaves them where it saw them last, in place."""
    limbs = [index for name, index in JOINTS.items() if part_of(name) in ("elbow", "wrist", "hand", "knee", "ankle")]
    for clip in np.flatnonzero(rng.random(len(joints)) < min(0.5 * level, 1)):
        for joint in rng.choice(limbs, size=rng.integers(1, 4), replace=False):
            start = rng.integers(1, num_frames[clip] - 1)
            stop = min(start + rng.integers(4, 18), num_frames[clip])
            joints[clip, start:stop, joint] = joints[clip, start - 1, joint]


def lose_frames(joints: Array, num_frames: NDArray[np.int64], level: float, rng: np.random.Generator) -> None:
    """Now and then the tracker loses the whole body for up to three frames, which are all zero, in place."""
    for clip in np.flatnonzero(rng.random(len(joints)) < min(0.15 * level, 1)):
        length = rng.integers(1, 4)
        start = rng.integers(1, num_frames[clip] - length)
        joints[clip, start : start + length] = 0

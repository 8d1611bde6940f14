"""Clips to show in tests."""

from __future__ import annotations

import numpy as np

from ikem.report.clips import ShownClip
from ikem_ext import get_layout


def make_clip(
    layout: str = "ntu25", *, frames: int = 20, bodies: int = 1, seed: int = 0, name: str = "clip", **known: object
) -> ShownClip:
    """Joints that wander about a fixed place, in meters; two bodies stand apart."""
    generator = np.random.default_rng(seed)
    skeleton = get_layout(layout)
    places = generator.normal(size=(3, 1, skeleton.num_joints, bodies)) + 2 * np.arange(bodies)
    joints = places + 0.05 * generator.normal(size=(3, frames, skeleton.num_joints, bodies)).cumsum(axis=1)
    return ShownClip(name, joints.astype(np.float32), skeleton, frames, 30.0, **known)  # type: ignore[arg-type]

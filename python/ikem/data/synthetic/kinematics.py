"""From the angles of a pose to the positions of joints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from .body import JOINTS, LAYOUT, LIMITS, PARTS, SIDE_LIMITS, Array, Pose


def rotation(axis: str, degrees: Array) -> Array:
    """Rotation matrices (..., 3, 3) about one axis, right-handed."""
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.zeros((*np.shape(degrees), 3, 3))
    matrix[..., range(3), range(3)] = 1
    matrix[..., first, first] = matrix[..., second, second] = cosine
    matrix[..., first, second], matrix[..., second, first] = -sine, sine
    return matrix


def limited(pose: Mapping[str, Array]) -> Pose:
    """The same pose with every angle within what a body can do."""
    return {name: np.clip(pose[name], *limits) for name, limits in LIMITS.items()}


def _orientations(pose: Pose) -> dict[str, Array]:
    """The orientation (..., 3, 3) of the bone that ends at each joint, by the joint's name."""
    x, y, z = (lambda degrees, axis=axis: rotation(axis, degrees) for axis in "xyz")
    pelvis = y(pose["turn"]) @ x(-pose["pelvis_pitch"]) @ z(-pose["pelvis_roll"])
    half_spine = y(pose["spine_twist"] / 2) @ x(-pose["spine_flexion"] / 2) @ z(-pose["spine_bend"] / 2)
    lumbar = pelvis @ half_spine
    thorax = lumbar @ half_spine
    half_neck = y(pose["neck_twist"] / 2) @ x(-pose["neck_flexion"] / 2) @ z(-pose["neck_bend"] / 2)
    neck = thorax @ half_neck
    bones = {
        "spine_base": pelvis,
        "spine_mid": lumbar,
        "spine_shoulder": thorax,
        "neck": neck,
        "head": neck @ half_neck,
    }
    for side, sign in (("left", -1), ("right", 1)):
        angle = {name: pose[f"{side}_{name}"] for name in SIDE_LIMITS}
        elevation, plane = angle["shoulder_elevation"], sign * angle["shoulder_plane"]
        girdle = thorax @ z(sign * 0.15 * np.maximum(elevation - 30, 0))
        upper_arm = thorax @ y(plane) @ z(sign * elevation) @ y(sign * angle["shoulder_rotation"] - plane)
        forearm = upper_arm @ x(angle["elbow"])
        hand = forearm @ y(sign * angle["forearm_pronation"]) @ z(-sign * angle["wrist_flexion"])
        thigh = pelvis @ x(angle["hip_flexion"]) @ z(sign * angle["hip_abduction"]) @ y(sign * angle["hip_rotation"])
        shin = thigh @ x(-angle["knee"])
        foot = shin @ x(-angle["ankle_plantarflexion"])
        for joint, orientation in zip(
            ("shoulder", "elbow", "wrist", "hand", "hand_tip", "thumb", "hip", "knee", "ankle", "foot"),
            (girdle, upper_arm, forearm, hand, hand, hand, pelvis, thigh, shin, foot),
            strict=True,
        ):
            bones[f"{side}_{joint}"] = orientation
    return bones


def _skeleton_tree() -> Iterator[tuple[str, str, str, Array]]:
    """Joint, its parent, its part and its rest bone, from the pelvis outwards."""
    for part, (parent, bone, _) in PARTS.items():
        if part in JOINTS:
            yield part, parent, part, np.array(bone)
        else:
            for side, mirror in (("left", (-1, 1, 1)), ("right", (1, 1, 1))):
                above = parent if parent in JOINTS else f"{side}_{parent}"
                yield f"{side}_{part}", above, part, np.array(bone) * mirror


def forward_kinematics(pose: Mapping[str, Array], sizes: Mapping[str, Array]) -> Array:
    """Joint positions of bodies in the frame of the person.

    Args:
        pose: an array (n, frames) for each name in :data:`LIMITS`, in degrees (``jump`` in meters). Values
            beyond the limits are clipped to them.
        sizes: an array (n,) in meters for each part of the body (``"knee"`` is the bone that ends at the
            knee): the height of the body whose bone this is.

    Returns:
        float64 array (n, frames, 25, 3) in meters: x to the person's right, y up from the floor,
        z backwards. The lower foot touches the floor (unless the body jumps) and does not slide.

    Example:
        >>> upright = {name: np.zeros((1, 1)) for name in LIMITS}
        >>> joints = forward_kinematics(upright, {part: np.full(1, 1.8) for part in PARTS})
        >>> joints.shape, round(float(joints[0, 0, 3, 1]), 3)  # the middle of the head
        ((1, 1, 25, 3), 1.57)
    """
    pose = limited(pose)
    orientations = _orientations(pose)
    positions = {"": np.zeros((*pose["jump"].shape, 3))}
    for joint, parent, part, bone in _skeleton_tree():
        length = sizes[part][:, None, None]
        positions[joint] = positions[parent] + length * (orientations[joint] @ bone)
    joints = np.stack([positions[name] for name in LAYOUT.joint_names], axis=2)
    return joints + _footing(joints, pose["jump"])[:, :, None]


def _footing(joints: Array, jump: Array) -> Array:
    """The displacement (n, frames, 3) that puts the lower foot on the floor and keeps it from sliding."""
    ankles = joints[:, :, [JOINTS["left_ankle"], JOINTS["right_ankle"]]]
    feet = joints[:, :, [JOINTS["left_foot"], JOINTS["right_foot"]]]
    heights = np.minimum(ankles, feet)[..., 1]
    load = np.exp(-(heights - heights.min(axis=2, keepdims=True)) / 0.02)  # a foot 2 cm up carries little
    load /= load.sum(axis=2, keepdims=True)
    shares = (load[:, 1:] + load[:, :-1])[..., None] / 2
    steps = -(shares * np.diff(ankles, axis=1)).sum(axis=2)
    displacement = np.zeros((*jump.shape, 3))
    displacement[:, 1:] = np.cumsum(steps, axis=1)
    displacement[..., 1] = jump - heights.min(axis=2)
    return displacement

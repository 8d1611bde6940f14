"""Synthetic recordings: a body of 25 joints performs parametric actions before a simulated depth camera.

The data are **made, not recorded**: they serve the demo and the tests, where no real recordings may be
assumed, and say nothing about how well a method recognizes real people.

The body is a tree of rigid bones with the joints, and their order, of the layout ``ntu25``. A pose is a set
of joint angles in degrees (:data:`LIMITS` lists them with their anatomical limits) and the height of a jump
in meters. Forward kinematics turns a pose into joint positions in the frame of the person: x to the person's
right, y up, z backwards, so that the person faces -z. All angles zero is the upright body with hanging arms.

- trunk: pelvis, then the lumbar (``spine_base``) and the thoracic (``spine_mid``) joint, which share the
  angles of the spine equally, then neck and head. Flexion bends forwards, lateral bending goes to the right,
  twist to the left.
- shoulder: elevation of the upper arm (0 hanging, 90 horizontal), the plane it is raised in (0 sideways,
  90 forwards, more crosses the chest) and axial rotation (positive is internal), as the International
  Society of Biomechanics recommends (Wu et al., Journal of Biomechanics 38, 2005). The shoulder girdle
  follows the arm.
- hip: flexion, abduction, rotation; elbow and knee are hinges; the forearm pronates; wrist and ankle flex.

The feet tell the body where it is: the lower foot stands on the floor and does not slide, which moves the
pelvis. So squatting lowers the body and walking carries it forwards without inverse kinematics.

The camera frame is that of Kinect v2: meters, y up, z away from the camera, and a person who faces the
camera has the right shoulder at larger x. Bone lengths and the sensor's noise per joint follow what the
tracker of NTU RGB+D (Shahroudy et al., CVPR 2016) yields: millimeters at the trunk, centimeters at hands
and feet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ikem_ext import LAYOUTS

__all__ = [
    "ACTIONS",
    "FRAME_RATE",
    "LIMITS",
    "Recordings",
    "forward_kinematics",
    "generate",
    "synthesize",
]

Array = NDArray[np.float64]
Pose = dict[str, Array]

FRAME_RATE = 30.0  # frames per second
_LAYOUT = LAYOUTS["ntu25"]
_JOINTS = {name: index for index, name in enumerate(_LAYOUT.joint_names)}
_SIDES = ("left", "right")

_SIDE_LIMITS = {
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
    **{f"{side}_{angle}": limit for side in _SIDES for angle, limit in _SIDE_LIMITS.items()},
    "jump": (0, 0.5),  # meters, the only entry that is not an angle
}
"""Anatomical limits of each angle in degrees, and of ``jump`` in meters."""

_MIRRORED = ("pelvis_roll", "turn", "spine_bend", "spine_twist", "neck_bend", "neck_twist")


class _Part(NamedTuple):
    parent: str  # as seen from the pelvis; the layout's tree hangs from the chest
    bone: tuple[float, float, float]  # from the parent, at rest, in fractions of the body's height
    noise: float  # standard deviation of the sensor's noise in meters


# Parents first. Limbs are those of the right side; the left ones are their mirror image.
_PARTS = {
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


def _part(joint: str) -> str:
    """The joint's name without its side, a key of the table above."""
    return joint.removeprefix("left_").removeprefix("right_")


# ---------------------------------------------------------------------------------------------- kinematics


def _rotation(axis: str, degrees: Array) -> Array:
    """Rotation matrices (..., 3, 3) about one axis, right-handed."""
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.zeros((*np.shape(degrees), 3, 3))
    matrix[..., range(3), range(3)] = 1
    matrix[..., first, first] = matrix[..., second, second] = cosine
    matrix[..., first, second], matrix[..., second, first] = -sine, sine
    return matrix


def _limited(pose: Mapping[str, Array]) -> Pose:
    return {name: np.clip(pose[name], *limits) for name, limits in LIMITS.items()}


def _orientations(pose: Pose) -> dict[str, Array]:
    """The orientation (..., 3, 3) of the bone that ends at each joint, by the joint's name."""
    x, y, z = (lambda degrees, axis=axis: _rotation(axis, degrees) for axis in "xyz")
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
        angle = {name: pose[f"{side}_{name}"] for name in _SIDE_LIMITS}
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
    for part, (parent, bone, _) in _PARTS.items():
        if part in _JOINTS:
            yield part, parent, part, np.array(bone)
        else:
            for side, mirror in (("left", (-1, 1, 1)), ("right", (1, 1, 1))):
                above = parent if parent in _JOINTS else f"{side}_{parent}"
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
        >>> joints = forward_kinematics(upright, {part: np.full(1, 1.8) for part in _PARTS})
        >>> joints.shape, round(float(joints[0, 0, 3, 1]), 3)  # the middle of the head
        ((1, 1, 25, 3), 1.57)
    """
    pose = _limited(pose)
    orientations = _orientations(pose)
    positions = {"": np.zeros((*pose["jump"].shape, 3))}
    for joint, parent, part, bone in _skeleton_tree():
        length = sizes[part][:, None, None]
        positions[joint] = positions[parent] + length * (orientations[joint] @ bone)
    joints = np.stack([positions[name] for name in _LAYOUT.joint_names], axis=2)
    return joints + _footing(joints, pose["jump"])[:, :, None]


def _footing(joints: Array, jump: Array) -> Array:
    """The displacement (n, frames, 3) that puts the lower foot on the floor and keeps it from sliding."""
    ankles = joints[:, :, [_JOINTS["left_ankle"], _JOINTS["right_ankle"]]]
    feet = joints[:, :, [_JOINTS["left_foot"], _JOINTS["right_foot"]]]
    heights = np.minimum(ankles, feet)[..., 1]
    load = np.exp(-(heights - heights.min(axis=2, keepdims=True)) / 0.02)  # a foot 2 cm up carries little
    load /= load.sum(axis=2, keepdims=True)
    shares = (load[:, 1:] + load[:, :-1])[..., None] / 2
    steps = -(shares * np.diff(ankles, axis=1)).sum(axis=2)
    displacement = np.zeros((*jump.shape, 3))
    displacement[:, 1:] = np.cumsum(steps, axis=1)
    displacement[..., 1] = jump - heights.min(axis=2)
    return displacement


# -------------------------------------------------------------------------------------------------- actions


@dataclass
class _Clips:
    """The clips of one action: when things happen and how. Arrays are (n, frames) or (n, 1)."""

    seconds: Array
    progress: Array  # 0 at the first frame, 1 at the last; beyond the last it stays 1
    amplitude: Array
    tempo: Array
    rng: np.random.Generator

    def draw(self, low: float, high: float) -> Array:
        """One number per clip."""
        return self.rng.uniform(low, high, self.tempo.shape)

    def ease(self, start: float, end: float) -> Array:
        """From 0 to 1 between two moments of the clip, along a minimum-jerk curve."""
        moment = np.clip((self.progress - start) / (end - start), 0, 1)
        return moment**3 * (10 - 15 * moment + 6 * moment**2)

    def hold(self, start: float, reached: float, released: float, end: float) -> Array:
        """0, rising to 1, held, and back to 0."""
        return self.ease(start, reached) * (1 - self.ease(released, end))

    def cycle(self, hertz: float, spread: float = 0.15) -> Array:
        """A phase in radians that starts anywhere and advances at about the given frequency."""
        frequency = hertz * self.tempo * self.draw(1 - spread, 1 + spread)
        return 2 * np.pi * (frequency * self.seconds + self.draw(0, 1))


def _blend(pose: Pose, weight: Array, **targets: Array | float) -> None:
    """Moves the named angles from where they are towards targets; ``weight`` 1 reaches them."""
    for name, target in targets.items():
        pose[name] = pose[name] + weight * (target - pose[name])


def _one(side: str, **angles: Any) -> dict[str, Any]:
    return {f"{side}_{name}": value for name, value in angles.items()}


def _both(**angles: Any) -> dict[str, Any]:
    """The same angles for the left and the right side."""
    return {**_one("left", **angles), **_one("right", **angles)}


def _crouch(pose: Pose, weight: Array, thigh: Array | float, knee: Array | float, lean: Array | float) -> None:
    """Bends both legs with flat feet: ``thigh`` leaves the vertical, ``lean`` is the pelvis's."""
    legs = _both(hip_flexion=thigh + lean, knee=knee, ankle_plantarflexion=thigh - knee)
    _blend(pose, weight, pelvis_pitch=lean, **legs)


# Postures of an arm, found by moving the hand of a standing body to where the name says.
_AT_MOUTH = _one("right", shoulder_elevation=73, shoulder_plane=89, shoulder_rotation=31, elbow=128)
_AT_EAR = _one("right", shoulder_elevation=91, shoulder_plane=67, shoulder_rotation=0, elbow=140)
_AT_CHEST = _both(shoulder_elevation=42, shoulder_plane=64, shoulder_rotation=40, elbow=99)


def _drink(clips: _Clips, pose: Pose) -> None:
    lift = clips.hold(0.1, 0.35, 0.7, 0.9)
    _blend(pose, lift, **_AT_MOUTH, right_forearm_pronation=clips.draw(-20, 40))
    tilt = clips.hold(0.3, 0.45, 0.6, 0.75)
    _blend(pose, tilt, neck_flexion=-22 * clips.amplitude, right_wrist_flexion=25)


def _phone_call(clips: _Clips, pose: Pose) -> None:
    lift = clips.ease(0.1, 0.4)
    _blend(pose, lift, **_AT_EAR, neck_bend=clips.draw(5, 20), right_wrist_flexion=clips.draw(0, 30))
    pose["neck_flexion"] += lift * 5 * np.sin(clips.cycle(0.6))


def _check_watch(clips: _Clips, pose: Pose) -> None:
    lift = clips.hold(0.15, 0.4, 0.65, 0.85)
    wrist = _one("left", shoulder_elevation=44, shoulder_plane=84, shoulder_rotation=50, elbow=96)
    _blend(pose, lift, **wrist, neck_flexion=30, neck_twist=15, left_forearm_pronation=50)


def _wave(clips: _Clips, pose: Pose) -> None:
    lift = clips.hold(0.05, 0.25, 0.8, 0.95)
    swing = 25 * clips.amplitude * np.sin(clips.cycle(1.8))
    _blend(
        pose,
        lift,
        right_shoulder_elevation=clips.draw(60, 110) + swing * 0.3,
        right_shoulder_plane=clips.draw(10, 45),
        right_shoulder_rotation=-70 + swing,
        right_elbow=clips.draw(60, 100) - swing * 0.5,
    )


def _point(clips: _Clips, pose: Pose) -> None:
    lift = clips.hold(0.1, 0.35, 0.75, 0.95)
    plane = clips.draw(20, 100)
    _blend(
        pose,
        lift,
        right_shoulder_elevation=clips.draw(70, 105),
        right_shoulder_plane=plane,
        right_shoulder_rotation=0,
        right_elbow=5,
        neck_twist=-(90 - plane) * 0.5,
    )


def _throw(clips: _Clips, pose: Pose) -> None:
    recover = 1 - clips.ease(0.75, 0.97)
    wind_up, release = clips.ease(0.1, 0.4) * recover, clips.ease(0.43, 0.58) * recover
    back, forth = 30 * clips.amplitude, 28 * clips.amplitude
    _blend(
        pose,
        wind_up,
        right_shoulder_elevation=clips.draw(80, 115),
        right_shoulder_plane=0,
        right_shoulder_rotation=-80,
        right_elbow=100,
        spine_twist=-back,
        spine_flexion=-10,
    )
    _blend(
        pose,
        release,
        right_shoulder_elevation=80,
        right_shoulder_plane=100,
        right_shoulder_rotation=20,
        right_elbow=20,
        spine_twist=forth,
        spine_flexion=20 * clips.amplitude,
    )
    _blend(pose, wind_up, left_hip_flexion=22, right_hip_flexion=-12, left_knee=15, left_shoulder_elevation=45)


def _punch(clips: _Clips, pose: Pose) -> None:
    guard = clips.hold(0.02, 0.15, 0.87, 0.98)
    fists = _both(shoulder_elevation=30, shoulder_plane=70, shoulder_rotation=15, elbow=125)
    _blend(pose, guard, **fists, left_hip_flexion=15, right_hip_flexion=-10, right_knee=12)
    strike = guard * np.maximum(np.sin(clips.cycle(1.0)), 0) ** 2
    reach = _one("right", shoulder_elevation=85, shoulder_plane=95, elbow=10)
    _blend(pose, strike, **reach, spine_twist=25 * clips.amplitude, right_forearm_pronation=60)


def _push(clips: _Clips, pose: Pose) -> None:
    guard = clips.hold(0.05, 0.3, 0.8, 0.95)
    _blend(pose, guard, **_both(shoulder_elevation=20, shoulder_plane=60, shoulder_rotation=0, elbow=138))
    shove = clips.hold(0.35, 0.5, 0.6, 0.8)
    _blend(pose, shove, **_both(shoulder_elevation=80, shoulder_plane=85, elbow=15, wrist_flexion=-40))
    _blend(pose, shove, spine_flexion=18 * clips.amplitude, left_hip_flexion=20, left_knee=18)


def _clap(clips: _Clips, pose: Pose) -> None:
    lift = clips.hold(0.05, 0.2, 0.85, 0.97)
    opening = (0.5 + 0.5 * np.sin(clips.cycle(2.2))) * clips.amplitude
    _blend(pose, lift, **_AT_CHEST)
    _blend(pose, lift * opening, **_both(shoulder_rotation=0, shoulder_plane=40, shoulder_elevation=32))


def _jumping_jacks(clips: _Clips, pose: Pose) -> None:
    spread = clips.hold(0.0, 0.1, 0.92, 1.0) * (0.5 - 0.5 * np.cos(clips.cycle(1.0)))
    arms = _both(shoulder_elevation=150 * clips.amplitude, shoulder_plane=10, elbow=12, shoulder_rotation=-40)
    _blend(pose, spread, **arms, **_both(hip_abduction=24 * clips.amplitude))
    pose["jump"] = pose["jump"] + 0.12 * np.sin(np.pi * spread) ** 2


def _bow(clips: _Clips, pose: Pose) -> None:
    down = clips.hold(0.1, 0.4, 0.6, 0.9)
    lean = clips.draw(25, 45) * clips.amplitude
    _crouch(pose, down, 0.0, 4.0, lean)
    _blend(pose, down, spine_flexion=clips.draw(15, 35), neck_flexion=20)
    _blend(pose, down, **_both(shoulder_elevation=lean * clips.draw(0, 0.9), shoulder_plane=90))


def _pick_up(clips: _Clips, pose: Pose) -> None:
    down = clips.hold(0.08, 0.42, 0.55, 0.9)
    bend = clips.draw(0, 1)  # from a stoop with straight legs to a squat
    _crouch(pose, down, 25 + 50 * bend, 25 + 75 * bend, 50 - 25 * bend)
    _blend(pose, down, spine_flexion=50 - 10 * bend, neck_flexion=-5, spine_twist=10)
    reach = _one("right", shoulder_elevation=75 - 15 * bend, shoulder_plane=90, elbow=10)
    _blend(pose, down, **reach, left_shoulder_elevation=30, left_shoulder_plane=60)


def _sit(clips: _Clips, pose: Pose, seated: Array) -> None:
    """Both ways between standing (0) and sitting (1)."""
    rest_hands = _both(shoulder_elevation=28, shoulder_plane=80, elbow=clips.draw(35, 75), shoulder_rotation=20)
    lean = clips.draw(18, 38) * np.sin(np.pi * seated) ** 2
    _crouch(pose, seated, 84.0, clips.draw(80, 98), 2.0)
    pose["spine_flexion"] = pose["spine_flexion"] + lean
    _blend(pose, seated, **rest_hands, **_both(hip_abduction=clips.draw(4, 16)))


def _sit_down(clips: _Clips, pose: Pose) -> None:
    _sit(clips, pose, clips.ease(0.2, 0.7))


def _stand_up(clips: _Clips, pose: Pose) -> None:
    _sit(clips, pose, 1 - clips.ease(0.25, 0.75))


def _squat(clips: _Clips, pose: Pose) -> None:
    down = clips.hold(0.0, 0.1, 0.9, 1.0) * (0.5 - 0.5 * np.cos(clips.cycle(0.6)))
    depth = clips.draw(55, 85) * np.minimum(clips.amplitude, 1.1)
    _crouch(pose, down, depth, depth * 1.35, 22.0)
    arms = clips.draw(0, 85)  # hanging to stretched forwards
    _blend(pose, down, spine_flexion=18, **_both(shoulder_elevation=arms, shoulder_plane=90))


def _jump(clips: _Clips, pose: Pose) -> None:
    load, land = clips.hold(0.1, 0.3, 0.34, 0.42), clips.hold(0.58, 0.66, 0.7, 0.9)
    bend = clips.draw(35, 60) * clips.amplitude
    _crouch(pose, load + 0.7 * land, bend, bend * 1.6, 20.0)
    _blend(pose, load, **_both(shoulder_elevation=-35, shoulder_plane=90))
    flight = np.clip((clips.progress - 0.4) / 0.2, 0, 1)
    pose["jump"] = pose["jump"] + clips.draw(0.15, 0.35) * clips.amplitude * 4 * flight * (1 - flight)
    rise = clips.hold(0.33, 0.45, 0.55, 0.75)
    arms = _both(shoulder_elevation=clips.draw(60, 150), shoulder_plane=80, elbow=30)
    _blend(pose, rise, **arms, **_both(ankle_plantarflexion=35))


def _kick(clips: _Clips, pose: Pose) -> None:
    wind_up, strike = clips.hold(0.15, 0.35, 0.42, 0.52), clips.hold(0.4, 0.53, 0.58, 0.8)
    _blend(pose, wind_up, right_hip_flexion=-18, right_knee=80, left_knee=12, spine_flexion=12)
    _blend(pose, strike, right_hip_flexion=clips.draw(50, 85) * clips.amplitude, right_knee=10, left_knee=10)
    _blend(pose, strike, spine_flexion=-10, right_ankle_plantarflexion=25, spine_twist=-12)
    balance = np.maximum(wind_up, strike)
    _blend(pose, balance, **_both(shoulder_elevation=clips.draw(20, 55)), left_shoulder_plane=60)


def _walk(clips: _Clips, pose: Pose) -> None:
    phase = clips.cycle(0.9)
    for side, shift in (("left", np.pi), ("right", 0.0)):
        step = np.sin(phase + shift)
        swing = (0.5 + 0.5 * np.cos(phase + shift + 0.3)) ** 2.5  # the foot is in the air
        pose[f"{side}_hip_flexion"] = 5 + 25 * clips.amplitude * step
        pose[f"{side}_knee"] = 6 + 52 * clips.amplitude * swing
        pose[f"{side}_ankle_plantarflexion"] = -5 + 10 * np.cos(phase + shift + np.pi)
        pose[f"{side}_shoulder_elevation"] = 3 - 22 * clips.amplitude * step
        pose[f"{side}_shoulder_plane"] = np.full_like(phase, 90.0)
        pose[f"{side}_elbow"] = 18 - 10 * step
    pose["spine_twist"] += 7 * np.sin(phase)
    pose["spine_flexion"] += 3


@dataclass(frozen=True)
class _Action:
    seconds: float  # how long a clip lasts on average
    perform: Callable[[_Clips, Pose], None]


ACTIONS: dict[str, _Action] = {
    "drink": _Action(2.6, _drink),
    "phone call": _Action(2.4, _phone_call),
    "check watch": _Action(2.3, _check_watch),
    "wave": _Action(2.4, _wave),
    "point": _Action(2.2, _point),
    "throw": _Action(2.0, _throw),
    "punch": _Action(2.4, _punch),
    "push": _Action(2.1, _push),
    "clap": _Action(2.3, _clap),
    "jumping jacks": _Action(2.8, _jumping_jacks),
    "bow": _Action(2.5, _bow),
    "pick up": _Action(2.7, _pick_up),
    "sit down": _Action(2.3, _sit_down),
    "stand up": _Action(2.3, _stand_up),
    "squat": _Action(3.0, _squat),
    "jump": _Action(2.1, _jump),
    "kick": _Action(2.0, _kick),
    "walk": _Action(2.6, _walk),
}
"""The actions by the name of their class, in the order of their labels."""


# ------------------------------------------------------------------------------------------------- subjects


@dataclass(frozen=True)
class _Subjects:
    """What a person keeps from clip to clip; arrays (subjects,)."""

    sizes: dict[str, Array]  # see forward_kinematics
    amplitude: Array
    tempo: Array
    left_handed: NDArray[np.bool_]
    posture: dict[str, Array]

    @classmethod
    def draw(cls, count: int, rng: np.random.Generator) -> _Subjects:
        height = np.clip(rng.normal(1.70, 0.10, count), 1.45, 1.98)
        breadth = rng.normal(1, 0.08, count)
        proportions = {part: rng.normal(1, 0.04, count) for part in _PARTS}
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
                **_both(
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


def _idle_pose(subjects: _Subjects, who: NDArray[np.int64], clips: _Clips) -> Pose:
    """Standing as the person stands, swaying a little; sometimes the free hand is on the hip."""
    pose = {name: np.zeros_like(clips.seconds) for name in LIMITS}
    for name, value in subjects.posture.items():
        pose[name] += value[who][:, None] + clips.draw(-3, 3)
    _crouch(pose, np.ones_like(clips.seconds), clips.draw(1, 5), clips.draw(2, 9), clips.draw(-2, 4))
    on_hip = clips.draw(0, 1) < 0.2
    akimbo = _one("left", shoulder_elevation=48, shoulder_plane=-30, shoulder_rotation=60, elbow=91)
    _blend(pose, np.where(on_hip, 1.0, 0.0), **akimbo)
    swaying = ["spine_flexion", "spine_bend", "spine_twist", "neck_flexion", "neck_twist", "pelvis_roll"]
    for name in [*swaying, *_both(shoulder_elevation=0, elbow=0)]:
        sway = np.sin(clips.cycle(0.25, 0.6)) + 0.6 * np.sin(clips.cycle(0.55, 0.4))
        pose[name] += clips.draw(0.5, 2.5) * sway
    return pose


def _mirror(pose: Pose, mirrored: NDArray[np.bool_]) -> Pose:
    """Swaps left and right in the clips that ``mirrored`` (n,) marks."""
    swapped = {"left": "right", "right": "left"}

    def twin(name: str) -> Array:
        side, _, angle = name.partition("_")
        other = pose[f"{swapped[side]}_{angle}"] if side in swapped else pose[name]
        return -other if name in _MIRRORED else other

    return {name: np.where(mirrored[:, None], twin(name), pose[name]) for name in LIMITS}


# --------------------------------------------------------------------------------------------------- camera


def _to_camera(
    joints: Array, inside: NDArray[np.bool_], max_yaw: float, rng: np.random.Generator
) -> tuple[Array, NDArray[np.int64]]:
    """Puts each clip before one of three cameras: returns joints in its frame and its number (1 to 3)."""
    n = len(joints)
    middle = (joints[:, :, 0] * inside[..., None]).sum(1) / inside.sum(1)[:, None]
    ground = joints - (middle * (1, 0, 1))[:, None, None]
    camera = rng.integers(1, 4, n)
    # The cameras stand at -1, 0 and 1 times two thirds of the largest angle, people face them roughly.
    yaw = max_yaw * ((camera - 2) * 2 / 3 + rng.uniform(-1, 1, n) / 3)
    view = _rotation("x", rng.uniform(-12, 4, n)) @ _rotation("y", yaw)
    sideways, lens, distance = rng.uniform(-0.6, 0.6, n), rng.uniform(0.8, 1.6, n), rng.uniform(2.2, 4.2, n)
    feet = np.stack([sideways, -lens, distance], axis=1)
    return np.einsum("nij,ntvj->ntvi", view, ground) + feet[:, None, None], camera


def _add_noise(joints: Array, level: float, rng: np.random.Generator) -> Array:
    """Jitter from frame to frame plus slow drift, each joint with its own deviation."""
    deviation = level * np.array([_PARTS[_part(name)].noise for name in _LAYOUT.joint_names])[:, None]
    white = rng.standard_normal(joints.shape)
    drift = np.empty_like(white)
    drift[:, 0] = rng.standard_normal(drift[:, 0].shape)
    for frame in range(1, joints.shape[1]):
        drift[:, frame] = 0.9 * drift[:, frame - 1] + np.sqrt(1 - 0.9**2) * white[:, frame]
    return joints + deviation * (0.6 * rng.standard_normal(joints.shape) + 0.8 * drift)


def _drop_joints(joints: Array, num_frames: NDArray[np.int64], level: float, rng: np.random.Generator) -> None:
    """The tracker loses joints of the limbs for a while and leaves them where it saw them last, in place."""
    limbs = [index for name, index in _JOINTS.items() if _part(name) in ("elbow", "wrist", "hand", "knee", "ankle")]
    for clip in np.flatnonzero(rng.random(len(joints)) < min(0.5 * level, 1)):
        for joint in rng.choice(limbs, size=rng.integers(1, 4), replace=False):
            start = rng.integers(1, num_frames[clip] - 1)
            stop = min(start + rng.integers(4, 18), num_frames[clip])
            joints[clip, start:stop, joint] = joints[clip, start - 1, joint]


def _lose_frames(joints: Array, num_frames: NDArray[np.int64], level: float, rng: np.random.Generator) -> None:
    """Now and then the tracker loses the whole body for up to three frames, which are all zero, in place."""
    for clip in np.flatnonzero(rng.random(len(joints)) < min(0.15 * level, 1)):
        length = rng.integers(1, 4)
        start = rng.integers(1, num_frames[clip] - length)
        joints[clip, start : start + length] = 0


# ----------------------------------------------------------------------------------------------- recordings


@dataclass(frozen=True)
class Recordings:
    """Synthetic clips in the form that ``ikem prepare npz`` reads.

    Attributes:
        joints: float32 (N, 3, frames, 25, 1) in meters in the camera's frame, zero beyond ``num_frames``.
        num_frames: int64 (N,).
        labels: int64 (N,), indices into ``class_names``.
        class_names: (classes,).
        subjects: int64 (N,), from 1.
        cameras: int64 (N,), 1 to 3.
        replications: int64 (N,), from 1.
        names: (N,), one per clip.
        layout: the joints' layout, ``"ntu25"``.
        source: ``"synthetic"``, so that whatever is made from these clips says so.
    """

    joints: NDArray[np.float32]
    num_frames: NDArray[np.int64]
    labels: NDArray[np.int64]
    class_names: NDArray[np.str_]
    subjects: NDArray[np.int64]
    cameras: NDArray[np.int64]
    replications: NDArray[np.int64]
    names: NDArray[np.str_]
    layout: str = _LAYOUT.name
    source: str = "synthetic"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an ``.npz`` file: beside its place first, then renamed."""
        path = Path(path)
        if path.suffix != ".npz":
            raise ValueError(f"path: expected a file that ends in .npz, got {str(path)!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.stem}.{os.getpid()}.npz")
        try:
            np.savez_compressed(unfinished, **{field.name: getattr(self, field.name) for field in fields(self)})
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def generate(
    *, subjects: int = 20, repetitions: int = 2, seed: int = 0, noise: float = 1.0, max_yaw: float = 90.0
) -> Recordings:
    """Makes a data set in which every subject performs every action.

    Args:
        subjects: how many people there are, each with a body, tempo, amplitude, posture and handedness.
        repetitions: how often each performs each of the :data:`ACTIONS`.
        seed: of everything random; the same arguments give the same arrays.
        noise: factor on the sensor's faults (noise, dropped joints, lost frames); 0 is a perfect sensor.
        max_yaw: how far people turn away from the camera at most, in degrees.

    Returns:
        The clips, ordered by action, subject, repetition; 40 to 120 frames each at 30 frames per second.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> recordings = generate(subjects=2, repetitions=1)
        >>> recordings.joints.shape, len(recordings.class_names)
        ((36, 3, 120, 25, 1), 18)
    """
    for name, value, least in (("subjects", subjects, 1), ("repetitions", repetitions, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")
    for name, factor, most in (("noise", noise, 10), ("max_yaw", max_yaw, 180)):
        if not 0 <= factor <= most:
            raise ValueError(f"{name}: expected a number from 0 to {most}, got {factor!r}")
    people = _Subjects.draw(subjects, np.random.default_rng(seed))
    who = np.repeat(np.arange(subjects), repetitions)
    parts = []
    for label, action in enumerate(ACTIONS.values()):
        rng = np.random.default_rng([seed, label + 1])
        parts.append(_record(action, people, who, noise, max_yaw, rng))
    joints, num_frames, cameras = (np.concatenate(column) for column in zip(*parts, strict=True))
    labels = np.repeat(np.arange(len(ACTIONS)), len(who))
    person = np.tile(who + 1, len(ACTIONS))
    replications = np.tile(np.arange(len(who)) % repetitions + 1, len(ACTIONS))
    takes = zip(labels + 1, person, replications, strict=True)
    return Recordings(
        joints=joints,
        num_frames=num_frames,
        labels=labels,
        class_names=np.array(list(ACTIONS)),
        subjects=person,
        cameras=cameras,
        replications=replications,
        names=np.array([f"A{action:02d}P{who:03d}R{take:02d}" for action, who, take in takes]),
    )


def _record(
    action: _Action,
    people: _Subjects,
    who: NDArray[np.int64],
    noise: float,
    max_yaw: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """The clips of one action: joints (n, 3, frames, 25, 1), lengths (n,), cameras (n,)."""
    pose, num_frames = _perform(action, people, who, rng)
    joints = forward_kinematics(pose, {part: size[who] for part, size in people.sizes.items()})
    inside = np.arange(joints.shape[1]) < num_frames[:, None]
    joints, cameras = _to_camera(joints, inside, max_yaw, rng)
    if noise:
        joints = _add_noise(joints, noise, rng)
        _drop_joints(joints, num_frames, noise, rng)
        _lose_frames(joints, num_frames, noise, rng)
    joints *= inside[..., None, None]
    return joints.transpose(0, 3, 1, 2)[..., None].astype(np.float32), num_frames, cameras


_FRAMES = (40, 120)  # the fewest and the most of a clip


def _perform(
    action: _Action, people: _Subjects, who: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Pose, NDArray[np.int64]]:
    """The poses (n, frames), within the anatomical limits, and the clips' lengths (n,)."""
    n = len(who)
    tempo = people.tempo[who] * rng.uniform(0.88, 1.14, n)
    num_frames = np.clip(np.round(FRAME_RATE * action.seconds / tempo), *_FRAMES).astype(np.int64)
    frames = np.arange(_FRAMES[1])
    # The action fills the clip up to a margin at either end, as when people cut clips by hand.
    lead, tail = rng.uniform(-0.08, 0.12, (n, 1)), rng.uniform(0.88, 1.08, (n, 1))
    time = np.minimum(frames / (num_frames[:, None] - 1), 1)
    clips = _Clips(
        seconds=np.broadcast_to(frames / FRAME_RATE, (n, len(frames))),
        progress=(time - lead) / (tail - lead),
        amplitude=(people.amplitude[who] * rng.uniform(0.88, 1.12, n))[:, None],
        tempo=tempo[:, None],
        rng=rng,
    )
    pose = _idle_pose(people, who, clips)
    action.perform(clips, pose)
    pose["turn"] = pose["turn"] + clips.draw(-8, 8) * clips.ease(0, 1)
    other_hand = rng.random(n) < 0.12
    return _limited(_mirror(pose, people.left_handed[who] ^ other_hand)), num_frames


def synthesize(
    path: Path,
    *,
    subjects: int = 20,
    repetitions: int = 2,
    seed: int = 0,
    noise: float = 1.0,
    max_yaw: float = 90.0,
    overwrite: bool = False,
) -> Recordings:
    """Makes synthetic recordings and writes them to a file that ``ikem prepare npz`` reads.

    Args:
        path: the ``.npz`` file to write.
        subjects: how many people there are.
        repetitions: how often each performs each action.
        seed: of everything random.
        noise: factor on the sensor's faults; 0 is a perfect sensor.
        max_yaw: how far people turn away from the camera at most, in degrees.
        overwrite: replace a file that is there already.

    Returns:
        What was written; :func:`generate` makes the same without a file.

    Raises:
        ValueError: a number is out of range, or the file's name does not end in ``.npz``.
        FileExistsError: ``path`` exists.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(f"path: {path} exists; overwrite replaces it")
    recordings = generate(subjects=subjects, repetitions=repetitions, seed=seed, noise=noise, max_yaw=max_yaw)
    recordings.save(path)
    print(
        f"{path}: {len(recordings.labels)} synthetic clips of {len(recordings.class_names)} actions "
        f"by {subjects} simulated people"
    )
    return recordings

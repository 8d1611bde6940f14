"""What the actions do to a pose, from the first frame of a clip to the last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .body import Array, Pose
from .posing import Clips, blend, both, crouch, one

# Postures of an arm, found by moving the hand of a standing body to where the name says.
_AT_MOUTH = one("right", shoulder_elevation=73, shoulder_plane=89, shoulder_rotation=31, elbow=128)
_AT_EAR = one("right", shoulder_elevation=91, shoulder_plane=67, shoulder_rotation=0, elbow=140)
_AT_CHEST = both(shoulder_elevation=42, shoulder_plane=64, shoulder_rotation=40, elbow=99)


def _drink(clips: Clips, pose: Pose) -> None:
    lift = clips.hold(0.1, 0.35, 0.7, 0.9)
    blend(pose, lift, **_AT_MOUTH, right_forearm_pronation=clips.draw(-20, 40))
    tilt = clips.hold(0.3, 0.45, 0.6, 0.75)
    blend(pose, tilt, neck_flexion=-22 * clips.amplitude, right_wrist_flexion=25)


def _phone_call(clips: Clips, pose: Pose) -> None:
    lift = clips.ease(0.1, 0.4)
    blend(pose, lift, **_AT_EAR, neck_bend=clips.draw(5, 20), right_wrist_flexion=clips.draw(0, 30))
    pose["neck_flexion"] += lift * 5 * np.sin(clips.cycle(0.6))


def _check_watch(clips: Clips, pose: Pose) -> None:
    lift = clips.hold(0.15, 0.4, 0.65, 0.85)
    wrist = one("left", shoulder_elevation=44, shoulder_plane=84, shoulder_rotation=50, elbow=96)
    blend(pose, lift, **wrist, neck_flexion=30, neck_twist=15, left_forearm_pronation=50)


def _wave(clips: Clips, pose: Pose) -> None:
    lift = clips.hold(0.05, 0.25, 0.8, 0.95)
    swing = 25 * clips.amplitude * np.sin(clips.cycle(1.8))
    blend(
        pose,
        lift,
        right_shoulder_elevation=clips.draw(60, 110) + swing * 0.3,
        right_shoulder_plane=clips.draw(10, 45),
        right_shoulder_rotation=-70 + swing,
        right_elbow=clips.draw(60, 100) - swing * 0.5,
    )


def _point(clips: Clips, pose: Pose) -> None:
    lift = clips.hold(0.1, 0.35, 0.75, 0.95)
    plane = clips.draw(20, 100)
    blend(
        pose,
        lift,
        right_shoulder_elevation=clips.draw(70, 105),
        right_shoulder_plane=plane,
        right_shoulder_rotation=0,
        right_elbow=5,
        neck_twist=-(90 - plane) * 0.5,
    )


def _throw(clips: Clips, pose: Pose) -> None:
    recover = 1 - clips.ease(0.75, 0.97)
    wind_up, release = clips.ease(0.1, 0.4) * recover, clips.ease(0.43, 0.58) * recover
    back, forth = 30 * clips.amplitude, 28 * clips.amplitude
    blend(
        pose,
        wind_up,
        right_shoulder_elevation=clips.draw(80, 115),
        right_shoulder_plane=0,
        right_shoulder_rotation=-80,
        right_elbow=100,
        spine_twist=-back,
        spine_flexion=-10,
    )
    blend(
        pose,
        release,
        right_shoulder_elevation=80,
        right_shoulder_plane=100,
        right_shoulder_rotation=20,
        right_elbow=20,
        spine_twist=forth,
        spine_flexion=20 * clips.amplitude,
    )
    blend(pose, wind_up, left_hip_flexion=22, right_hip_flexion=-12, left_knee=15, left_shoulder_elevation=45)


def _punch(clips: Clips, pose: Pose) -> None:
    guard = clips.hold(0.02, 0.15, 0.87, 0.98)
    fists = both(shoulder_elevation=30, shoulder_plane=70, shoulder_rotation=15, elbow=125)
    blend(pose, guard, **fists, left_hip_flexion=15, right_hip_flexion=-10, right_knee=12)
    strike = guard * np.maximum(np.sin(clips.cycle(1.0)), 0) ** 2
    reach = one("right", shoulder_elevation=85, shoulder_plane=95, elbow=10)
    blend(pose, strike, **reach, spine_twist=25 * clips.amplitude, right_forearm_pronation=60)


def _push(clips: Clips, pose: Pose) -> None:
    guard = clips.hold(0.05, 0.3, 0.8, 0.95)
    blend(pose, guard, **both(shoulder_elevation=20, shoulder_plane=60, shoulder_rotation=0, elbow=138))
    shove = clips.hold(0.35, 0.5, 0.6, 0.8)
    blend(pose, shove, **both(shoulder_elevation=80, shoulder_plane=85, elbow=15, wrist_flexion=-40))
    blend(pose, shove, spine_flexion=18 * clips.amplitude, left_hip_flexion=20, left_knee=18)


def _clap(clips: Clips, pose: Pose) -> None:
    lift = clips.hold(0.05, 0.2, 0.85, 0.97)
    opening = (0.5 + 0.5 * np.sin(clips.cycle(2.2))) * clips.amplitude
    blend(pose, lift, **_AT_CHEST)
    blend(pose, lift * opening, **both(shoulder_rotation=0, shoulder_plane=40, shoulder_elevation=32))


def _jumping_jacks(clips: Clips, pose: Pose) -> None:
    spread = clips.hold(0.0, 0.1, 0.92, 1.0) * (0.5 - 0.5 * np.cos(clips.cycle(1.0)))
    arms = both(shoulder_elevation=150 * clips.amplitude, shoulder_plane=10, elbow=12, shoulder_rotation=-40)
    blend(pose, spread, **arms, **both(hip_abduction=24 * clips.amplitude))
    pose["jump"] = pose["jump"] + 0.12 * np.sin(np.pi * spread) ** 2


def _bow(clips: Clips, pose: Pose) -> None:
    down = clips.hold(0.1, 0.4, 0.6, 0.9)
    lean = clips.draw(25, 45) * clips.amplitude
    crouch(pose, down, 0.0, 4.0, lean)
    blend(pose, down, spine_flexion=clips.draw(15, 35), neck_flexion=20)
    blend(pose, down, **both(shoulder_elevation=lean * clips.draw(0, 0.9), shoulder_plane=90))


def _pick_up(clips: Clips, pose: Pose) -> None:
    down = clips.hold(0.08, 0.42, 0.55, 0.9)
    bend = clips.draw(0, 1)  # from a stoop with straight legs to a squat
    crouch(pose, down, 25 + 50 * bend, 25 + 75 * bend, 50 - 25 * bend)
    blend(pose, down, spine_flexion=50 - 10 * bend, neck_flexion=-5, spine_twist=10)
    reach = one("right", shoulder_elevation=75 - 15 * bend, shoulder_plane=90, elbow=10)
    blend(pose, down, **reach, left_shoulder_elevation=30, left_shoulder_plane=60)


def _sit(clips: Clips, pose: Pose, seated: Array) -> None:
    """Both ways between standing (0) and sitting (1)."""
    rest_hands = both(shoulder_elevation=28, shoulder_plane=80, elbow=clips.draw(35, 75), shoulder_rotation=20)
    lean = clips.draw(18, 38) * np.sin(np.pi * seated) ** 2
    crouch(pose, seated, 84.0, clips.draw(80, 98), 2.0)
    pose["spine_flexion"] = pose["spine_flexion"] + lean
    blend(pose, seated, **rest_hands, **both(hip_abduction=clips.draw(4, 16)))


def _sit_down(clips: Clips, pose: Pose) -> None:
    _sit(clips, pose, clips.ease(0.2, 0.7))


def _stand_up(clips: Clips, pose: Pose) -> None:
    _sit(clips, pose, 1 - clips.ease(0.25, 0.75))


def _squat(clips: Clips, pose: Pose) -> None:
    down = clips.hold(0.0, 0.1, 0.9, 1.0) * (0.5 - 0.5 * np.cos(clips.cycle(0.6)))
    depth = clips.draw(55, 85) * np.minimum(clips.amplitude, 1.1)
    crouch(pose, down, depth, depth * 1.35, 22.0)
    arms = clips.draw(0, 85)  # hanging to stretched forwards
    blend(pose, down, spine_flexion=18, **both(shoulder_elevation=arms, shoulder_plane=90))


def _jump(clips: Clips, pose: Pose) -> None:
    load, land = clips.hold(0.1, 0.3, 0.34, 0.42), clips.hold(0.58, 0.66, 0.7, 0.9)
    bend = clips.draw(35, 60) * clips.amplitude
    crouch(pose, load + 0.7 * land, bend, bend * 1.6, 20.0)
    blend(pose, load, **both(shoulder_elevation=-35, shoulder_plane=90))
    flight = np.clip((clips.progress - 0.4) / 0.2, 0, 1)
    pose["jump"] = pose["jump"] + clips.draw(0.15, 0.35) * clips.amplitude * 4 * flight * (1 - flight)
    rise = clips.hold(0.33, 0.45, 0.55, 0.75)
    arms = both(shoulder_elevation=clips.draw(60, 150), shoulder_plane=80, elbow=30)
    blend(pose, rise, **arms, **both(ankle_plantarflexion=35))


def _kick(clips: Clips, pose: Pose) -> None:
    wind_up, strike = clips.hold(0.15, 0.35, 0.42, 0.52), clips.hold(0.4, 0.53, 0.58, 0.8)
    blend(pose, wind_up, right_hip_flexion=-18, right_knee=80, left_knee=12, spine_flexion=12)
    blend(pose, strike, right_hip_flexion=clips.draw(50, 85) * clips.amplitude, right_knee=10, left_knee=10)
    blend(pose, strike, spine_flexion=-10, right_ankle_plantarflexion=25, spine_twist=-12)
    balance = np.maximum(wind_up, strike)
    blend(pose, balance, **both(shoulder_elevation=clips.draw(20, 55)), left_shoulder_plane=60)


def _walk(clips: Clips, pose: Pose) -> None:
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
class Action:
    """How a body performs it, and for how long."""

    seconds: float  # how long a clip lasts on average
    perform: Callable[[Clips, Pose], None]


ACTIONS: dict[str, Action] = {
    "drink": Action(2.6, _drink),
    "phone call": Action(2.4, _phone_call),
    "check watch": Action(2.3, _check_watch),
    "wave": Action(2.4, _wave),
    "point": Action(2.2, _point),
    "throw": Action(2.0, _throw),
    "punch": Action(2.4, _punch),
    "push": Action(2.1, _push),
    "clap": Action(2.3, _clap),
    "jumping jacks": Action(2.8, _jumping_jacks),
    "bow": Action(2.5, _bow),
    "pick up": Action(2.7, _pick_up),
    "sit down": Action(2.3, _sit_down),
    "stand up": Action(2.3, _stand_up),
    "squat": Action(3.0, _squat),
    "jump": Action(2.1, _jump),
    "kick": Action(2.0, _kick),
    "walk": Action(2.6, _walk),
}
"""The actions by the name of their class, in the order of their labels."""

"""A data set in which every subject performs every action."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .actions import ACTIONS, Action
from .body import Pose
from .kinematics import forward_kinematics, limited
from .posing import Clips
from .recordings import Recordings
from .sensor import add_noise, drop_joints, lose_frames, to_camera
from .subjects import Subjects, idle_pose, mirror

FRAME_RATE = 30.0  # frames per second
_FRAMES = (40, 120)  # the fewest and the most of a clip


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
    people = Subjects.draw(subjects, np.random.default_rng(seed))
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
    action: Action,
    people: Subjects,
    who: NDArray[np.int64],
    noise: float,
    max_yaw: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """The clips of one action: joints (n, 3, frames, 25, 1), lengths (n,), cameras (n,)."""
    pose, num_frames = _perform(action, people, who, rng)
    joints = forward_kinematics(pose, {part: size[who] for part, size in people.sizes.items()})
    inside = np.arange(joints.shape[1]) < num_frames[:, None]
    joints, cameras = to_camera(joints, inside, max_yaw, rng)
    if noise:
        joints = add_noise(joints, noise, rng)
        drop_joints(joints, num_frames, noise, rng)
        lose_frames(joints, num_frames, noise, rng)
    joints *= inside[..., None, None]
    return joints.transpose(0, 3, 1, 2)[..., None].astype(np.float32), num_frames, cameras


def _perform(
    action: Action, people: Subjects, who: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Pose, NDArray[np.int64]]:
    """The poses (n, frames), within the anatomical limits, and the clips' lengths (n,)."""
    n = len(who)
    tempo = people.tempo[who] * rng.uniform(0.88, 1.14, n)
    num_frames = np.clip(np.round(FRAME_RATE * action.seconds / tempo), *_FRAMES).astype(np.int64)
    frames = np.arange(_FRAMES[1])
    # The action fills the clip up to a margin at either end, as when people cut clips by hand.
    lead, tail = rng.uniform(-0.08, 0.12, (n, 1)), rng.uniform(0.88, 1.08, (n, 1))
    time = np.minimum(frames / (num_frames[:, None] - 1), 1)
    clips = Clips(
        seconds=np.broadcast_to(frames / FRAME_RATE, (n, len(frames))),
        progress=(time - lead) / (tail - lead),
        amplitude=(people.amplitude[who] * rng.uniform(0.88, 1.12, n))[:, None],
        tempo=tempo[:, None],
        rng=rng,
    )
    pose = idle_pose(people, who, clips)
    action.perform(clips, pose)
    pose["turn"] = pose["turn"] + clips.draw(-8, 8) * clips.ease(0, 1)
    other_hand = rng.random(n) < 0.12
    return limited(mirror(pose, people.left_handed[who] ^ other_hand)), num_frames

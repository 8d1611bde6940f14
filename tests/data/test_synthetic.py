"""The synthetic body obeys anatomy and physics, and its recordings are what the rest of the project expects."""

import numpy as np
import pytest

from ikem.data.synthetic import ACTIONS, LIMITS, forward_kinematics, generate, synthesize
from ikem_ext import LAYOUTS

LAYOUT = LAYOUTS["ntu25"]
JOINT = {name: index for index, name in enumerate(LAYOUT.joint_names)}


@pytest.fixture(scope="module")
def recordings():
    return generate(subjects=6, repetitions=2, seed=1)


@pytest.fixture(scope="module")
def perfect():
    """Seen by a sensor without faults."""
    return generate(subjects=6, repetitions=2, seed=1, noise=0)


def clips_of(recordings, action=None):
    """The clips of one action or of all, as arrays (frames, joints, 3)."""
    for joints, count, label in zip(recordings.joints, recordings.num_frames, recordings.labels, strict=True):
        if action is None or recordings.class_names[label] == action:
            yield joints[:, :count, :, 0].transpose(1, 2, 0).astype(np.float64)


def distance(clip, a, b):
    return np.linalg.norm(clip[:, JOINT[a]] - clip[:, JOINT[b]], axis=-1)


def bend(clip, a, b, c):
    """Degrees by which the limb a-b-c departs from straight."""
    first, second = (clip[:, JOINT[y]] - clip[:, JOINT[x]] for x, y in ((a, b), (b, c)))
    cross = np.linalg.norm(np.cross(first, second), axis=-1)
    return np.rad2deg(np.arctan2(cross, (first * second).sum(-1)))


def upright(frames=1):
    return {name: np.zeros((1, frames)) for name in LIMITS}


class AnySize(dict):
    def __missing__(self, part):
        return np.full(1, 1.7)


def test_arrays_have_the_documented_form(recordings):
    n = len(ACTIONS) * 6 * 2
    assert recordings.joints.shape == (n, 3, 120, 25, 1)
    assert recordings.joints.dtype == np.float32
    assert np.isfinite(recordings.joints).all()
    assert recordings.num_frames.min() >= 40
    assert recordings.num_frames.max() <= 120
    assert len(np.unique(recordings.num_frames)) > 20
    beyond = np.arange(120) >= recordings.num_frames[:, None]
    assert not recordings.joints.transpose(0, 2, 1, 3, 4)[beyond].any()


def test_every_subject_performs_every_action(recordings):
    assert len(ACTIONS) >= 12
    assert list(recordings.class_names) == list(ACTIONS)
    takes = set(zip(recordings.subjects, recordings.labels, recordings.replications, strict=True))
    assert takes == {(s, a, r) for s in range(1, 7) for a in range(len(ACTIONS)) for r in (1, 2)}
    assert len(set(recordings.names)) == len(recordings.names)
    assert set(recordings.cameras) == {1, 2, 3}


def test_same_seed_same_bits_other_seed_other_clips(recordings):
    again = generate(subjects=6, repetitions=2, seed=1)
    assert again.joints.tobytes() == recordings.joints.tobytes()
    assert not np.array_equal(generate(subjects=6, repetitions=2, seed=2).joints, recordings.joints)


def test_bones_keep_their_length_and_differ_between_people(perfect):
    means = []
    for clip in clips_of(perfect):
        lengths = np.linalg.norm(clip - clip[:, list(LAYOUT.parents)], axis=-1)
        assert np.ptp(lengths, axis=0).max() < 1e-5  # meters, float32
        means.append(lengths.mean(0))
    means = np.array(means)
    for subject in np.unique(perfect.subjects):
        assert np.ptp(means[perfect.subjects == subject], axis=0).max() < 1e-5
    shin = means[:, JOINT["left_ankle"]]
    assert 0.28 < shin.min() < shin.max() < 0.5
    assert np.ptp(shin) > 0.03


@pytest.mark.parametrize("side", ["left", "right"])
def test_hinges_stay_within_anatomical_limits(perfect, side):
    for clip in clips_of(perfect):
        elbow = bend(clip, f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist")
        knee = bend(clip, f"{side}_hip", f"{side}_knee", f"{side}_ankle")
        assert elbow.max() <= LIMITS[f"{side}_elbow"][1] + 0.1
        assert knee.max() <= LIMITS[f"{side}_knee"][1] + 0.1
        # A knee bends backwards only: about the axis from the left to the right hip, clockwise.
        thigh = clip[:, JOINT[f"{side}_knee"]] - clip[:, JOINT[f"{side}_hip"]]
        shin = clip[:, JOINT[f"{side}_ankle"]] - clip[:, JOINT[f"{side}_knee"]]
        axis = clip[:, JOINT["right_hip"]] - clip[:, JOINT["left_hip"]]
        turn = (np.cross(thigh, shin) * axis).sum(-1)
        assert (turn[knee > 15] < 0).all()


def test_kinematics_clips_what_no_body_can_do():
    pose = upright()
    pose["left_knee"] += 170
    pose["right_knee"] -= 40
    joints = forward_kinematics(pose, AnySize())[0]
    assert bend(joints, "left_hip", "left_knee", "left_ankle") == pytest.approx(LIMITS["left_knee"][1])
    assert bend(joints, "right_hip", "right_knee", "right_ankle") == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("angle", "degrees", "tip", "axis", "direction"),
    [
        ("right_hip_flexion", 60, "right_knee", 2, -1),  # forwards
        ("right_hip_abduction", 30, "right_knee", 0, 1),  # to the right
        ("left_hip_abduction", 30, "left_knee", 0, -1),
        ("right_shoulder_elevation", 90, "right_elbow", 0, 1),  # in plane 0: sideways
        ("left_shoulder_elevation", 90, "left_elbow", 0, -1),
        ("right_elbow", 90, "right_wrist", 2, -1),
        ("left_knee", 90, "left_ankle", 2, 1),
        ("spine_flexion", 40, "neck", 2, -1),
        ("spine_bend", 20, "neck", 0, 1),
        ("neck_twist", 40, "head", 0, -1),  # the face turns to the left
        ("right_ankle_plantarflexion", 30, "right_foot", 1, -1),
    ],
)
def test_angles_move_joints_where_anatomy_says(angle, degrees, tip, axis, direction):
    straight, moved = upright(), upright()
    moved[angle] += degrees
    base = "spine_base" if "foot" not in tip else "right_ankle"
    before, after = (forward_kinematics(pose, AnySize())[0, 0] for pose in (straight, moved))
    shift = (after[JOINT[tip]] - after[JOINT[base]]) - (before[JOINT[tip]] - before[JOINT[base]])
    assert direction * shift[axis] > 0.003


def test_raising_an_arm_in_plane_90_is_forwards():
    pose = upright()
    pose["right_shoulder_elevation"] += 90
    pose["right_shoulder_plane"] += 90
    joints = forward_kinematics(pose, AnySize())[0, 0]
    arm = joints[JOINT["right_wrist"]] - joints[JOINT["right_shoulder"]]
    assert arm / np.linalg.norm(arm) == pytest.approx([0, 0, -1], abs=1e-6)


def test_the_loaded_foot_neither_sinks_nor_slides():
    """Walking without the camera: some foot is always on the floor, and the body advances."""
    phase = np.linspace(0, 6 * np.pi, 90)[None]
    pose = upright(90)
    for side, sign in (("left", -1), ("right", 1)):
        pose[f"{side}_hip_flexion"] = 25 * sign * np.sin(phase)
        pose[f"{side}_knee"] = 50 * np.clip(np.cos(phase) * sign, 0, 1) ** 2
    joints = forward_kinematics(pose, AnySize())[0]
    feet = joints[:, [JOINT[f"{side}_{j}"] for side in ("left", "right") for j in ("ankle", "foot")]]
    assert feet[..., 1].min(axis=1) == pytest.approx(0, abs=1e-9)
    assert joints[-1, JOINT["spine_base"], 2] < -1.0  # forwards is -z


def test_people_face_the_camera(perfect):
    facing = generate(subjects=2, repetitions=1, noise=0, max_yaw=0)
    for clip in clips_of(facing, "clap"):
        assert clip[0, JOINT["right_shoulder"], 0] > clip[0, JOINT["left_shoulder"], 0]
        assert clip[0, JOINT["right_foot"], 2] < clip[0, JOINT["right_ankle"], 2]
        assert (clip[..., 2] > 1).all()
        assert (clip[:, JOINT["head"], 1] > clip[:, JOINT["spine_base"], 1]).all()


def test_actions_do_what_their_names_say(perfect):
    for clip in clips_of(perfect, "clap"):
        assert distance(clip, "left_hand", "right_hand").min() < 0.2
        assert distance(clip, "left_hand", "right_hand").max() > 0.3
    for clip in clips_of(perfect, "drink"):
        hands = np.minimum(distance(clip, "left_hand", "head"), distance(clip, "right_hand", "head"))
        assert hands.min() < 0.25
    for clip in clips_of(perfect, "sit down"):
        height = distance(clip, "spine_base", "right_ankle")
        assert height[-1] < 0.85 * height[0]
    for clip in clips_of(perfect, "stand up"):
        height = distance(clip, "spine_base", "right_ankle")
        assert height[0] < 0.85 * height[-1]
    for clip in clips_of(perfect, "kick"):
        assert np.abs(clip[:, JOINT["right_ankle"], 1] - clip[:, JOINT["left_ankle"], 1]).max() > 0.25
    for clip in clips_of(perfect, "walk"):
        assert np.linalg.norm(np.ptp(clip[:, JOINT["spine_base"]], axis=0)) > 0.8


def test_both_hands_are_used_for_one_handed_actions():
    clips = list(clips_of(generate(subjects=40, repetitions=1, noise=0), "drink"))
    right = [distance(c, "right_hand", "head").min() < distance(c, "left_hand", "head").min() for c in clips]
    assert 0.5 < np.mean(right) < 0.97


def test_the_sensor_errs_most_at_the_hands(recordings, perfect):
    error = recordings.joints - perfect.joints
    seen = perfect.joints.any(axis=(1, 3, 4)) & recordings.joints.any(axis=(1, 3, 4))
    deviation = np.sqrt(np.square(error.transpose(0, 2, 1, 3, 4)[seen]).mean(axis=(0, 1)))[:, 0]
    assert deviation[JOINT["spine_mid"]] < 0.005
    assert 0.01 < deviation[JOINT["right_hand_tip"]] < 0.05
    lost = perfect.joints.any(axis=(1, 3, 4)) & ~seen
    assert 0 < lost.any(axis=1).mean() < 0.4
    assert lost.sum(axis=1).max() <= 3


def test_writes_a_file_that_needs_no_pickle(tmp_path):
    written = synthesize(tmp_path / "deep" / "raw.npz", subjects=2, repetitions=1)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["raw.npz"]
    with np.load(tmp_path / "deep" / "raw.npz", allow_pickle=False) as file:
        assert str(file["layout"]) == "ntu25"
        for name in ("joints", "num_frames", "labels", "class_names", "subjects", "cameras"):
            assert np.array_equal(file[name], getattr(written, name))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subjects": 0}, "subjects: expected an integer of at least 1, got 0"),
        ({"repetitions": 1.5}, "repetitions: expected an integer"),
        ({"seed": -1}, "seed: expected an integer of at least 0"),
        ({"noise": -0.1}, "noise: expected a number from 0 to 10"),
        ({"max_yaw": float("nan")}, "max_yaw: expected a number from 0 to 180"),
    ],
)
def test_refuses_what_makes_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        generate(**options)


def test_replaces_a_file_only_when_told(tmp_path):
    path = tmp_path / "raw.npz"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match=r"path: .*raw\.npz exists"):
        synthesize(path, subjects=1, repetitions=1)
    assert path.read_text() == "precious"
    synthesize(path, subjects=1, repetitions=1, overwrite=True)
    assert np.load(path)["joints"].shape[0] == len(ACTIONS)


def test_refuses_another_file_type(tmp_path):
    with pytest.raises(ValueError, match=r"path: expected a file that ends in \.npz"):
        synthesize(tmp_path / "raw.npy", subjects=1, repetitions=1)

"""Preprocessing against the numbers of the published code, and each step against what it promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ikem.data.formats.nw_ucla import NwUcla
from ikem.data.lost_joints import fill_lost_joints
from ikem.data.preprocess import (
    NoBodyError,
    Preprocessing,
    center_joints,
    face_camera,
    fill_lost_frames,
    resize_time,
    scale_to_body,
    turn_to_camera,
)
from ikem_ext import SkeletonLayout, get_layout

NTU = get_layout("ntu25")
ARM = SkeletonLayout(name="arm", joint_names=("shoulder", "elbow", "hand"), parents=(0, 0, 1), torso=(0, 1, 2))


def options(**changes: Any) -> Preprocessing:
    published: dict[str, Any] = {"frames": 50, "bodies": 2, "center": "frame", "align": "frame", "lost_frames": "keep"}
    return Preprocessing(**{**published, **changes})


def recording(frames: int = 9, joints: int = 25, bodies: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, frames, joints, bodies)) + 3.0


def test_ntu_clips_come_out_as_published(golden: Callable[[str], dict[str, np.ndarray]]) -> None:
    expected = golden("ntu_preprocess")
    names = sorted({key.split("/")[0] for key in expected})
    assert len(names) == 6
    for name in names:
        clip = options()(expected[f"{name}/joints"], NTU)
        assert clip.joints.dtype == np.float32
        assert clip.num_frames == expected[f"{name}/num_frames"]
        np.testing.assert_allclose(clip.joints, expected[f"{name}/position50"], rtol=0, atol=3e-7)


SIGNALS = hnp.arrays(
    np.float32,
    st.tuples(st.just(3), st.integers(1, 40), st.integers(1, 3), st.integers(1, 2)),
    elements=st.floats(-1000, 1000, width=32),
)


@given(SIGNALS, st.integers(1, 60))
def test_resizing_is_that_of_pytorch(joints: np.ndarray, frames: int) -> None:
    flat = torch.from_numpy(joints).double().movedim(1, -1).flatten(0, -2)[None]
    expected = torch.nn.functional.interpolate(flat, size=frames, mode="linear", align_corners=False)
    expected = expected.reshape(3, *joints.shape[2:], frames).movedim(-1, 1)
    resized = resize_time(joints, frames)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected.numpy(), rtol=1e-5, atol=1e-3)


@given(SIGNALS)
def test_resizing_to_the_same_length_changes_nothing(joints: np.ndarray) -> None:
    np.testing.assert_array_equal(resize_time(joints, joints.shape[1]), joints)


@given(st.floats(-1000, 1000, width=32), st.integers(1, 80), st.integers(1, 80))
def test_resizing_keeps_what_does_not_move(value: float, length: int, frames: int) -> None:
    resized = resize_time(np.full((3, length, 2, 1), value, np.float32), frames)
    np.testing.assert_allclose(resized, value, rtol=1e-6, atol=1e-30)


@given(SIGNALS, st.integers(1, 60))
def test_resizing_stays_within_the_range(joints: np.ndarray, frames: int) -> None:
    resized = resize_time(joints, frames)
    assert resized.max() <= joints.max() + 1e-3
    assert resized.min() >= joints.min() - 1e-3


@pytest.mark.parametrize("bodies", [1, 2, 3])
def test_bodies_are_padded_or_cut(bodies: int) -> None:
    raw = recording(bodies=2)
    whole = options(bodies=2, align="none")(raw, NTU).joints
    clip = options(bodies=bodies, align="none")(raw, NTU).joints
    assert clip.shape == (3, 50, 25, bodies)
    shared = min(bodies, 2)
    np.testing.assert_array_equal(clip[..., :shared], whole[..., :shared])
    assert not clip[..., shared:].any()


class TestCentering:
    def test_on_the_root_of_each_frame_and_body(self) -> None:
        joints = recording(bodies=2).astype(np.float32)
        centered = center_joints(joints, NTU.root, "frame")
        assert not centered[:, :, NTU.root].any()
        np.testing.assert_allclose(np.diff(centered, axis=2), np.diff(joints, axis=2), atol=1e-6)

    def test_on_the_first_frame_keeps_the_way_people_go(self) -> None:
        joints = recording(bodies=2).astype(np.float32)
        joints[:, :2] = 0
        joints[:, 2, :, 0] = 0  # the second body is seen first
        joints[:, 5, :, 1] = 0
        centered = center_joints(joints, NTU.root, "first_frame")
        assert not centered[:, 2, NTU.root, 1].any()
        assert not centered[:, :2].any()
        assert not centered[:, 5, :, 1].any()
        np.testing.assert_allclose(
            centered[:, 3:, :, 0] - centered[:, 3:4, :, 0], joints[:, 3:, :, 0] - joints[:, 3:4, :, 0], atol=1e-5
        )
        np.testing.assert_allclose(
            centered[:, 3, 0, 1] - centered[:, 3, 0, 0], joints[:, 3, 0, 1] - joints[:, 3, 0, 0], atol=1e-5
        )

    def test_none_leaves_coordinates_alone(self) -> None:
        raw = recording(frames=50)
        clip = options(center="none", align="none", bodies=1)(raw, NTU)
        np.testing.assert_array_equal(clip.joints, raw.astype(np.float32))


class TestOneFrameForTheClip:
    def test_turning_is_one_rotation_that_puts_the_shoulders_across(self) -> None:
        joints = center_joints(recording(bodies=2).astype(np.float32), NTU.root, "first_frame")
        turned = turn_to_camera(joints, NTU)
        _, left, right = NTU.torso
        across = (turned[:, :, right, 0] - turned[:, :, left, 0]).mean(axis=1)
        assert across[0] > 0
        assert abs(across[2]) < 1e-5
        rotation = np.linalg.lstsq(joints.reshape(3, -1).T, turned.reshape(3, -1).T, rcond=None)[0]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
        np.testing.assert_allclose(turned.reshape(3, -1), rotation.T @ joints.reshape(3, -1), atol=1e-4)

    def test_turning_forgets_where_the_camera_stood(self) -> None:
        joints = recording().astype(np.float32)
        x, y, z = joints
        seen_from_the_side = np.stack((z, y, -x))
        np.testing.assert_allclose(turn_to_camera(seen_from_the_side, NTU), turn_to_camera(joints, NTU), atol=1e-4)

    def test_scaling_forgets_the_size_of_the_body(self) -> None:
        joints = recording().astype(np.float32)
        joints[:, 3] = 0  # a frame without a body says nothing of its size
        scaled = scale_to_body(joints, NTU)
        np.testing.assert_allclose(scale_to_body(3 * joints, NTU), scaled, rtol=1e-5)
        bones = np.delete(scaled - scaled[:, :, list(NTU.parents)], NTU.root, axis=2)
        assert np.linalg.norm(np.delete(bones, 3, axis=1), axis=0).mean() == pytest.approx(1, rel=1e-5)

    def test_an_absent_body_stays_absent(self) -> None:
        absent = np.zeros((3, 5, 25, 1), dtype=np.float32)
        assert not scale_to_body(absent, NTU).any()
        assert not turn_to_camera(absent, NTU).any()

    def test_both_are_options(self) -> None:
        raw = recording()
        plain = options(align="none", bodies=1)(raw, NTU).joints
        both = options(align="clip", scale=True, bodies=1)(raw, NTU).joints
        np.testing.assert_array_equal(both, scale_to_body(turn_to_camera(plain, NTU), NTU))


class TestFacingTheCamera:
    def test_shoulders_lie_across(self) -> None:
        joints = center_joints(recording().astype(np.float32), NTU.root, "frame")
        # The published code has one sign of the angle for the whole clip: let all frames agree with it.
        _, left, right = NTU.torso
        joints[2, :, right] = joints[2, :, left] + 1
        across = np.diff(face_camera(joints, NTU)[:, :, [left, right]], axis=2)[..., 0, 0]
        assert (across[0] > 0).all()
        # The published 1e-4 in the denominator leaves the shoulders a little oblique, by sqrt(2e-4 / |v|).
        np.testing.assert_allclose(across[2], 0, atol=0.05)

    def test_is_a_rotation_about_the_vertical(self) -> None:
        joints = recording(bodies=2).astype(np.float32)
        turned = face_camera(joints, NTU)
        np.testing.assert_array_equal(turned[1], joints[1])
        np.testing.assert_allclose(np.hypot(turned[0], turned[2]), np.hypot(joints[0], joints[2]), rtol=1e-5)

    def test_absent_bodies_stay_zero(self) -> None:
        assert not face_camera(np.zeros((3, 5, 25, 2), np.float32), NTU).any()


class TestLostFrames:
    def raw(self) -> np.ndarray:
        """Ten frames at x = 1 to 10, of which 1, 4, 5 and 10 are lost."""
        raw = np.zeros((3, 10, 3, 1))
        raw[0] = np.arange(1, 11)[:, None, None]
        raw[1] = np.arange(3)[None, :, None]
        raw[:, [0, 3, 4, 9]] = 0
        return raw

    def clip(self, lost_frames: str, raw: np.ndarray | None = None, frames: int = 10) -> Any:
        preprocessing = options(frames=frames, bodies=1, center="none", align="none", lost_frames=lost_frames)
        return preprocessing(self.raw() if raw is None else raw, ARM)

    def test_interpolated(self) -> None:
        clip = self.clip("interpolate")
        np.testing.assert_allclose(clip.joints[0, :, 0, 0], [2, 2, 3, 4, 5, 6, 7, 8, 9, 9], rtol=1e-6)
        np.testing.assert_allclose(clip.joints[1, :, 2, 0], 2, rtol=1e-6)
        assert (clip.num_frames, clip.lost_frames) == (10, 4)

    def test_dropped(self) -> None:
        clip = self.clip("drop", frames=6)
        np.testing.assert_array_equal(clip.joints[0, :, 0, 0], [2, 3, 6, 7, 8, 9])
        assert (clip.num_frames, clip.lost_frames) == (6, 4)

    def test_kept_as_published(self) -> None:
        """As many frames as have the first joint of the first body, but the first ones, lost or not."""
        raw = self.raw()
        raw[:, 6, 0] = 0
        clip = self.clip("keep", raw, frames=5)
        np.testing.assert_array_equal(clip.joints[0, :, 1, 0], [0, 2, 3, 0, 0])
        assert (clip.num_frames, clip.lost_frames) == (5, 4)

    def test_bodies_that_come_and_go_are_filled_only_between(self) -> None:
        joints = np.zeros((3, 8, 3, 2), np.float32)
        joints[0, 1:7, :, 0] = 1
        joints[0, [2, 4], :, 1] = np.array([2, 4])[:, None]
        filled = fill_lost_frames(joints)
        np.testing.assert_array_equal(filled[0, :, 0, 0], np.ones(8))
        np.testing.assert_array_equal(filled[0, :, 0, 1], [0, 0, 2, 3, 4, 0, 0, 0])

    def test_without_lost_frames_all_options_agree(self) -> None:
        raw = recording()
        clips = [options(lost_frames=option)(raw, NTU) for option in ("interpolate", "drop", "keep")]
        for clip in clips:
            np.testing.assert_array_equal(clip.joints, clips[0].joints)
            assert (clip.num_frames, clip.lost_frames) == (9, 0)


class TestLostJoints:
    def clip(self, raw: np.ndarray, layout: SkeletonLayout = ARM, **changes: Any) -> Any:
        plain = {"frames": raw.shape[1], "bodies": raw.shape[3], "center": "none", "align": "none", "scale": "none"}
        preprocessing = options(**{**plain, "lost_frames": "interpolate", **changes})
        return preprocessing(raw, layout)

    def walking(self) -> np.ndarray:
        """Six frames of an arm that moves by 1 along x in each."""
        raw = np.ones((3, 6, 3, 1))
        raw[0, :, :, 0] = np.arange(6)[:, None] + [1, 2, 3]
        return raw

    def test_are_interpolated_and_go_with_the_body_at_both_ends(self) -> None:
        raw = self.walking()
        raw[:, [0, 3, 5], 1] = 0
        raw[:, 1:3, 2] = 0
        clip = self.clip(raw)
        np.testing.assert_allclose(clip.joints, self.walking(), rtol=1e-6)
        assert (clip.lost_joints, clip.lost_frames) == (5, 0)

    def test_that_are_not_a_number_are_lost_where_asked(self) -> None:
        raw = self.walking()
        raw[1, 2, 1] = np.nan
        with pytest.raises(ValueError, match=r"frame 3: the y coordinate of elbow .* nan.*lost_joints nan fills"):
            self.clip(raw)
        clip = self.clip(raw, lost_joints="nan")
        np.testing.assert_allclose(clip.joints, self.walking(), rtol=1e-6)
        assert clip.lost_joints == 1
        raw[2, 2, 1] = np.inf
        with pytest.raises(ValueError, match="the z coordinate of elbow of body 1 is inf"):
            self.clip(raw, lost_joints="nan")

    def test_a_frame_that_is_not_a_number_is_a_lost_one(self) -> None:
        raw = self.walking()
        raw[:, 2] = np.nan
        clip = self.clip(raw, lost_joints="nan")
        np.testing.assert_allclose(clip.joints, self.walking(), rtol=1e-6)
        assert (clip.lost_joints, clip.lost_frames) == (0, 1)

    def test_never_seen_are_put_amid_the_nearest(self) -> None:
        raw = np.random.default_rng(0).normal(size=(3, 6, 25, 1)) + 3
        names = NTU.joint_names
        lost = [names.index(name) for name in ("left_ankle", "left_foot", "neck")]
        raw[:, :, lost] = 0
        joints = dict(zip(names, self.clip(raw, NTU).joints.transpose(2, 0, 1, 3), strict=True))
        np.testing.assert_array_equal(joints["left_ankle"], joints["left_knee"])
        np.testing.assert_array_equal(joints["left_foot"], joints["left_knee"])
        np.testing.assert_allclose(joints["neck"], (joints["head"] + joints["spine_shoulder"]) / 2, rtol=1e-6)

    def test_the_origin_of_a_centered_recording_is_none(self) -> None:
        raw = self.walking() - 3
        raw -= raw[:, :, :1]
        clip = self.clip(raw)
        np.testing.assert_array_equal(clip.joints, raw.astype(np.float32))
        assert clip.lost_joints == 0

    def test_in_an_image_no_point_is_an_origin(self) -> None:
        raw = self.walking()[:2]
        raw[:, :, 0] = 0
        clip = self.clip(raw)
        np.testing.assert_array_equal(clip.joints[:, :, 0], clip.joints[:, :, 1])
        assert clip.lost_joints == 6

    def test_of_each_body_alone_and_not_where_it_is_absent(self) -> None:
        raw = np.concatenate((self.walking(), 2 * self.walking()), axis=3)
        raw[:, 2, 1, 1] = 0
        raw[:, 4:, :, 1] = 0
        clip = self.clip(raw)
        np.testing.assert_allclose(clip.joints[..., 0], self.walking()[..., 0], rtol=1e-6)
        np.testing.assert_allclose(clip.joints[:, :4, :, 1], 2 * self.walking()[:, :4, :, 0], rtol=1e-6)
        assert not clip.joints[:, 4:, :, 1].any()
        assert clip.lost_joints == 1

    def test_can_be_kept_as_they_are_where_frames_are(self) -> None:
        raw = self.walking()
        raw[:, 3, 1] = 0
        for changes in ({"lost_joints": "keep"}, {"lost_frames": "keep"}):
            clip = self.clip(raw, **changes)
            np.testing.assert_array_equal(clip.joints, raw.astype(np.float32))
            assert clip.lost_joints == 0
        assert self.clip(raw, lost_frames="keep", lost_joints="zero").lost_joints == 1

    def test_of_a_real_recording(self, shared: Path) -> None:
        recordings = NwUcla(shared / "data" / "nw-ucla")
        source = next(source for source in recordings.discover().sources if source.name == "a04_s01_e01_v01")
        raw = recordings.read(source).joints
        clip = self.clip(raw, get_layout("kinect20"))
        assert clip.lost_joints == 6
        lost = ~raw.any(axis=0)
        np.testing.assert_array_equal(clip.joints[:, ~lost], raw.astype(np.float32)[:, ~lost])
        (frame,) = set(np.argwhere(lost)[:, 0].tolist())
        for neighbour in (frame - 1, frame + 1):  # far less than a meter away, where zero is four
            away = np.abs(clip.joints[:, frame] - clip.joints[:, neighbour])[:, lost[frame]]
            assert 0 < away.max() < 0.3

    def test_the_surer_of_two_frames_weighs_more(self) -> None:
        raw = np.zeros((2, 4, 1, 1), np.float32)
        raw[:, 0], raw[:, 3] = 1, 4
        confidence = np.array([0.9, 0, 0, 0.3], np.float32)[:, None, None]
        points = fill_lost_frames(raw, confidence)[0, :, 0, 0]
        # at frame 1: weights 0.9 / 1 and 0.3 / 2; at frame 2: 0.9 / 2 and 0.3 / 1
        np.testing.assert_allclose(points, [1, (0.9 + 0.15 * 4) / 1.05, (0.45 + 0.3 * 4) / 0.75, 4], rtol=1e-6)
        both = np.concatenate((raw, np.ones_like(raw)), axis=2)
        lost = np.zeros((4, 2, 1), dtype=bool)
        lost[1:3, 0] = True
        pair = SkeletonLayout(name="pair", joint_names=("point", "other"), parents=(1, 1), torso=(0, 1, 0))
        filled = fill_lost_joints(both, lost, pair, np.repeat(confidence, 2, axis=1))
        np.testing.assert_allclose(filled[0, :, 0, 0], points, rtol=1e-6)


class TestPointsInAnImage:
    COCO = get_layout("coco17")

    def raw(self, frames: int = 9, bodies: int = 2) -> np.ndarray:
        return 100 + 300 * np.random.default_rng(0).random(size=(2, frames, 17, bodies))

    def clip(self, raw: np.ndarray, *, confidence: Any = None, image_size: Any = None, **changes: Any) -> Any:
        preprocessing = options(**{"align": "none", "lost_frames": "interpolate", "frames": raw.shape[1], **changes})
        return preprocessing(raw, self.COCO, confidence=confidence, image_size=image_size)

    def test_lie_in_the_plane_with_y_up(self) -> None:
        raw = self.raw()
        clip = self.clip(raw, center="none", scale="none")
        np.testing.assert_array_equal(clip.joints, np.stack((raw[0], -raw[1], 0 * raw[0])).astype(np.float32))
        assert clip.third == "zero"
        assert self.clip(raw, scale=True).joints.any()

    def test_are_scaled_by_the_body_unless_asked_otherwise(self) -> None:
        raw = self.raw()
        scaled = self.clip(raw).joints
        np.testing.assert_allclose(scaled, self.clip(7 * raw, scale="body").joints, rtol=1e-4, atol=1e-5)
        unscaled = self.clip(raw, scale="none").joints
        np.testing.assert_array_equal(scaled, scale_to_body(unscaled, self.COCO))

    def test_are_scaled_by_the_image(self) -> None:
        raw = self.raw()
        pixels = self.clip(raw, image_size=(640, 480), scale="image")
        np.testing.assert_allclose(pixels.joints, self.clip(raw, scale="none").joints / 320, rtol=1e-5, atol=1e-6)
        shares = self.clip(raw / np.array([640, 480]).reshape(2, 1, 1, 1), image_size=(640, 480), scale="image")
        np.testing.assert_allclose(shares.joints, pixels.joints, rtol=1e-4, atol=1e-5)
        unknown = self.clip(raw / 500, scale="image")
        np.testing.assert_allclose(unknown.joints, self.clip(raw, scale="none").joints / 250, rtol=1e-4, atol=1e-5)
        with pytest.raises(ValueError, match=r"scale: image needs the size of the image, which the recording does not"):
            self.clip(raw, scale="image")

    def test_confidence_as_the_third_coordinate(self) -> None:
        raw = self.raw()
        confidence = np.random.default_rng(1).uniform(0.2, 1, size=raw.shape[1:])
        confidence[4, 6, 0] = 0  # lost, wherever it is said to be
        raw[:, 4, 6, 0] = 1e6
        raw[:, 5, 3, 1] = 0  # lost, whatever is said of it
        plain = self.clip(raw, confidence=confidence)
        clip = self.clip(raw, confidence=confidence, third="confidence")
        np.testing.assert_array_equal(clip.joints[:2], plain.joints[:2])
        assert not plain.joints[2].any()
        confidence[5, 3, 1] = 0
        np.testing.assert_allclose(clip.joints[2], confidence, rtol=1e-6)
        assert (clip.third, clip.lost_joints) == ("confidence", 2)
        assert np.abs(clip.joints).max() < 1e3
        resized = self.clip(raw, confidence=confidence, third="confidence", frames=4)
        np.testing.assert_allclose(resized.joints[2], resize_time(confidence[None].astype(np.float32), 4)[0], rtol=1e-5)

    @pytest.mark.parametrize("lost_frames", ["interpolate", "drop", "keep"])
    def test_confidences_stay_with_their_frames(self, lost_frames: str) -> None:
        raw = self.raw(bodies=1)
        confidence = np.linspace(0.1, 0.9, 9)[:, None, None].repeat(17, axis=1)
        raw[:, [3, 8]] = 0
        clip = self.clip(
            raw, confidence=confidence, third="confidence", lost_frames=lost_frames, lost_joints="zero", frames=7
        )
        told = np.where(raw.any(axis=0), confidence, 0)
        expected = {"interpolate": told, "drop": told[[0, 1, 2, 4, 5, 6, 7]], "keep": told[:7]}[lost_frames]
        np.testing.assert_allclose(
            clip.joints[2, ..., :1], resize_time(expected[None].astype(np.float32), 7)[0], rtol=1e-5
        )
        assert not clip.joints[..., 1].any()

    def test_another_layout(self) -> None:
        raw, mapping = self.raw(), SkeletonLayout.mapping("coco17", "ntu25")
        confidence = np.random.default_rng(1).uniform(0.2, 1, size=raw.shape[1:])
        preprocessing = options(align="none", lost_frames="interpolate", frames=9, third="confidence")
        clip = preprocessing(raw, self.COCO, confidence=confidence, mapping=mapping)
        assert clip.joints.shape == (3, 9, 25, 2)
        assert not clip.joints[:2, :, NTU.root].any()  # centered on the root of the layout that is stored
        hips = [self.COCO.joint_names.index(f"{side}_hip") for side in ("left", "right")]
        np.testing.assert_allclose(clip.joints[2, :, 0], confidence[:, hips].mean(axis=1), rtol=1e-5)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"align": "frame"}, "align: expected none for points in an image, which cannot be turned, got 'frame'"),
            ({"third": "confidence"}, "third: expected the recording to hold confidences"),
            ({"confidence": np.ones((9, 17, 1))}, r"confidence: expected the shape \(9, 17, 2\) of the joints"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.clip(self.raw(), **changes)

    @pytest.mark.parametrize("change", [{"third": "confidence"}, {"scale": "image"}])
    def test_joints_in_space_are_none(self, change: dict[str, Any]) -> None:
        (option, value), *_ = change.items()
        with pytest.raises(ValueError, match=f"{option}: {value} is for points in an image"):
            options(**change)(recording(), NTU)


@pytest.mark.parametrize("lost_frames", ["interpolate", "drop", "keep"])
@pytest.mark.parametrize("shape", [(3, 5, 25, 1), (3, 5, 25, 0), (3, 0, 25, 1)])
def test_clips_without_a_body(lost_frames: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(NoBodyError, match="no body is ever seen"):
        options(lost_frames=lost_frames)(np.zeros(shape), NTU)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_coordinates_that_are_not_finite(value: float) -> None:
    raw = recording(bodies=2)
    raw[2, 6, 4, 1] = value
    raw[0, 8] = value
    message = f"frame 7: the z coordinate of left_shoulder of body 2 is {value}, which is not a finite float32"
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        options()(raw, NTU)


@pytest.mark.parametrize("shape", [(25, 3, 9), (3, 9, 20, 1), (4, 9, 25, 1), (2, 9, 20, 1)])
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"joints must have the shape \(3, frames, 25, bodies\) for the layout 'ntu25'"
    ):
        options()(np.ones(shape), NTU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 0}, "frames: expected a positive integer, got 0"),
        ({"bodies": True}, "bodies: expected a positive integer, got True"),
        ({"center": "hips"}, "center: expected one of .*, got 'hips'"),
        ({"lost_frames": "ignore"}, "lost_frames: expected one of .*, got 'ignore'"),
        ({"lost_joints": "ignore"}, "lost_joints: expected one of .*'nan'.*, got 'ignore'"),
        ({"scale": "meters"}, "scale: expected one of .*'image'.*, got 'meters'"),
        ({"third": "color"}, "third: expected one of .*'confidence'.*, got 'color'"),
    ],
)
def test_wrong_options(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(**change)

"""From raw recordings to the prepared folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import write_msr_clip, write_npz, write_ntu_clip, write_nw_ucla_clip

from ikem.cli import main
from ikem.data.dataset import PreparedDataset
from ikem.data.formats import FORMATS, ClipSource, Format, RawClip
from ikem.data.formats.base import Discovery
from ikem.data.formats.msr_action3d import MsrAction3d
from ikem.data.prepare import prepare
from ikem_ext import SkeletonLayout, get_layout

RNG = np.random.default_rng(0)


def body(frames: int = 12, joints: int = 20) -> np.ndarray:
    """(3, frames, joints, 1), different at every call."""
    return RNG.normal(size=(3, frames, joints, 1)).round(6)


def write_msr(folder: Path) -> Path:
    """Four clips of MSR-Action3D: sound, two lost frames, all lost, sound."""
    folder.mkdir()
    for subject in (1, 2, 3, 4):
        joints = body()
        if subject == 2:
            joints[:, 4:6] = 0
        write_msr_clip(folder, joints * (subject != 3), subject=subject)
    return folder


def npz_arrays(**changes: Any) -> dict[str, Any]:
    arrays = {
        "joints": RNG.normal(size=(4, 3, 9, 25, 2)).astype(np.float32),
        "num_frames": np.array([9, 5, 7, 9]),
        "labels": np.array([0, 1, 0, 1]),
        "subjects": np.array([1, 1, 2, 2]),
        "layout": "ntu25",
        **changes,
    }
    return {key: value for key, value in arrays.items() if value is not None}


class TestRealRecordings:
    def test_utd_mhad(self, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        summary = prepare("utd-mhad", shared / "data" / "utd-mhad", tmp_path / "utd")
        assert (summary.clips, summary.skipped, summary.notes) == (861, {}, [])
        assert summary.num_frames == (41, 67, 125)
        assert "861 clips of 27 classes" in capsys.readouterr().out
        dataset = PreparedDataset(tmp_path / "utd")
        assert dataset.joints.shape == (861, 3, 50, 20, 1)
        assert dataset.layout.name == "utd20"
        train, test = (dataset.split("cross-subject", part) for part in ("train", "test"))
        assert (len(train), len(test)) == (431, 430)
        assert list(dataset.protocols["cross-subject"]) == ["train", "test"]
        assert {dataset.clips[index].subject for index in train} == {1, 3, 5, 7}
        assert np.bincount(dataset.labels).min() >= 31
        assert np.abs(dataset.joints).max(axis=(1, 2, 3, 4)).min() > 0.3  # every clip holds a body
        assert not dataset.joints[:, :, :, dataset.layout.root].any()

    def test_sbu(self, shared: Path, tmp_path: Path) -> None:
        prepare("sbu", shared / "data" / "sbu-interaction", tmp_path / "sbu", center="first_frame")
        dataset = PreparedDataset(tmp_path / "sbu")
        assert dataset.joints.shape == (282, 3, 50, 15, 2)
        assert (np.abs(dataset.joints).max(axis=(1, 2, 3)) > 0.3).all()  # two bodies in every clip
        assert sorted(dataset.protocols) == ["fold1", "fold2", "fold3", "fold4", "fold5"]
        tests = np.concatenate([dataset.split(f"fold{fold}", "test") for fold in range(1, 6)])
        np.testing.assert_array_equal(np.sort(tests), np.arange(282))
        roots = dataset.joints[dataset.labels == 0, :, :, dataset.layout.root]
        distance = np.linalg.norm(roots[..., 0] - roots[..., 1], axis=1)  # which centering on one frame keeps
        assert (distance[:, 0] > distance[:, -1] + 0.3).mean() > 0.9

    def test_nw_ucla(self, shared: Path, tmp_path: Path) -> None:
        prepare("nw-ucla", shared / "data" / "nw-ucla", tmp_path / "out", frames=4)
        data = PreparedDataset(tmp_path / "out")
        assert (len(data), len(data.classes), len({clip.subject for clip in data.clips})) == (1484, 10, 10)
        assert {part: len(clips) for part, clips in data.protocols["cross-view"].items()} == {
            "train": 1020,
            "test": 464,
            "test_without_repeats": 369,
        }

    def test_ntu_samples(self, shared: Path, tmp_path: Path, golden: Any) -> None:
        summary = prepare("ntu60", shared / "data" / "ntu-samples", tmp_path / "ntu")
        assert summary.clips == 6
        without = ["S001C002P006R001A008", "S001C003P005R002A004", "S002C002P011R002A030"]
        assert summary.skipped == {"no body is ever seen": without}
        assert all(name in (tmp_path / "ntu" / "summary.md").read_text() for name in without)
        assert json.loads((tmp_path / "ntu" / "summary.json").read_text())["skipped"] == summary.skipped
        dataset = PreparedDataset(tmp_path / "ntu")
        expected = golden("ntu_preprocess")
        for clip, joints in zip(dataset.clips, dataset.joints, strict=True):
            np.testing.assert_allclose(joints, expected[f"{clip.name}/position50"], rtol=0, atol=3e-7)
            assert clip.num_frames == expected[f"{clip.name}/num_frames"]
        published = {
            "frames": 50,
            "bodies": 2,
            "center": "frame",
            "align": "frame",
            "lost_frames": "keep",
            "scale": "none",
            "lost_joints": "keep",
            "third": "zero",
        }
        assert dataset.preprocessing == published
        assert [clip.name for clip in dataset.clips if clip.subject == 20] == ["S017C003P020R002A055"]

    def test_lists_of_missing_skeletons(self, shared: Path, tmp_path: Path) -> None:
        (tmp_path / "raw").mkdir()
        for file in (shared / "data" / "ntu-samples").glob("*.skeleton"):
            (tmp_path / "raw" / file.name).symlink_to(file)
        (tmp_path / "raw" / "S001C001P001R001A002.skeleton").write_text("damaged")
        listed = ["S001C001P001R001A002", "S001C001P001R001A005"]
        (tmp_path / "list.txt").write_text("\n".join([*listed, "S001C002P006R001A008", "S010C001P001R001A001"]))
        summary = prepare("ntu120", tmp_path / "raw", tmp_path / "out", missing=tmp_path / "list.txt")
        assert summary.clips == 5
        assert summary.skipped["named in a list of clips with missing skeletons"] == listed
        assert len(summary.skipped["no body is ever seen"]) == 3
        (tmp_path / "raw" / "NTU_RGBD_samples_with_missing_skeletons.txt").write_text("\n".join(listed) + "\n")
        found = prepare("ntu60", tmp_path / "raw", tmp_path / "found")
        assert found.skipped == summary.skipped
        with pytest.raises(ValueError, match=r"missing: lists .* exist for NTU only, not sbu"):
            prepare("sbu", shared / "data" / "sbu-interaction", tmp_path / "sbu", missing=tmp_path / "list.txt")

    def test_clips_known_to_be_bad_that_may_still_be_in(self, shared: Path, tmp_path: Path) -> None:
        raw = tmp_path / "raw"
        raw.mkdir()
        write_ntu_clip(raw, RNG.normal(size=(3, 5, 25, 1)))
        for format, number in (("ntu60", "302"), ("ntu120", "535")):
            summary = prepare(format, raw, tmp_path / format)
            (warning,) = (warning for warning in summary.warnings if "missing" in warning)
            assert f"list {number} clips" in warning
            assert "may still be in" in warning
            assert "**warning**: the authors" in (tmp_path / format / "summary.md").read_text()
        official = shared / "data" / "ntu-samples" / "NTU_RGBD120_samples_with_missing_skeletons.txt"
        (raw / "ntu_rgb120_missings.txt").symlink_to(official)
        for format in ("ntu60", "ntu120"):
            assert "missing" not in " ".join(prepare(format, raw, tmp_path / "listed", overwrite=True).warnings)
        write_ntu_clip(raw, RNG.normal(size=(3, 5, 25, 1)), name="S001C002P005R002A008.skeleton")
        found = prepare("ntu60", raw, tmp_path / "found")
        assert found.skipped == {"named in a list of clips with missing skeletons": ["S001C002P005R002A008"]}

    def test_frames_that_the_published_length_cuts_off(self, tmp_path: Path) -> None:
        raw = tmp_path / "raw"
        raw.mkdir()
        joints = RNG.normal(size=(3, 30, 25, 1))
        joints[:, :10] = 0
        write_ntu_clip(raw, joints)
        write_ntu_clip(raw, RNG.normal(size=(3, 12, 25, 1)), name="S001C001P001R001A002.skeleton")
        cut = prepare("ntu60", raw, tmp_path / "cut")
        note = cut.notes[1]
        assert note.startswith("1 clips lost frames with bodies in them")
        assert note.endswith(": S001C001P001R001A001 (10)")
        assert "nothing was left out" not in cut.to_markdown()
        whole = prepare("ntu60", raw, tmp_path / "whole", lost_frames="interpolate")
        assert (len(whole.notes), whole.losses) == (1, {})
        assert "nothing was left out" in whole.to_markdown()


class TestNwUcla:
    def test_repeated_clips_are_marked(self, tmp_path: Path) -> None:
        raw = tmp_path / "raw"
        raw.mkdir()
        for action in (1, 2, 3):
            for execution in (0, 1):
                joints = [body(), body()]
                for view in (1, 2, 3):
                    # View 3 of actions 2 and 3 is view 2 again, but for one clip that differs in one coordinate.
                    repeats = view == 3 and action > 1
                    clip = joints[1].copy() if repeats or view == 2 else body()
                    if repeats and (action, execution) == (3, 1):
                        clip[2, 7, 5, 0] += 1e-6
                    write_nw_ucla_clip(raw, clip, action=action, execution=execution, view=view)
        summary = prepare("nw-ucla", raw, tmp_path / "out")
        assert summary.protocols == {"cross-view": {"train": 12, "test": 6, "test_without_repeats": 3}}
        dataset = PreparedDataset(tmp_path / "out")
        assert dataset.joints.shape == (18, 3, 50, 20, 1)
        assert {dataset.clips[index].camera for index in dataset.split("cross-view", "train")} == {1, 2}
        assert {dataset.clips[index].camera for index in dataset.split("cross-view", "test")} == {3}
        unseen = [dataset.clips[index].name for index in dataset.split("cross-view", "test_without_repeats")]
        assert unseen == ["a01_s01_e00_v03", "a01_s01_e01_v03", "a03_s01_e01_v03"]


class TestMsrAction3d:
    def test_lost_frames_and_clips(self, tmp_path: Path) -> None:
        raw = write_msr(tmp_path / "raw")
        for option, num_frames, done in (
            ("interpolate", 12, "interpolated"),
            ("drop", 10, "dropped"),
            ("keep", 10, "kept as they are, as published"),
        ):
            summary = prepare("msr-action3d", raw, tmp_path / option, lost_frames=option)  # type: ignore[arg-type]
            assert summary.skipped == {"no body is ever seen": ["a01_s03_e01"]}
            assert summary.notes[0] == f"2 frames without any body in 1 clips were {done}"
            assert len(summary.notes) == 1 + (option == "keep")
            dataset = PreparedDataset(tmp_path / option)
            assert dataset.num_frames.tolist() == [12, num_frames, 12]
            assert list(dataset.protocols) == ["cross-subject"]
            assert [dataset.split("cross-subject", part).tolist() for part in ("train", "test")] == [[0], [1, 2]]
            present = dataset.joints.any(axis=(1, 3, 4))
            assert present.all() == (option != "keep")


class TestOwnData:
    def test_arrays(self, tmp_path: Path) -> None:
        arrays = npz_arrays()
        arrays["joints"][1, :, 5:] = 0
        arrays["joints"][2, ..., 1] = 0
        summary = prepare("npz", write_npz(tmp_path, **arrays), tmp_path / "out", frames=9, center="none")
        assert summary.protocols == {"cross-subject": {"train": 2, "test": 2}}
        dataset = PreparedDataset(tmp_path / "out")
        assert (dataset.name, dataset.layout.name, dataset.classes) == ("npz", "ntu25", ["0", "1"])
        np.testing.assert_array_equal(dataset.joints[0], arrays["joints"][0])
        np.testing.assert_array_equal(dataset.num_frames, arrays["num_frames"])
        assert dataset.joints[1, :, -1].any()  # the five frames are resized to nine
        assert not dataset.joints[2, ..., 1].any()

    def test_a_layout_from_a_yaml_file(self, tmp_path: Path) -> None:
        (tmp_path / "arm.yaml").write_text(
            "{name: arm, joints: [shoulder, elbow, hand], parents: {elbow: shoulder, hand: elbow},"
            " torso: [shoulder, elbow, hand]}"
        )
        raw = write_npz(tmp_path, **npz_arrays(joints=RNG.normal(size=(4, 3, 9, 3, 1)), layout=None))
        prepare("npz", raw, tmp_path / "out", layout=str(tmp_path / "arm.yaml"), bodies=2)
        dataset = PreparedDataset(tmp_path / "out")
        assert (dataset.layout.name, dataset.joints.shape) == ("arm", (4, 3, 50, 3, 2))
        with pytest.raises(ValueError, match=r"layout: .*recordings\.npz does not name its layout"):
            prepare("npz", raw, tmp_path / "other")
        with pytest.raises(ValueError, match=r"\(3, frames, 25, bodies\) for the layout 'ntu25', got \(3, 9, 3, 1\)"):
            prepare("npz", raw, tmp_path / "other", layout="ntu25")

    def test_bodies_that_do_not_fit_are_reported(self, tmp_path: Path) -> None:
        summary = prepare("npz", write_npz(tmp_path, **npz_arrays()), tmp_path / "out", bodies=1)
        assert summary.notes == ["4 clips have more than 1 bodies, of which the first were kept: 0, 1, 2, 3"]

    def test_long_lists_of_names_are_complete_in_the_file(self, tmp_path: Path) -> None:
        arrays = npz_arrays(joints=RNG.normal(size=(30, 3, 4, 25, 2)), num_frames=np.full(30, 4))
        arrays |= {"labels": np.arange(30) % 2, "subjects": np.arange(30)}
        summary = prepare("npz", write_npz(tmp_path, **arrays), tmp_path / "out", bodies=1)
        (note,) = summary.notes
        assert note.endswith("16, 17, 18, 19 and 10 more, all named in summary.json")
        losses = json.loads((tmp_path / "out" / "summary.json").read_text())["losses"]
        assert list(losses.values()) == [[str(number) for number in range(30)]]


class TestWithoutLabelsOrParts:
    def test_no_labels_at_all(self, tmp_path: Path) -> None:
        arrays = npz_arrays(labels=None, subjects=None)
        summary = prepare("npz", write_npz(tmp_path, **arrays), tmp_path / "out")
        assert summary.protocols == {"all": {"train": 4, "test": 0}}
        assert summary.warnings == ["protocol all cannot be evaluated: none of its 4 training clips has a label"]
        assert "4 clips, none of which has a label" in summary.to_markdown()
        dataset = PreparedDataset(tmp_path / "out")
        assert (dataset.labels.tolist(), dataset.classes) == ([-1] * 4, [])
        assert [clip.label for clip in dataset.clips] == [None] * 4

    def test_some_labels(self, tmp_path: Path) -> None:
        arrays = npz_arrays(labels=np.array([0, 1, -1, 1]))
        summary = prepare("npz", write_npz(tmp_path, **arrays), tmp_path / "out")
        assert (summary.unlabelled, summary.warnings) == (1, [])
        assert "4 clips of 2 classes (1 have no label)" in summary.to_markdown()
        assert PreparedDataset(tmp_path / "out").labels.tolist() == [0, 1, -1, 1]

    @pytest.mark.parametrize(
        ("changes", "warning"),
        [
            ({"subjects": np.ones(4, int)}, "protocol cross-subject cannot be evaluated: it has no test clip"),
            ({"labels": np.array([1, 1, 0, 0])}, "protocol cross-subject cannot be evaluated: its training clips are"),
            ({"labels": np.array([0, 1, -1, -1])}, "evaluated: none of its 2 test clips has a label"),
            (
                {"subjects": None, "train": np.zeros(4, int)},
                "protocol given can neither be trained on nor evaluated: it has no training clip",
            ),
        ],
    )
    def test_what_a_protocol_lacks(self, tmp_path: Path, changes: dict[str, Any], warning: str) -> None:
        summary = prepare("npz", write_npz(tmp_path, **npz_arrays(**changes)), tmp_path / "out")
        assert warning in summary.warnings[0]
        assert warning in (tmp_path / "out" / "summary.md").read_text()


class TestUnits:
    def prepared(self, tmp_path: Path, joints: np.ndarray) -> list[str]:
        raw = write_npz(tmp_path, **npz_arrays(joints=joints.astype(np.float32)))
        return prepare("npz", raw, tmp_path / "out", center="none").warnings

    def pixels(self) -> np.ndarray:
        joints = RNG.uniform(50, 900, size=(4, 3, 9, 25, 1))
        joints[:, 2] = RNG.uniform(0.1, 1, size=(4, 9, 25, 1))
        joints[0, :2, 2, 3, 0] = 1800, 12.5
        return joints

    def test_pixels_with_confidences_are_noticed(self, tmp_path: Path) -> None:
        (note,) = self.prepared(tmp_path, self.pixels())
        assert note.startswith("in 4 of 4 clips x and y reach from 12.5 to 1800, z from 0.1")
        assert "looks like keypoints in pixels with their confidences as z, not meters" in note
        assert f"**warning**: {note}" in (tmp_path / "out" / "summary.md").read_text()

    def test_images_without_depth_are_noticed(self, tmp_path: Path) -> None:
        flat = self.pixels() / 2000 * np.array([1, 1, 0]).reshape(3, 1, 1, 1)
        (note,) = self.prepared(tmp_path, flat)
        assert "z from 0 to 0: this looks like points in an image, not joints in space" in note

    def test_millimeters_are_noticed(self, tmp_path: Path) -> None:
        joints = RNG.normal(size=(4, 3, 9, 25, 1))
        joints[1] *= 1000
        (note,) = self.prepared(tmp_path, joints)
        assert note.startswith("in 1 of 4 clips")
        assert "looks like millimeters or pixels" in note

    def test_meters_are_not(self, tmp_path: Path) -> None:
        assert self.prepared(tmp_path, 3 * RNG.normal(size=(4, 3, 9, 25, 1))) == []


class TestLostJoints:
    def test_are_counted(self, tmp_path: Path) -> None:
        joints = RNG.normal(size=(4, 3, 9, 25, 1)) + 3
        joints[0, :, 2, 3] = joints[0, :, 3, 4] = joints[1, :, 2, 5] = 0
        raw = write_npz(tmp_path, **npz_arrays(joints=joints))
        summary = prepare("npz", raw, tmp_path / "out", center="none", frames=9)
        assert summary.notes == ["3 lost joints in 2 clips were filled in"]
        filled = PreparedDataset(tmp_path / "out").joints
        np.testing.assert_allclose(filled[0, :, 2, 3], (joints[0, :, 1, 3] + joints[0, :, 3, 3]) / 2, rtol=1e-5)
        kept = prepare("npz", raw, tmp_path / "kept", center="none", frames=9, lost_joints="keep")
        assert kept.notes == []
        np.testing.assert_array_equal(PreparedDataset(tmp_path / "kept").joints[0], joints[0].astype(np.float32))


class TestLayoutOut:
    def test_joints_by_name_and_as_means(self, tmp_path: Path) -> None:
        joints = RNG.normal(size=(4, 3, 9, 25, 1))
        raw = write_npz(tmp_path, **npz_arrays(joints=joints))
        summary = prepare("npz", raw, tmp_path / "out", layout_out="kinect20", center="none", frames=9)
        dataset = PreparedDataset(tmp_path / "out")
        assert dataset.layout == get_layout("kinect20")
        np.testing.assert_allclose(dataset.joints[0], SkeletonLayout.mapping("ntu25", "kinect20")(joints[0]), rtol=1e-5)
        assert summary.notes == [
            "joints are those of kinect20, taken from ntu25; made of others: none; "
            "not used: neck, left_hand_tip, left_thumb, right_hand_tip, right_thumb"
        ]
        (note,) = prepare("npz", raw, tmp_path / "coco", layout_out="coco17").notes
        assert "made of others: nose by head, left_eye by head" in note

    def test_joints_that_cannot_be_had_are_named(self, tmp_path: Path) -> None:
        raw = write_npz(tmp_path, **npz_arrays())
        message = "layout_out: layout 'hand22' has joints that layout 'ntu25' says nothing of: wrist, palm, thumb_base"
        with pytest.raises(ValueError, match=message):
            prepare("npz", raw, tmp_path / "out", layout_out="hand22")
        assert not (tmp_path / "out").exists()


class TestPointsInAnImage:
    @pytest.fixture
    def recorded(self, monkeypatch: pytest.MonkeyPatch) -> list[RawClip]:
        """Clips that the format ``poses`` is going to read."""
        clips: list[RawClip] = []

        class Poses(Format):
            name, layout, bodies, classes = "poses", "coco17", 1, ("a", "b")

            def discover(self) -> Discovery:
                parts = ({"given": "train"}, {"given": "test"})
                sources = [ClipSource(str(i), i % 2, self.raw, index=i, parts=parts[i % 2]) for i in range(len(clips))]
                return Discovery(sources, {})

            def read(self, source: ClipSource) -> RawClip:
                assert source.index is not None
                return clips[source.index]

        monkeypatch.setitem(FORMATS, "poses", Poses)
        return clips

    def prepared(self, folder: Path, **options: Any) -> PreparedDataset:
        prepare("poses", folder, folder / "data" / "out", frames=12, **options)  # type: ignore[arg-type]
        return PreparedDataset(folder / "data" / "out")

    def clip(self) -> RawClip:
        points = RNG.uniform(10, 400, size=(2, 12, 17, 1))
        return RawClip(points, RNG.uniform(0.1, 1, size=(12, 17, 1)), (640, 480))

    @pytest.mark.parametrize("third", ["zero", "confidence"])
    def test_the_layout_says_what_the_third_coordinate_is(self, tmp_path: Path, recorded: Any, third: Any) -> None:
        recorded += [self.clip(), self.clip()]
        dataset = self.prepared(tmp_path, third=third)
        assert json.loads((dataset.folder / "summary.json").read_text())["notes"] == []
        assert dataset.layout == replace(get_layout("coco17"), third=third)
        assert (dataset.preprocessing["scale"], dataset.preprocessing["third"]) == ("body", third)
        expected = recorded[0].confidence if third == "confidence" else np.zeros((12, 17, 1))
        np.testing.assert_allclose(dataset.joints[0, 2], expected, rtol=1e-6)

    def test_are_not_mixed_with_joints_in_space(self, tmp_path: Path, recorded: Any) -> None:
        recorded += [self.clip(), RawClip(RNG.normal(size=(3, 9, 17, 1)))]
        message = "clip 1 holds joints in space, the clips before it points in an image; prepare them apart"
        with pytest.raises(ValueError, match=message):
            self.prepared(tmp_path)
        assert not list((tmp_path / "data").iterdir())

    def test_are_scaled_by_the_image_where_it_is_known(self, tmp_path: Path, recorded: Any) -> None:
        recorded += [self.clip(), replace(self.clip(), image_size=None)]
        with pytest.raises(ValueError, match=r"1 clips are damaged[\s\S]*clip 1: scale: image needs the size"):
            self.prepared(tmp_path, scale="image")
        recorded[1] = self.clip()
        points = recorded[0].joints - recorded[0].joints[:, :, :1]
        expected = points * np.array([1, -1]).reshape(2, 1, 1, 1) / 320
        np.testing.assert_allclose(self.prepared(tmp_path, scale="image").joints[0, :2], expected, rtol=1e-4, atol=1e-5)


class TestDamagedClips:
    def raw(self, tmp_path: Path) -> Path:
        raw = write_msr(tmp_path / "raw")
        joints = body()
        joints[1, 8, 7] = np.nan
        write_msr_clip(raw, joints, subject=5)
        (raw / "a01_s06_e01_skeleton3D.txt").write_text("1 2 3\n")
        return raw

    def test_are_all_named_and_refused(self, tmp_path: Path) -> None:
        raw = self.raw(tmp_path)
        with pytest.raises(ValueError, match=r"raw: 2 clips are damaged; .* skip_damaged") as error:
            prepare("msr-action3d", raw, tmp_path / "out")
        assert "clip a01_s05_e01: frame 9: the y coordinate of left_elbow of body 1 is nan" in str(error.value)
        assert "clip a01_s06_e01: " in str(error.value)
        assert "a01_s06_e01_skeleton3D.txt:1: expected 4 numbers, got 3 fields" in str(error.value)
        assert [path.name for path in tmp_path.iterdir()] == ["raw"]

    def test_all_hundred_of_them(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        raw = write_msr(tmp_path / "raw")
        damaged = [f"a02_s{subject:02d}_e{execution:02d}" for subject in range(1, 11) for execution in range(1, 11)]
        for name in damaged:
            (raw / f"{name}_skeleton3D.txt").write_text("1 2 3 4\n1 2 3\n")
        with pytest.raises(SystemExit) as stop:
            main(["prepare", "msr-action3d", str(raw), str(tmp_path / "out")])
        assert stop.value.code == 2
        *lines, last = capsys.readouterr().err.splitlines()
        assert [line.split(":")[0] for line in lines] == [f"clip {name}" for name in damaged]
        assert all(line.endswith("_skeleton3D.txt:2: expected 4 numbers, got 3 fields") for line in lines)
        assert last.startswith("ikem prepare: error: raw: 100 clips are damaged; ")
        assert not (tmp_path / "out").exists()

    def test_can_be_left_out(self, tmp_path: Path) -> None:
        summary = prepare("msr-action3d", self.raw(tmp_path), tmp_path / "out", skip_damaged=True)
        assert summary.clips == 3
        assert [reason.split(":")[0] for reason in summary.skipped["damaged"]] == [
            "clip a01_s05_e01",
            "clip a01_s06_e01",
        ]
        assert len(PreparedDataset(tmp_path / "out")) == 3


class TestInterrupted:
    def test_by_the_user(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        raw = write_msr(tmp_path / "raw")
        read = MsrAction3d.read

        def interrupted(self: MsrAction3d, source: Any) -> Any:
            if source.subject == 4:
                raise KeyboardInterrupt
            return read(self, source)

        monkeypatch.setattr(MsrAction3d, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare("msr-action3d", raw, tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["raw"]

    def test_killed_nothing_looks_finished(self, tmp_path: Path) -> None:
        raw = write_msr(tmp_path / "raw")
        script = """
            import os, signal, sys
            from ikem.data.formats.msr_action3d import MsrAction3d
            from ikem.data.prepare import prepare
            read = MsrAction3d.read
            def killed(self, source):
                if source.subject == 4:
                    os.kill(os.getpid(), signal.SIGKILL)
                return read(self, source)
            MsrAction3d.read = killed
            prepare("msr-action3d", *sys.argv[1:], workers=1)
        """
        command = [sys.executable, "-c", textwrap.dedent(script), str(raw), str(tmp_path / "out")]
        path = os.pathsep.join(sys.path)
        result = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False, capture_output=True)
        assert result.returncode == -signal.SIGKILL, result.stderr.decode()
        (partial,) = (path for path in tmp_path.iterdir() if path != raw)
        assert partial.name.startswith("out.partial-")
        with pytest.raises(ValueError, match="is not a prepared data set"):
            PreparedDataset(partial)
        assert prepare("msr-action3d", raw, tmp_path / "out").clips == 3


class TestWrongArguments:
    def test_existing_folder(self, tmp_path: Path) -> None:
        raw = write_msr(tmp_path / "raw")
        prepare("msr-action3d", raw, tmp_path / "out")
        before = (tmp_path / "out" / "joints.npy").stat().st_mtime_ns
        with pytest.raises(FileExistsError, match="out exists already"):
            prepare("msr-action3d", raw, tmp_path / "out")
        assert (tmp_path / "out" / "joints.npy").stat().st_mtime_ns == before
        prepare("msr-action3d", raw, tmp_path / "out", overwrite=True, frames=20)
        assert PreparedDataset(tmp_path / "out").joints.shape[2] == 20

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"format": "kinetics"}, "format: expected one of .*'utd-mhad'.*, got 'kinetics'"),
            ({"workers": 0}, "workers: expected a positive integer, got 0"),
            ({"frames": 0}, "frames: expected a positive integer, got 0"),
            ({"bodies": -1}, "bodies: expected a positive integer, got -1"),
            ({"center": "hips"}, "center: expected one of"),
            ({"layout": "ntu26"}, "layout must be one of"),
            ({"format": "utd-mhad"}, "raw: found no clip of utd-mhad in .*, such as a1_s1_t1_skeleton.mat"),
        ],
    )
    def test_refused_by_name(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        arguments = {"format": "msr-action3d", "raw": write_msr(tmp_path / "raw"), "out": tmp_path / "out", **changes}
        with pytest.raises(ValueError, match=message):
            prepare(**arguments)
        assert [path.name for path in tmp_path.iterdir()] == ["raw"]

    def test_recordings_are_not_overwritten(self, tmp_path: Path) -> None:
        raw = write_msr(tmp_path / "raw")
        for out in (raw, tmp_path):
            with pytest.raises(ValueError, match=r"holds the recordings .* and would replace them"):
                prepare("msr-action3d", raw, out, overwrite=True)
        assert len(list(raw.iterdir())) == 4

    def test_no_clip_left(self, tmp_path: Path) -> None:
        (tmp_path / "raw").mkdir()
        write_msr_clip(tmp_path / "raw", np.zeros((3, 5, 20, 1)))
        with pytest.raises(ValueError, match=r"no clip in .* is left, all were left out: {'no body is ever seen': 1}"):
            prepare("msr-action3d", tmp_path / "raw", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_one_worker_gives_what_many_give(self, tmp_path: Path) -> None:
        raw = write_msr(tmp_path / "raw")
        for workers in (1, 5):
            prepare("msr-action3d", raw, tmp_path / str(workers), workers=workers)
        for name in ("joints.npy", "clips.csv", "dataset.json", "summary.json"):
            assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "5" / name).read_bytes()

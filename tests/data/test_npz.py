"""Arrays of one's own, made by the tests and real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import write_npz

from ikem.data.dataset import PreparedDataset
from ikem.data.formats import FORMATS, ClipSource
from ikem.data.prepare import prepare
from ikem_ext import LAYOUTS, SkeletonLayout


def joints_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


class TestPaddedArrays:
    def test_all_that_they_may_hold(self, tmp_path: Path) -> None:
        joints = joints_of(3, 3, 8, 25, 2)
        confidence = joints_of(3, 8, 25, 2)
        path = write_npz(
            tmp_path,
            joints=joints,
            confidence=confidence,
            num_frames=np.array([8, 5, 1], np.int32),
            labels=np.array([1, 0, -1]),
            class_names=np.array(["wave", "walk", "never seen"]),
            subjects=np.array([4, 2, 4]),
            cameras=np.array([1, 2, 3]),
            setups=np.array([0, 0, 1]),
            replications=np.array([1, 1, 2]),
            names=np.array(["one", "two", "three"]),
            train=np.array([1, 0, 1], np.int8),
            layout="ntu25",
            image_size=np.array([1920, 1080]),
            source="ours",
        )
        recordings = FORMATS["npz"](path)
        assert (recordings.layout, recordings.classes, recordings.bodies, recordings.origin) == (
            "ntu25",
            ("wave", "walk", "never seen"),
            2,
            "ours",
        )
        sources, skipped = recordings.discover()
        assert not skipped
        assert sources[1] == ClipSource("two", 0, path, 2, 2, 0, 1, index=1, parts={"given": "test"})
        assert sources[2].label is None
        clip = recordings.read(sources[1])
        np.testing.assert_array_equal(clip.joints, joints[1, :, :5])
        np.testing.assert_array_equal(clip.confidence, confidence[1, :5])
        assert clip.image_size == (1920, 1080)
        assert recordings.notes == []

    def test_the_least_that_they_must_hold(self, tmp_path: Path) -> None:
        path = write_npz(tmp_path, joints=joints_of(2, 3, 8, 7, 1), num_frames=np.array([8, 5]))
        recordings = FORMATS["npz"](path)
        sources = recordings.discover().sources
        assert (recordings.layout, recordings.classes) == (None, ())
        assert [(source.name, source.label, source.subject) for source in sources] == [
            ("0", None, None),
            ("1", None, None),
        ]
        clip = recordings.read(sources[0])
        assert (clip.confidence, clip.image_size) == (None, None)


class TestRaggedArrays:
    @pytest.mark.parametrize("axes", [2, 3])
    @pytest.mark.parametrize("bodies", [1, 2])
    def test_clips_one_after_another(self, tmp_path: Path, axes: int, bodies: int) -> None:
        people = () if bodies == 1 else (2,)
        frames, confidence = joints_of(9, *people, 7, axes), joints_of(9, *people, 7)
        path = write_npz(tmp_path, frames=frames, confidence=confidence, num_frames=np.array([2, 0, 7]))
        recordings = FORMATS["npz"](path)
        first, empty, last = recordings.discover().sources
        assert recordings.bodies == bodies
        assert recordings.read(empty).joints.shape == (axes, 0, 7, bodies)
        np.testing.assert_array_equal(
            recordings.read(first).joints[..., 0].transpose(1, 2, 0), frames[:2].reshape(2, -1, 7, axes)[:, 0]
        )
        clip = recordings.read(last)
        for body in range(bodies):
            np.testing.assert_array_equal(clip.joints[:, 3, 5, body], frames.reshape(9, bodies, 7, axes)[5, body, 5])
            np.testing.assert_array_equal(clip.confidence[3, 5, body], confidence.reshape(9, bodies, 7)[5, body, 5])

    def test_labels_and_subjects_in_words(self, tmp_path: Path) -> None:
        arrays = {"frames": joints_of(3, 7, 3), "num_frames": np.ones(3, int), "subjects": np.array(["b", "a", "b"])}
        labels = np.array(["walk", "bow", ""])
        for names, expected in ((None, [1, 0, None]), (np.array(["sit", "walk", "bow"]), [1, 2, None])):
            path = write_npz(tmp_path, **arrays, labels=labels, **({} if names is None else {"class_names": names}))
            recordings = FORMATS["npz"](path)
            sources = recordings.discover().sources
            assert [source.label for source in sources] == expected
            assert [source.subject for source in sources] == ["b", "a", "b"]
            assert recordings.classes == (("bow", "walk") if names is None else ("sit", "walk", "bow"))

    def test_arrays_that_are_not_used_are_named(self, tmp_path: Path) -> None:
        path = write_npz(tmp_path, frames=joints_of(3, 7, 3), num_frames=np.ones(3, int), lables=np.zeros(3), fps=30)
        assert FORMATS["npz"](path).notes == ["arrays of the file that are not used: fps, lables"]

    def test_nan_is_a_lost_joint(self, tmp_path: Path) -> None:
        frames = joints_of(6, 2, 20, 3)
        frames[4, 1, 7:, 2] = np.nan
        frames[5] = np.nan
        path = write_npz(
            tmp_path,
            frames=frames,
            num_frames=np.array([3, 3]),
            labels=np.array([0, 0]),
            train=np.array([1, 0]),
            layout="kinect20",
        )
        recordings = FORMATS["npz"](path)
        clip = recordings.read(recordings.discover().sources[1])
        np.testing.assert_array_equal(clip.joints[:, 1, :7, 1], frames[4, 1, :7].T)
        assert not clip.joints[:, 1, 7:, 1].any() and not clip.joints[:, 2].any()
        np.testing.assert_array_equal(clip.confidence == 0, ~clip.joints.any(axis=0))
        assert recordings.read(recordings.discover().sources[0]).confidence is None
        summary = prepare("npz", path, tmp_path / "prepared")
        assert summary.notes[0] == "2 frames in 1 clips hold NaN, in joints that count as lost there"
        assert "1 frames without any body in 1 clips were interpolated" in summary.notes
        data = PreparedDataset(tmp_path / "prepared")
        assert np.isfinite(data.joints).all()


class TestJointNames:
    def arrays(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {"frames": joints_of(3, len(names), 3), "num_frames": np.array([3]), "joint_names": np.array(names)}

    def read(self, path: Path, layout: SkeletonLayout) -> tuple[np.ndarray, list[str]]:
        recordings = FORMATS["npz"](path)
        recordings.begin(layout, path.parent)
        return recordings.read(recordings.discover().sources[0]).joints, recordings.notes

    def test_of_a_layout_in_its_order(self, tmp_path: Path) -> None:
        for name in ("utd20", "msr20", "ntu25"):
            path = write_npz(tmp_path, **self.arrays(LAYOUTS[name].joint_names))
            assert FORMATS["npz"](path).layout == name
            joints, notes = self.read(path, LAYOUTS[name])
            assert notes == []
            np.testing.assert_array_equal(joints[..., 0].transpose(1, 2, 0), joints_of(3, joints.shape[2], 3))

    def test_in_another_order_and_spelling(self, tmp_path: Path) -> None:
        layout = LAYOUTS["kinect20"]
        names = [name.title().replace("_", "") for name in reversed(layout.joint_names)]
        names[layout.num_joints - 1 - layout.joint_names.index("shoulder_center")] = "neck"
        arrays = self.arrays(tuple(names))
        path = write_npz(tmp_path, **arrays, confidence=arrays["frames"][..., 0])
        assert FORMATS["npz"](path).layout == "kinect20"
        joints, notes = self.read(path, layout)
        np.testing.assert_array_equal(joints[..., 0].transpose(1, 2, 0), arrays["frames"][:, ::-1])
        assert notes[0] == "the joints were brought into the order of the layout kinect20"
        assert "neck is its shoulder_center" in notes[1]
        recordings = FORMATS["npz"](path)
        recordings.begin(layout, path.parent)
        clip = recordings.read(recordings.discover().sources[0])
        np.testing.assert_array_equal(clip.confidence, clip.joints[0])

    def test_that_no_layout_has(self, tmp_path: Path) -> None:
        names = (*LAYOUTS["kinect20"].joint_names[:-1], "tail")
        path = write_npz(tmp_path, **self.arrays(names), train=np.array([1]))
        assert FORMATS["npz"](path).layout is None
        with pytest.raises(
            ValueError,
            match=r"joint_names: the joints are not those of the layout kinect20: it has no \['tail'\], "
            r"and has \['right_foot'\]",
        ):
            prepare("npz", path, tmp_path / "prepared", layout="kinect20")
        assert not (tmp_path / "prepared").exists()


class TestWrongFiles:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"joints": None}, r"expected the arrays num_frames and either joints or frames, got \['labels', 'num_"),
            ({"frames": np.zeros((13, 25, 3))}, "expected the arrays num_frames and either joints or frames"),
            ({"num_frames": None}, "expected the arrays num_frames and either joints or frames"),
            ({"joints": np.zeros((2, 3, 8, 25))}, r"joints must be \(N, 3, T, V, M\), or 2 .* got \(2, 3, 8, 25\)"),
            ({"joints": np.zeros((2, 4, 8, 25, 1))}, r"joints must be \(N, 3, T, V, M\)"),
            ({"joints": np.zeros((2, 3, 8, 25, 1), int)}, "joints must be floats, got int64"),
            ({"num_frames": np.array([8])}, r"joints must be .* for the N = 1 clips of num_frames, got \(2, 3, 8,"),
            ({"num_frames": np.array([8.0, 5.0])}, r"num_frames must be integers \(2,\), one per clip, got float64"),
            ({"num_frames": np.array([[8, 5]])}, r"num_frames must be integers .*, got int64 \(1, 2\)"),
            ({"num_frames": np.array([8, 9])}, "num_frames must be from 0 to 8, got 9 for clip 1"),
            ({"num_frames": np.array([8, -1])}, "num_frames must be at least 0, got -1 for clip 1"),
            ({"joints": None, "frames": np.zeros((12, 25, 3))}, "frames must be of the 13 frames .* got 12"),
            ({"joints": None, "frames": np.zeros((13, 75))}, r"frames must be \(L, V, 3\) or \(L, M, V, 3\)"),
            ({"labels": np.array([0, -2])}, "labels must be at least -1, got -2 for clip 1"),
            ({"labels": np.array(["a", "c"]), "class_names": np.array(["a", "b"])}, r"labels must be one of .*, got c"),
            ({"class_names": np.array(["only one"])}, "class_names must be at least 2 strings, as labels go to 1"),
            ({"class_names": np.array([1, 2])}, r"class_names must be strings, got int64 \(2,\)"),
            ({"names": np.array(["a", "a"])}, "names must be 2 different strings"),
            ({"train": np.array([0, 2])}, "train must be from 0 to 1, got 2 for clip 1"),
            ({"subjects": np.array([0.5, 1])}, r"subjects must be integers \(2,\), one per clip"),
            ({"subjects": np.array(["a"])}, r"subjects must be 2 strings, got <U1 \(1,\)"),
            ({"confidence": np.zeros((2, 8, 25))}, r"confidence must be floats \(2, 8, 25, 1\), as the joints are"),
            ({"image_size": np.array([1920])}, "image_size must be width and height in pixels"),
            ({"joint_names": np.array(["head"])}, r"joint_names must be 25 strings, got <U4 \(1,\)"),
        ],
    )
    def test_wrong_arrays(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        arrays: dict[str, Any] = {
            "joints": np.zeros((2, 3, 8, 25, 1)),
            "num_frames": np.array([8, 5]),
            "labels": np.array([0, 1]),
            "subjects": np.array([1, 2]),
        }
        arrays = {key: value for key, value in {**arrays, **change}.items() if value is not None}
        with pytest.raises(ValueError, match=message):
            FORMATS["npz"](write_npz(tmp_path, **arrays)).discover()

    def test_pickles_are_not_opened(self, tmp_path: Path) -> None:
        path = tmp_path / "pickled.npz"
        np.savez(path, joints=np.array([{"a": 1}], dtype=object), num_frames=np.zeros(1), labels=np.zeros(1))
        with pytest.raises(ValueError, match=r"pickled\.npz is not an \.npz file of plain arrays"):
            FORMATS["npz"](path)

    @pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04rubbish"])
    def test_damaged_files(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "damaged.npz"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged\.npz is not an \.npz file"):
            FORMATS["npz"](path)

    def test_a_single_array(self, tmp_path: Path) -> None:
        np.save(tmp_path / "single.npy", np.zeros(3))
        with pytest.raises(ValueError, match=r"single\.npy is not an \.npz file of plain arrays"):
            FORMATS["npz"](tmp_path / "single.npy")


class TestRealRecordings:
    """The counts that the recordings' authors give."""

    def prepare(self, shared: Path, tmp_path: Path, name: str, **options: Any) -> tuple[PreparedDataset, list[str]]:
        summary = prepare("npz", shared / "data" / f"{name}.npz", tmp_path / name, frames=16, **options)
        assert not summary.skipped
        return PreparedDataset(tmp_path / name), summary.notes

    def test_kinder_gator(self, shared: Path, tmp_path: Path) -> None:
        data, notes = self.prepare(shared, tmp_path, "kinder-gator")
        assert (len(data), len(data.classes), len({clip.subject for clip in data.clips})) == (1159, 58, 20)
        assert (data.layout.name, data.num_frames.min(), data.num_frames.max()) == ("kinect20", 50, 525)
        assert data.classes[data.clips[0].label] == "Raise-your-hand"
        subjects = sorted({clip.subject for clip in data.clips}, key=int)
        assert {data.clips[index].subject for index in data.split("cross-subject", "train")} == set(subjects[::2])
        assert notes == []

    def test_indian_sign_language(self, shared: Path, tmp_path: Path) -> None:
        data, notes = self.prepare(shared, tmp_path, "isl-kinect30")
        assert (len(data), len(data.classes), len({clip.subject for clip in data.clips})) == (2700, 30, 10)
        assert (data.layout.name, data.num_frames.min(), data.num_frames.max()) == ("kinect20", 18, 189)
        assert notes == [
            "the joints were brought into the order of the layout kinect20",
            "joints that the layout kinect20 calls otherwise: neck is its shoulder_center",
        ]
        height = dict(zip(data.layout.joint_names, data.joints[:, 1].mean(axis=(0, 1, 3)), strict=True))
        assert height["head"] > height["shoulder_center"] > height["spine"] > height["hip_center"] > height["left_foot"]

    def test_msr_daily_activity(self, shared: Path, tmp_path: Path) -> None:
        data, notes = self.prepare(shared, tmp_path, "msr-daily", train_subjects="1,2,3,4,5,6")
        assert (len(data), len(data.classes), len({clip.subject for clip in data.clips})) == (320, 16, 10)
        assert notes == [
            "4 frames in 4 clips hold NaN, in joints that count as lost there",
            "30 lost joints in 1 clips were filled in",
            "3 frames without any body in 3 clips were interpolated",
        ]
        assert [len(data.split("cross-subject", part)) for part in ("train", "test")] == [192, 128]

    def test_shrec17(self, shared: Path, tmp_path: Path) -> None:
        data, notes = self.prepare(shared, tmp_path, "shrec17")
        assert (len(data), len(data.classes), len({clip.subject for clip in data.clips})) == (2800, 14, 28)
        assert [len(data.split("given", part)) for part in ("train", "test")] == [1960, 840]
        assert notes == ["arrays of the file that are not used: fingers"]

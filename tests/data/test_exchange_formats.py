"""What other projects' code makes of recordings, read as the recordings themselves."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from recordings import pyskl_annotation, write_ctr_gcn, write_npy_pair

from ikem.data.dataset import PreparedDataset
from ikem.data.formats import FORMATS, read_skeleton_file
from ikem.data.formats.pyskl import pair_splits
from ikem.data.prepare import FormatName, prepare
from ikem_ext import get_layout

NTU = ("S001C001P001R001A001", "S001C002P003R002A050", "S002C003P004R001A050")


def clip(frames: int, joints: int = 25, bodies: int = 1, axes: int = 3, seed: int = 0) -> np.ndarray:
    """(axes, frames, joints, bodies), exact in half precision."""
    rng = np.random.default_rng((seed, frames))
    return rng.integers(-1000, 1000, (axes, frames, joints, bodies)).astype(np.float32) / 256


CLIPS = {"train": [clip(7), clip(9, bodies=2)], "test": [clip(12)]}
LABELS = {"train": [0, 49], "test": [49]}


def dump(path: Path, content: Any, protocol: int = 4) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def annotations() -> list[dict[str, Any]]:
    return [
        pyskl_annotation(name, label, joints)
        for name, label, joints in zip(NTU, (0, 49, 49), [*CLIPS["train"], *CLIPS["test"]], strict=True)
    ]


def test_the_command_knows_all_formats() -> None:
    assert set(get_args(FormatName)) == set(FORMATS)


class TestOneClipThroughEveryFormat:
    """The same recordings give the same prepared numbers, whichever way they come."""

    @pytest.fixture(scope="class")
    @staticmethod
    def raw(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
        folder = tmp_path_factory.mktemp("raw")
        train: dict[str, np.ndarray] = {}
        test: dict[str, np.ndarray] = {}
        for path in sorted((shared / "data" / "ntu-samples").glob("*.skeleton")):
            joints = read_skeleton_file(path).joints.transpose(3, 0, 2, 1)[..., :2]
            if joints.size:
                (train if "P001" in path.name else test)[path.stem] = joints
        assert (len(train), len(test)) == (4, 2)
        assert sum(joints.shape[3] == 2 for joints in [*train.values(), *test.values()]) == 2
        labels = {name: int(name[-3:]) - 1 for name in [*train, *test]}
        parts = {"train": train, "test": test}
        write_ctr_gcn(
            folder / "NTU60_CS.npz",
            {part: list(clips.values()) for part, clips in parts.items()},
            {part: [labels[name] for name in clips] for part, clips in parts.items()},
        )
        for part, clips in (("train", train), ("val", test)):
            content = ([f"{name}.skeleton" for name in clips], [labels[name] for name in clips])
            write_npy_pair(folder / "xsub", part, list(clips.values()), content)
            rounded = [joints.astype(np.float16) for joints in clips.values()]
            write_npy_pair(folder / "rounded" / "xsub", part, rounded, content)
        dump(
            folder / "ntu60_3danno.pkl",
            {
                "split": {"xsub_train": list(train), "xsub_val": list(test)},
                "annotations": [
                    pyskl_annotation(name, labels[name], joints) for name, joints in {**test, **train}.items()
                ],
            },
        )
        return {
            "ntu60": shared / "data" / "ntu-samples",
            "ctr-gcn": folder / "NTU60_CS.npz",
            "npy-pair": folder / "xsub",
            "pyskl": folder / "ntu60_3danno.pkl",
            "rounded": folder / "rounded" / "xsub",
        }

    @pytest.mark.parametrize("options", [{}, {"lost_frames": "interpolate", "align": "clip", "center": "first_frame"}])
    def test_same_numbers(self, raw: dict[str, Path], tmp_path: Path, options: dict[str, Any]) -> None:
        prepared = {}
        for format, path in raw.items():
            prepare("npy-pair" if format == "rounded" else format, path, tmp_path / format, **options)  # type: ignore[arg-type]
            prepared[format] = PreparedDataset(tmp_path / format)
        first, rounded = prepared.pop("ntu60"), prepared.pop("rounded")
        assert len(first) == 6
        assert 0 < np.abs(rounded.joints - first.joints).max() < 0.02
        names = [clip.name for clip in first.clips]
        # Of files without names, the training clips come last, in the order in which they were written.
        by_part = [name for name in names if "P001" not in name] + [name for name in names if "P001" in name]
        for format, dataset in prepared.items():
            order = [names.index(name) for name in (by_part if format == "ctr-gcn" else names)]
            # PYSKL keeps joints in half precision: its numbers are those of joints that were rounded before.
            expected = rounded if format == "pyskl" else first
            np.testing.assert_array_equal(dataset.joints, expected.joints[order], err_msg=format)
            np.testing.assert_array_equal(dataset.num_frames, first.num_frames[order])
            np.testing.assert_array_equal(dataset.labels, first.labels[order])
            assert dataset.classes == first.classes
            assert dataset.preprocessing == first.preprocessing
            train = {dataset.clips[index].name for index in dataset.split("xsub", "train")}
            test = {dataset.clips[index].name for index in dataset.split("xsub", "test")}
            assert (len(train), len(test)) == (4, 2)
            if format != "ctr-gcn":
                assert [clip.name for clip in dataset.clips] == names
                assert [clip.subject for clip in dataset.clips] == [clip.subject for clip in first.clips]
                assert test == {"S003C001P015R001A034", "S017C003P020R002A055"}


class TestCtrGcn:
    @pytest.mark.parametrize("compressed", [False, True])
    def test_clips(self, tmp_path: Path, compressed: bool) -> None:
        raw = write_ctr_gcn(tmp_path / "NTU120_CSet.npz", CLIPS, LABELS, classes=120, compressed=compressed)
        recordings = FORMATS["ctr-gcn"](raw)
        recordings.begin(get_layout("ntu25"), tmp_path)
        sources, skipped = recordings.discover()
        assert not skipped
        assert [(source.name, source.label, source.parts) for source in sources] == [
            ("test/000000", 49, {"xset": "test"}),
            ("train/000000", 0, {"xset": "train"}),
            ("train/000001", 49, {"xset": "train"}),
        ]
        assert recordings.classes == FORMATS["ntu120"].classes
        joints = [recordings.read(source).joints for source in sources]
        assert [array.shape for array in joints] == [(3, 12, 25, 2), (3, 7, 25, 2), (3, 9, 25, 2)]
        np.testing.assert_array_equal(joints[2], CLIPS["train"][1])
        np.testing.assert_array_equal(joints[0], np.pad(CLIPS["test"][0], ((0, 0), (0, 0), (0, 0), (0, 1))))
        assert [path.name for path in tmp_path.iterdir()] == [raw.name]

    def test_frames_of_zeros_within_a_clip_are_lost_frames(self, tmp_path: Path) -> None:
        joints = clip(10)
        joints[:, [3, 8, 9]] = 0
        raw = write_ctr_gcn(tmp_path / "a.npz", {**CLIPS, "test": [joints]}, LABELS)
        recordings = FORMATS["ctr-gcn"](raw)
        np.testing.assert_array_equal(recordings.read(recordings.discover().sources[0]).joints[..., :1], joints[:, :8])

    def test_labels_as_integers_and_of_no_class(self, tmp_path: Path) -> None:
        raw = write_ctr_gcn(tmp_path / "PKUv2_XView.npz", CLIPS, LABELS, classes=51)
        arrays = dict(np.load(raw))
        assert len(FORMATS["ctr-gcn"](raw).classes) == 51
        arrays.update(y_train=np.array([[3.0], [-1.0]]), y_test=np.array([7]))
        np.savez(raw, **arrays)
        recordings = FORMATS["ctr-gcn"](raw)
        assert [source.label for source in recordings.discover().sources] == [7, 3, None]
        assert recordings.discover().sources[0].parts == {"xview": "test"}
        assert recordings.classes == tuple("01234567")

    def test_other_skeletons(self, tmp_path: Path) -> None:
        clips = {"train": [clip(5, joints=20, bodies=2)], "test": [clip(6, joints=20)]}
        raw = write_ctr_gcn(tmp_path / "mine.npz", clips, {"train": [0], "test": [1]}, classes=2)
        with pytest.raises(ValueError, match=r"mine\.npz does not name its layout"):
            prepare("ctr-gcn", raw, tmp_path / "out")
        with pytest.raises(ValueError, match=r"120 numbers per frame, .* with the 25 joints of ntu25"):
            prepare("ctr-gcn", raw, tmp_path / "out", layout="ntu25")
        summary = prepare("ctr-gcn", raw, tmp_path / "out", layout="kinect20")
        assert summary.shape == (2, 3, 50, 20, 2)
        assert summary.protocols == {"given": {"train": 1, "test": 1}}

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"x_train": None}, r"unknown keys \[\], missing keys \['x_train'\]"),
            ({"x_val": np.zeros(1)}, r"unknown keys \['x_val'\], missing keys \[\]"),
            ({"x_test": np.zeros((1, 12, 75))}, r"x_test must be floats \(N, T, 150\), got float64 \(1, 12, 75\)"),
            ({"x_test": np.zeros((1, 12, 150), np.int64)}, r"x_test must be floats"),
            ({"y_train": np.eye(60)[[1, 2, 3]]}, r"y_train: expected 2 labels or one-hot rows, got float64 \(3, 60\)"),
            ({"y_train": np.ones((2, 60))}, r"y_train: the label of clip 0 is not one class"),
            ({"y_train": np.array([0, 0.5])}, r"y_train: the label of clip 1 is not one class, but \[0\.5\]"),
            ({"y_train": np.array(["a", "b"])}, r"y_train: expected 2 labels or one-hot rows, got <U1 \(2,\)"),
        ],
    )
    def test_refused(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        raw = write_ctr_gcn(tmp_path / "NTU60_CS.npz", CLIPS, LABELS)
        arrays = {**np.load(raw), **changes}
        np.savez(raw, **{key: value for key, value in arrays.items() if value is not None})
        with pytest.raises(ValueError, match=rf"NTU60_CS\.npz.*{message}"):
            FORMATS["ctr-gcn"](raw)


class TestNpyPair:
    def write(self, folder: Path, names: Any = (NTU[:2], NTU[2:]), lengths: Any = ((), ()), **options: Any) -> Path:
        for part, clips, labels, listed, counts in zip(
            ("train", "val"), CLIPS.values(), LABELS.values(), names, lengths, strict=True
        ):
            content = (list(listed), labels, list(counts)) if counts else (list(listed), labels)
            write_npy_pair(folder, part, clips, content, **options)
        return folder

    def read(self, raw: Path) -> dict[str, Any]:
        recordings = FORMATS["npy-pair"](raw)
        return {source.name: (source, recordings.read(source)) for source in recordings.discover().sources}

    def test_clips(self, tmp_path: Path) -> None:
        clips = self.read(self.write(tmp_path / "xsetup", [[f"{name}.skeleton" for name in NTU[:2]], NTU[2:]]))
        assert list(clips) == list(NTU)
        source, recording = clips[NTU[1]]
        assert (source.subject, source.camera, source.setup, source.replication, source.label) == (3, 2, 1, 2, 49)
        assert source.parts == {"xset": "train"}
        np.testing.assert_array_equal(recording.joints, CLIPS["train"][1])
        assert recording.num_frames is None
        assert clips[NTU[2]][0].parts == {"xset": "test"}
        assert clips[NTU[2]][1].joints.shape == (3, 12, 25, 2)

    def test_lengths(self, tmp_path: Path) -> None:
        clips = self.read(self.write(tmp_path / "ikem", lengths=([7, 11], [12])))
        assert [recording.joints.shape[1] for _, recording in clips.values()] == [7, 11, 12]
        cmd = self.write(tmp_path / "cmd", kind="data_joint", frames=12)
        np.save(cmd / "train_num_frame.npy", np.array([5, 9]))
        clips = self.read(cmd)
        assert [recording.joints.shape[1] for _, recording in clips.values()] == [5, 9, 12]
        x, y, z = CLIPS["train"][1]
        np.testing.assert_array_equal(clips[NTU[1]][1].joints, np.stack((x, z, -y)))

    def test_preprocessed(self, tmp_path: Path) -> None:
        raw = self.write(tmp_path / "xview", kind="position", frames=50, lengths=([70, 300], [12]))
        position = np.load(raw / "train_position.npy")
        position[:] = np.random.default_rng(0).normal(size=position.shape)
        position -= position[:, :, :, 20:21]
        np.save(raw / "train_position.npy", position)
        summary = prepare("npy-pair", raw, tmp_path / "out")
        dataset = PreparedDataset(tmp_path / "out")
        np.testing.assert_array_equal(dataset.joints[:2], position)
        assert dataset.num_frames.tolist() == [70, 300, 12]
        assert summary.protocols["xview"] == {"train": 2, "test": 1}
        for part in ("train", "val"):
            (raw / f"{part}_label.pkl").unlink()
            np.save(raw / f"{part}_label.npy", np.array(LABELS["train" if part == "train" else "test"])[:, None])
        prepare("npy-pair", raw, tmp_path / "unnamed")
        unnamed = PreparedDataset(tmp_path / "unnamed")
        assert [clip.name for clip in unnamed.clips] == ["test/000000", "train/000000", "train/000001"]
        np.testing.assert_array_equal(unnamed.joints[1:], position)
        assert unnamed.num_frames.tolist() == [50, 50, 50]
        assert unnamed.labels.tolist() == [49, 0, 49]

    def test_clips_of_the_same_name_in_both_parts(self, tmp_path: Path) -> None:
        assert list(self.read(self.write(tmp_path / "mine", (["a", "b"], ["b"])))) == ["test/b", "train/a", "train/b"]
        assert next(source.parts for source, _ in self.read(tmp_path / "mine").values()) == {"given": "test"}

    def test_which_files_are_meant(self, tmp_path: Path) -> None:
        both = self.write(tmp_path / "xsub")
        self.write(both, kind="position", frames=50)
        with pytest.raises(ValueError, match=r"files of the kinds \['data', 'position'\]; name a file of the kind"):
            FORMATS["npy-pair"](both)
        assert self.read(both / "val_position.npy")[NTU[0]][1].joints.shape == (3, 50, 25, 2)
        with pytest.raises(ValueError, match=r"expected files like .*; name one of \['.*/xsub'\]"):
            FORMATS["npy-pair"](tmp_path)
        os.rename(both / "val_position.npy", both / "test_data.npy")
        with pytest.raises(ValueError, match=r"has files for val and for test"):
            FORMATS["npy-pair"](both / "val_data.npy")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ((["a", "b"], [0]), r"train_label\.pkl: expected something for each of 2 clips, got \(1,\)"),
            ((["a", "a"], [0, 1]), r"train_label\.pkl: clips have the same name, such as a"),
            ((["a", "b"],), r"train_label\.pkl: expected \(names, labels\) or \(names, labels, lengths\)"),
            ((["a", "b"], [0, 1.5]), r"labels of train_data\.npy: the label of clip 1 is not one class"),
            ((["a", "b"], [0, 1], [3, -1]), r"train_label\.pkl: expected the lengths of 2 clips"),
            ((["a", "b"], {"a": 0}), r"train_label\.pkl: expected something for each of 2 clips"),
            (print, r"train_label\.pkl: holds builtins\.print; only arrays"),
        ],
    )
    def test_refused(self, tmp_path: Path, content: Any, message: str) -> None:
        raw = self.write(tmp_path / "xsub")
        dump(raw / "train_label.pkl", content)
        with pytest.raises(ValueError, match=message):
            FORMATS["npy-pair"](raw)

    def test_wrong_arrays(self, tmp_path: Path) -> None:
        raw = self.write(tmp_path / "xsub")
        np.save(raw / "val_data.npy", np.zeros((1, 3, 300, 25, 1), np.float32))
        with pytest.raises(ValueError, match=r"training and test clips differ in their joints or bodies"):
            FORMATS["npy-pair"](raw)
        np.save(raw / "val_data.npy", np.zeros((1, 300, 25, 3), np.float32))
        with pytest.raises(ValueError, match=r"val_data\.npy: expected floats \(N, 3, T, V, M\), got float32"):
            FORMATS["npy-pair"](raw)
        (raw / "val_label.pkl").unlink()
        np.save(raw / "val_data.npy", np.zeros((1, 3, 300, 25, 2), np.float32))
        with pytest.raises(ValueError, match=r"expected the labels of val_data\.npy in val_label\.pkl or val_label\.n"):
            FORMATS["npy-pair"](raw)


class TestPyskl:
    def test_three_dimensional(self, tmp_path: Path) -> None:
        split = {"xsub_train": NTU[:2], "xsub_val": NTU[2:], "xview_train": NTU[1:], "xview_val": NTU[:1], "all": NTU}
        for protocol in (2, 4, 5):
            raw = dump(tmp_path / "ntu60_3danno.pkl", {"split": split, "annotations": annotations()}, protocol)
            recordings = FORMATS["pyskl"](raw)
            assert (recordings.layout, recordings.bodies, recordings.align) == ("ntu25", 2, "frame")
            assert recordings.classes == FORMATS["ntu60"].classes
            sources, skipped = recordings.discover()
            assert skipped == {"the split is neither for training nor for testing by its name": ["all"]}
            assert [(source.name, source.label, source.subject) for source in sources] == [
                (NTU[0], 0, 1),
                (NTU[1], 49, 3),
                (NTU[2], 49, 4),
            ]
            assert [source.parts for source in sources] == [
                {"xsub": "train", "xview": "test"},
                {"xsub": "train", "xview": "train"},
                {"xsub": "test", "xview": "train"},
            ]
            recording = recordings.read(sources[1])
            np.testing.assert_array_equal(recording.joints, CLIPS["train"][1])
            assert (recording.confidence, recording.image_size) == (None, None)

    def planar(self, compressed: bool) -> dict[str, Any]:
        joints, score = clip(4, joints=17, bodies=2, axes=2), clip(4, joints=17, bodies=2, axes=1)[0]
        joints[..., [0, 3], :, 1] = 0
        score[[0, 3], :, 1] = 0
        annotation = pyskl_annotation("v", 3, joints, img_shape=(1080, 1920), original_shape=(1080, 1920))
        if not compressed:
            return {**annotation, "keypoint_score": score.transpose(2, 0, 1).astype(np.float16)}
        frames = np.array([0, 1, 1, 2, 2, 3], dtype=np.int16)
        bodies = [0, 0, 1, 0, 1, 0]
        poses = np.concatenate((joints.transpose(3, 1, 2, 0), score.transpose(2, 0, 1)[..., None]), axis=-1)
        return {**annotation, "keypoint": poses[bodies, frames].astype(np.float16), "frame_inds": frames}

    def test_planar(self, tmp_path: Path) -> None:
        recordings = FORMATS["pyskl"](dump(tmp_path / "a.pkl", [self.planar(False)]))
        assert (recordings.layout, recordings.bodies, recordings.align) == ("coco17", 2, "none")
        assert recordings.lost_frames == "interpolate"
        (source,) = recordings.discover().sources
        recording = recordings.read(source)
        assert recording.joints.shape == (2, 4, 17, 2)
        assert recording.image_size == (1920, 1080)
        np.testing.assert_array_equal(recording.joints[:, 1], clip(4, joints=17, bodies=2, axes=2)[:, 1])
        assert recording.confidence is not None
        np.testing.assert_array_equal(recording.confidence[1], clip(4, joints=17, bodies=2, axes=1)[0, 1])
        compressed = FORMATS["pyskl"](dump(tmp_path / "b.pkl", [self.planar(True)]))
        assert (compressed.layout, compressed.bodies) == ("coco17", 2)
        other = compressed.read(source)
        np.testing.assert_array_equal(other.joints, recording.joints)
        np.testing.assert_array_equal(other.confidence, recording.confidence)
        assert other.image_size == recording.image_size

    def test_bare_lists(self, tmp_path: Path) -> None:
        unlabelled = [
            {key: value for key, value in annotation.items() if key != "label"} for annotation in annotations()
        ]
        recordings = FORMATS["pyskl"](dump(tmp_path / "list.pkl", [*unlabelled, None]))
        sources, skipped = recordings.discover()
        assert [(source.label, source.parts) for source in sources] == [(None, {})] * 3
        assert skipped == {"the annotation is empty": ["list.pkl, annotation 3"]}
        for split, chosen in (("xsub_train", slice(2)), ("xsub_val", slice(2, 3))):
            dump(tmp_path / "lists" / f"ntu60_{split}.pkl", annotations()[chosen])
        sources, _ = FORMATS["pyskl"](tmp_path / "lists").discover()
        assert [source.parts for source in sources] == [{"ntu60_xsub": part} for part in ("train", "train", "test")]

    def test_splits(self, tmp_path: Path) -> None:
        protocols, others = pair_splits(["train", "val", "test", "train1", "test1", "test_xset", "train_xset", "gym"])
        assert protocols == {
            "given": {"train": "train", "test": "test"},
            "given_val": {"train": "train", "test": "val"},
            "split1": {"train": "train1", "test": "test1"},
            "xset": {"test": "test_xset", "train": "train_xset"},
        }
        assert others == ["gym"]
        content = {"split": {"sub_val": NTU[:1], "view-train": [*NTU[1:], "lost"]}, "annotations": annotations()}
        sources, skipped = FORMATS["pyskl"](dump(tmp_path / "a.pkl", content)).discover()
        assert skipped == {"named in a split, but not annotated": ["lost"]}
        assert [source.parts for source in sources] == [
            {"sub": "test", "view": "test"},
            {"sub": "train", "view": "train"},
            {"sub": "train", "view": "train"},
        ]
        content["split"] = {"train": NTU[:2], "val": NTU[1:]}
        with pytest.raises(ValueError, match=f"1 clips of the protocol given are for training and for .* as {NTU[1]}"):
            FORMATS["pyskl"](dump(tmp_path / "a.pkl", content)).discover()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"split": {}}, r"missing keys \['annotations'\], got \['split'\]"),
            ("text", "expected a list of annotations, or a dict"),
            ({"split": {"train": 5}, "annotations": annotations()}, "the split train must be a list of names, got int"),
            ([], "found no annotation of pyskl"),
            ([{"label": 1}], "annotation 0 is no dict with a frame_dir"),
            ([{"frame_dir": "a", "raw_file": "k.pkl"}], r"the keypoints of a are in another file, 'k\.pkl'"),
            ([{"frame_dir": "a"}], r"the annotation of a has no array keypoint \(M, T, V, axes\)"),
            ([annotations()[0], annotations()[0]], f"two annotations are called {NTU[0]}"),
            ([{**pyskl_annotation("a", 0, clip(3)), "label": [1, 2]}], "the label of a must be an integer, got list"),
        ],
    )
    def test_refused(self, tmp_path: Path, content: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            FORMATS["pyskl"](dump(tmp_path / "a.pkl", content))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"total_frames": 5},
                r"keypoint must be numbers \(M, 5, V, axes\) as total_frames says, got .* \(2, 4, 17",
            ),
            (
                {"keypoint_score": np.zeros((2, 4, 3))},
                r"keypoint_score must have the shape \(2, 4, 17\), got",
            ),
            (
                {"frame_inds": np.arange(2)},
                r"keypoint must have the shape \(n, V, 3\) for 2 frame_inds, got",
            ),
            (
                {"keypoint": np.zeros((2, 17, 3)), "frame_inds": np.array([0, 4])},
                "frame_inds must be from 0 to 3, got 0 to 4",
            ),
        ],
    )
    def test_damaged_clips(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        content = [self.planar(False), {**self.planar(False), "frame_dir": "w", **changes}]
        recordings = FORMATS["pyskl"](dump(tmp_path / "a.pkl", content))
        good, damaged = recordings.discover().sources
        recordings.read(good)
        with pytest.raises(ValueError, match=message):
            recordings.read(damaged)


class TestScale:
    """Memory does not grow with the files."""

    def write(self, format: FormatName, folder: Path, clips: int) -> Path:
        joints = [np.full((3, 250, 25, 2), 1 + row, np.float16) for row in range(clips)]
        if format == "npy-pair":
            return write_npy_pair(folder / "xsub", "train", joints, ([str(row) for row in range(clips)], [0] * clips))
        if format == "pyskl":
            entries = [pyskl_annotation(str(row), 0, clip) for row, clip in enumerate(joints)]
            content = {"split": {"train": [str(row) for row in range(clips)]}, "annotations": entries}
            return dump(folder / "a.pkl", content)
        halves = {"train": joints[: clips // 2], "test": joints[clips // 2 :]}
        labels = {part: [0] * len(half) for part, half in halves.items()}
        return write_ctr_gcn(folder / "a.npz", halves, labels, compressed=True)

    @pytest.mark.parametrize("format", ["ctr-gcn", "npy-pair", "pyskl"])
    def test_peak_memory(self, tmp_path: Path, format: FormatName) -> None:
        peaks = {}
        for clips in (20, 280):
            (tmp_path / str(clips)).mkdir()
            raw = self.write(format, tmp_path / str(clips), clips)
            tracemalloc.start()
            try:
                prepare(format, raw, tmp_path / f"{clips}.out", frames=2, workers=2)
                peaks[clips] = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert peaks[280] < peaks[20] + 2e6  # the joints are 20 megabytes in half precision, 40 in others

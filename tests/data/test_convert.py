"""Prepared data as the files that other projects' loaders read, and back."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ikem.cli import main
from ikem.data import convert as convert_module
from ikem.data.convert import ExchangeFormat, convert
from ikem.data.dataset import Clip, PreparedDataset, write_dataset
from ikem.data.prepare import prepare
from ikem_ext import get_layout
from ikem_ext.skeleton import Third

UNCHANGED: dict[str, Any] = {"center": "none", "align": "none", "lost_frames": "interpolate"}
OUTS: dict[ExchangeFormat, str] = {"ctr-gcn": "NTU60_XSub.npz", "npy-pair": "xsub", "pyskl": "ntu60.pkl"}


def write(folder: Path, *, bodies: int = 2, clips: int = 7, frames: int = 6, **changes: Any) -> PreparedDataset:
    """Clips that train where their row is even; row 4 has no label, the last is in no protocol."""
    rng = np.random.default_rng(0)
    members = [
        Clip(f"S001C001P{row:03d}R001A050", None if row == 4 else row % 3, row, 1, 1, 1, 60 + row)
        for row in range(clips)
    ]
    rows = range(clips - 1)
    xsub = {"train": [row for row in rows if row % 2 == 0], "test": [row for row in rows if row % 2]}
    content = {
        "joints": (rng.normal(size=(3, frames, 25, bodies)).astype(np.float32) for _ in range(clips)),
        "clips": members,
        "classes": [str(label) for label in range(60)],
        "layout": get_layout("ntu25"),
        "source": "ntu60",
        "preprocessing": {},
        "protocols": {"xsub": xsub, "xview": {"train": [1, 2], "test": [0]}},
        **changes,
    }
    write_dataset(folder, **content)  # type: ignore[arg-type]
    return PreparedDataset(folder)


@pytest.mark.parametrize("third", ["zero", "confidence"])
def test_points_in_an_image_are_keypoints_and_scores_again(tmp_path: Path, third: Third) -> None:
    """PYSKL's way: two coordinates, y down, and a score for each point; and from there the same numbers."""
    random = np.random.default_rng(0)
    joints = random.uniform(-1, 1, size=(7, 3, 6, 17, 2)).astype(np.float32)
    joints[:, 2] = random.uniform(0.1, 1, size=(7, 6, 17, 2)) if third == "confidence" else 0
    joints[..., 1][:, :, 4:] = 0  # the second body leaves
    layout = replace(get_layout("coco17"), third=third)
    write(tmp_path / "data", joints=joints, layout=layout)
    convert(tmp_path / "data", tmp_path / "poses.pkl", to="pyskl", protocol="xsub")
    first, *_ = pickle.loads((tmp_path / "poses.pkl").read_bytes())["annotations"]
    assert first["keypoint"].shape == (2, 6, 17, 2)
    np.testing.assert_array_equal(first["keypoint"][..., 1], -joints[0, 1].transpose(2, 0, 1))
    seen = joints[0, 2] if third == "confidence" else joints[0].any(axis=(0, 2), keepdims=True)[0]
    np.testing.assert_array_equal(first["keypoint_score"], np.broadcast_to(seen, (6, 17, 2)).transpose(2, 0, 1))
    options = {"center": "none", "scale": "none", "lost_joints": "keep", "layout": "coco17", "third": third}
    prepare("pyskl", tmp_path / "poses.pkl", tmp_path / "again", frames=6, **options)  # type: ignore[arg-type]
    again = PreparedDataset(tmp_path / "again")
    assert again.layout == layout
    np.testing.assert_array_equal(again.joints, joints[:6])


class TestLoaders:
    """The files are read as the other projects' code reads them."""

    @pytest.mark.parametrize("bodies", [1, 2])
    def test_ctr_gcn(self, tmp_path: Path, bodies: int, capsys: pytest.CaptureFixture[str]) -> None:
        dataset = write(tmp_path / "data", bodies=bodies)
        convert(tmp_path / "data", tmp_path / "NTU60_XSub.npz", to="ctr-gcn", protocol="xsub")
        assert "train 2, test 3; left out are 2 clips" in capsys.readouterr().out
        with np.load(tmp_path / "NTU60_XSub.npz") as content:
            assert sorted(content) == ["x_test", "x_train", "y_test", "y_train"]
            for part, indices in (("train", [0, 2]), ("test", [1, 3, 5])):
                x, y = content[f"x_{part}"], content[f"y_{part}"]
                assert (x.dtype, y.dtype, y.shape) == (np.float32, np.float64, (len(indices), 60))
                joints = x.reshape(len(indices), 6, 2, 25, 3).transpose(0, 4, 1, 3, 2)
                np.testing.assert_array_equal(joints[..., :bodies], dataset.joints[indices])
                assert not joints[..., bodies:].any()
                np.testing.assert_array_equal(np.where(y > 0)[1], dataset.labels[indices])

    def test_npy_pair(self, tmp_path: Path) -> None:
        dataset = write(tmp_path / "data")
        convert(tmp_path / "data", tmp_path / "xsub", to="npy-pair", protocol="xsub")
        convert(tmp_path / "data", tmp_path / "ikem", to="npy-pair", protocol="xsub", lengths=True)
        for part, indices in (("train", [0, 2]), ("val", [1, 3, 5])):
            names, labels = pickle.loads((tmp_path / "xsub" / f"{part}_label.pkl").read_bytes())
            assert names == [dataset.clips[index].name for index in indices]
            assert labels == dataset.labels[indices].tolist()
            with_lengths = pickle.loads((tmp_path / "ikem" / f"{part}_label.pkl").read_bytes())
            assert with_lengths == (names, labels, [60 + index for index in indices])
            joints = np.load(tmp_path / "xsub" / f"{part}_position.npy", mmap_mode="r")
            assert joints.dtype == np.float32
            np.testing.assert_array_equal(joints, dataset.joints[indices])

    def test_pyskl(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        dataset = write(tmp_path / "data")
        convert(tmp_path / "data", tmp_path / "all.pkl", to="pyskl")
        assert "xsub_train 3, xsub_val 3, xview_train 2, xview_val 1; left out are 1 clips" in capsys.readouterr().out
        raw = (tmp_path / "all.pkl").read_bytes()
        assert b"numpy.core.multiarray" in raw and b"numpy._core" not in raw  # which NumPy 1 does not have
        content = pickle.loads(raw)
        names = [clip.name for clip in dataset.clips]
        assert content["split"] == {
            "xsub_train": [names[0], names[2], names[4]],
            "xsub_val": [names[1], names[3], names[5]],
            "xview_train": names[1:3],
            "xview_val": names[:1],
        }
        assert [annotation["frame_dir"] for annotation in content["annotations"]] == names[:6]
        for annotation, joints, label in zip(content["annotations"], dataset.joints, dataset.labels, strict=False):
            assert annotation.get("label", -1) == label
            assert annotation["total_frames"] == 6
            assert type(annotation["keypoint"]) is np.ndarray
            np.testing.assert_array_equal(annotation["keypoint"], joints.transpose(3, 1, 2, 0))
        convert(tmp_path / "data", tmp_path / "one.pkl", to="pyskl", protocol="xview")
        content = pickle.loads((tmp_path / "one.pkl").read_bytes())
        assert (list(content["split"]), len(content["annotations"])) == (["xview_train", "xview_val"], 3)


class TestRoundTrips:
    @pytest.mark.parametrize("to", list(OUTS))
    def test_recordings(self, shared: Path, tmp_path: Path, to: ExchangeFormat) -> None:
        prepare("ntu60", shared / "data" / "ntu-samples", tmp_path / "data")
        first = PreparedDataset(tmp_path / "data")
        convert(tmp_path / "data", tmp_path / OUTS[to], to=to, protocol="xsub", lengths=to == "npy-pair")
        prepare(to, tmp_path / OUTS[to], tmp_path / "again", **UNCHANGED)
        again = PreparedDataset(tmp_path / "again")
        order = {
            part: again.split("xsub", part).tolist() for part in ("train", "test")
        }  # CTR-GCN's files have no names, but the order of each part
        for part, rows in order.items():
            indices = first.split("xsub", part)
            np.testing.assert_array_equal(again.joints[rows], first.joints[indices])
            np.testing.assert_array_equal(again.labels[rows], first.labels[indices])
            if to == "npy-pair":
                np.testing.assert_array_equal(again.num_frames[rows], first.num_frames[indices])
            if to != "ctr-gcn":
                assert [again.clips[row].name for row in rows] == [first.clips[index].name for index in indices]
        assert again.classes == first.classes

    def test_all_protocols_and_clips_without_labels(self, tmp_path: Path) -> None:
        first = write(tmp_path / "data")
        convert(tmp_path / "data", tmp_path / "ntu60.pkl", to="pyskl")
        prepare("pyskl", tmp_path / "ntu60.pkl", tmp_path / "again", frames=6, **UNCHANGED)
        again = PreparedDataset(tmp_path / "again")
        np.testing.assert_array_equal(again.joints, first.joints[:6])
        assert again.labels.tolist() == first.labels[:6].tolist()
        for name, parts in first.protocols.items():
            assert list(again.protocols[name]) == list(parts)
            assert all(np.array_equal(again.protocols[name][part], clips) for part, clips in parts.items())


class TestCommand:
    def test_convert(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write(tmp_path / "data")
        arguments = ["convert", str(tmp_path / "data"), str(tmp_path / "all.pkl"), "--to", "pyskl"]
        main(arguments)
        assert f"{tmp_path / 'all.pkl'}: xsub_train 3" in capsys.readouterr().out
        with pytest.raises(SystemExit):
            main(arguments)
        assert "all.pkl exists already" in capsys.readouterr().err
        main([*arguments, "--overwrite"])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "to: expected one of ctr-gcn, npy-pair, pyskl, got None"),
            ({"to": "ctr-gcn"}, r"protocol: expected one of \['bad', 'xsub'\], as each is a file of its own"),
            ({"to": "pyskl", "out": "a.pkl", "protocol": "xset"}, r"protocol: expected one of \['bad', 'xsub'\] in"),
            ({"to": "ctr-gcn", "lengths": True}, "lengths: there is a place for them in npy-pair, not in ctr-gcn"),
            ({"to": "ctr-gcn", "out": "a.pkl"}, r"out: expected the name of an \.npz file for ctr-gcn, got .*a\.pkl"),
            ({"to": "ctr-gcn", "protocol": "bad"}, "protocol: bad has no labelled clip for test"),
        ],
    )
    def test_refused(self, tmp_path: Path, options: dict[str, Any], message: str) -> None:
        write(tmp_path / "data", protocols={"xsub": {"train": [0], "test": [1]}, "bad": {"train": [0], "test": [4]}})
        out = tmp_path / options.pop("out", "a.npz")
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / "data", out, **options)
        assert [path.name for path in tmp_path.iterdir()] == ["data"]

    def test_nothing_half_written_is_left(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path / "data")

        def fail(*_: Any) -> None:
            raise OSError("no space left")

        monkeypatch.setattr(convert_module, "_array_piece", fail)
        with pytest.raises(OSError, match="no space left"):
            convert(tmp_path / "data", tmp_path / "a.pkl", to="pyskl")
        assert [path.name for path in tmp_path.iterdir()] == ["data"]

    def test_only_what_it_wrote_itself_is_overwritten(self, tmp_path: Path) -> None:
        write(tmp_path / "data")
        options: dict[str, Any] = {"to": "npy-pair", "protocol": "xview", "overwrite": True}
        with pytest.raises(FileExistsError, match=r"data is not overwritten, as it holds other files than train_posit"):
            convert(tmp_path / "data", tmp_path / "data", **options)
        for _ in range(2):
            convert(tmp_path / "data", tmp_path / "xview", **options)
        assert sorted(os.listdir(tmp_path)) == ["data", "xview"]
        assert len(os.listdir(tmp_path / "xview")) == 4

    @pytest.mark.parametrize("to", list(OUTS))
    def test_memory_and_bits(self, tmp_path: Path, to: ExchangeFormat) -> None:
        written = []
        peaks = []
        for clips in (8, 120, 120):
            write(tmp_path / "data", clips=clips, frames=100, overwrite=True)
            out = tmp_path / f"{len(peaks)}" / OUTS[to]
            tracemalloc.start()
            try:
                convert(tmp_path / "data", out, to=to, protocol="xsub")
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
            files = sorted(out.iterdir()) if out.is_dir() else [out]
            written.append([path.read_bytes() for path in files])
        assert sum(map(len, written[1])) > 6e6
        assert peaks[1] < peaks[0] + 5e5
        assert written[1] == written[2]

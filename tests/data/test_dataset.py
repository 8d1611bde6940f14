"""The prepared folder: what is written is read, and nothing unfinished or damaged is."""

from __future__ import annotations

import gc
import json
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ikem.data.dataset import Clip, DatasetWriter, PreparedDataset, write_dataset
from ikem.data.summary import PrepareSummary
from ikem_ext import get_layout

CLIPS = [
    Clip("S001, with a comma", 0, 1, 2, 3, 4, 60),
    Clip('a "quoted" näme', 1, 2, None, None, None, 80),
    Clip("third", None, "Ann, 2nd", None, None, 0, 1),
]
PROTOCOLS = {"cross-subject": {"train": [0, 2], "test": [1], "test_without_repeats": []}}
JOINTS = np.random.default_rng(0).normal(size=(3, 3, 6, 25, 2)).astype(np.float32)


def write(folder: Path, **changes: Any) -> Path:
    arguments: dict[str, Any] = {
        "joints": JOINTS,
        "clips": CLIPS,
        "classes": ["wave", "walk"],
        "layout": get_layout("ntu25"),
        "source": "npz",
        "preprocessing": {"frames": 6},
        "protocols": PROTOCOLS,
    }
    write_dataset(folder, **{**arguments, **changes})
    return folder


def test_what_is_written_is_read(tmp_path: Path) -> None:
    dataset = PreparedDataset(write(tmp_path / "deep" / "data"))
    assert isinstance(dataset.joints, np.memmap)
    assert not dataset.joints.flags.writeable
    assert dataset.joints.dtype == np.float32
    np.testing.assert_array_equal(dataset.joints, JOINTS)
    assert dataset.clips == CLIPS
    assert len(dataset) == 3
    assert dataset.labels.tolist() == [0, 1, -1]  # the third has no label
    assert dataset.num_frames.tolist() == [60, 80, 1]
    assert dataset.labels.dtype == dataset.num_frames.dtype == np.int64
    assert dataset.classes == ["wave", "walk"]
    assert dataset.layout == get_layout("ntu25")
    assert (dataset.name, dataset.preprocessing) == ("npz", {"frames": 6})
    parts = dataset.protocols["cross-subject"]
    assert {"cross-subject": {part: clips.tolist() for part, clips in parts.items()}} == PROTOCOLS
    assert dataset.split("cross-subject", "train").tolist() == [0, 2]
    assert dataset.split("cross-subject", "test_without_repeats").dtype == np.int64


def test_a_clip_costs_few_bytes(tmp_path: Path) -> None:
    """Neither its row nor its place in the protocols is an object of Python's: of a million clips these are many."""
    count = 20000
    clips = [Clip(f"S001C001P{i % 40:03d}R001A{i:06d}", i % 2, i % 40, 1, 1, 1, 1000 + i) for i in range(count)]
    parts = {"train": list(range(0, count, 2)), "test": list(range(1, count, 2))}
    joints = np.broadcast_to(np.float32(0), (count, 3, 1, 25, 1))
    folder = write(tmp_path / "data", joints=joints, clips=clips, protocols={"a": parts, "b": parts})
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    dataset = PreparedDataset(folder)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(dataset) == count
    assert after - before < 140 * count


def test_the_folder_holds_plain_files_only(tmp_path: Path) -> None:
    summary = PrepareSummary("npz", "raw", 3, 2, (3, 3, 6, 25, 2), (1, 60, 80), {"no body": ["x"]})
    folder = write(tmp_path / "data", summary=summary)
    names = {path.name for path in folder.iterdir()}
    assert names == {"joints.npy", "clips.csv", "dataset.json", "summary.json", "summary.md"}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert json.loads((folder / "summary.json").read_text())["skipped"] == {"no body": ["x"]}
    first_lines = (folder / "clips.csv").read_text().splitlines()[:2]
    assert first_lines == [
        "name,label,subject,camera,setup,replication,num_frames",
        '"S001, with a comma",0,1,2,3,4,60',
    ]


def test_worker_processes_map_the_file_themselves(tmp_path: Path) -> None:
    dataset = PreparedDataset(write(tmp_path / "data"))
    sent = pickle.dumps(dataset)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent).joints, JOINTS)


def test_other_layouts_are_kept_whole(tmp_path: Path) -> None:
    layout = get_layout("sbu15")
    folder = write(tmp_path / "data", joints=JOINTS[:, :, :, :15], layout=layout)
    assert PreparedDataset(folder).layout == layout


@pytest.mark.parametrize(("count", "digits"), [(9, 1), (10, 2), (101, 3)])
def test_the_array_grows_clip_by_clip(tmp_path: Path, count: int, digits: int) -> None:
    rows = np.random.default_rng(count).normal(size=(count, 3, 2, 15, 1)).astype(np.float32)
    clips = [Clip(str(row), 0, None, None, None, None, 2) for row in range(count)]
    protocols = {"given": {"train": [0], "test": [count - 1]}}
    folder = write(tmp_path / "data", joints=iter(rows), clips=clips, layout=get_layout("sbu15"), protocols=protocols)
    np.testing.assert_array_equal(PreparedDataset(folder).joints, rows)


class TestWriting:
    def test_an_existing_folder_is_not_touched(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "data")
        with pytest.raises(FileExistsError, match="data exists already"):
            write(folder, source="sbu")
        assert PreparedDataset(folder).name == "npz"
        assert PreparedDataset(write(folder, source="sbu", overwrite=True)).name == "sbu"
        assert [path.name for path in tmp_path.iterdir()] == ["data"]

    def test_only_prepared_data_are_overwritten(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(FileExistsError, match="is not overwritten, as it is no prepared data set"):
            write(tmp_path, overwrite=True)
        assert (tmp_path / "thesis.tex").exists()

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_interrupted_nothing_is_left(self, tmp_path: Path, error: type[BaseException]) -> None:
        def writes() -> None:
            with DatasetWriter(tmp_path / "data", JOINTS.shape[1:]) as writer:
                writer.append(JOINTS[0], CLIPS[0])
                assert len(list(tmp_path.iterdir())) == 1
                raise error

        with pytest.raises(error):
            writes()
        assert not list(tmp_path.iterdir())

    def test_killed_nothing_looks_finished(self, tmp_path: Path) -> None:
        writer = DatasetWriter(tmp_path / "data", JOINTS.shape[1:]).__enter__()
        for joints, clip in zip(JOINTS, CLIPS, strict=True):
            writer.append(joints, clip)
        assert not (tmp_path / "data").exists()
        (partial,) = tmp_path.iterdir()
        assert partial.name.startswith("data.partial-")
        with pytest.raises(ValueError, match=r"is not a prepared data set, it has no dataset\.json"):
            PreparedDataset(partial)
        write(tmp_path / "data")  # and another run is not hindered
        writer.__exit__(None, None, None)

    def test_interrupted_the_old_data_stay(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "data")
        with pytest.raises(ValueError, match=r"longer|shorter"):
            write(folder, clips=CLIPS[:2], source="sbu", overwrite=True)
        assert PreparedDataset(folder).name == "npz"

    @pytest.mark.parametrize(
        ("joints", "message"),
        [
            (np.zeros((0, 3, 6, 25, 2)), "at least one clip"),
            (np.zeros((3, 6, 25, 2)), "expected an array"),
            (
                iter([JOINTS[0], JOINTS[1, :, :5], JOINTS[2]]),
                r"expected the shape \(3, 6, 25, 2\) for clip a \"quoted\"",
            ),
        ],
    )
    def test_wrong_arrays(self, tmp_path: Path, joints: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            write(tmp_path / "data", joints=joints)
        assert not list(tmp_path.iterdir())


def truncate(folder: Path) -> None:
    path = folder / "joints.npy"
    path.write_bytes(path.read_bytes()[:-100])


def pickle_joints(folder: Path) -> None:
    np.save(folder / "joints.npy", np.array([{}], dtype=object), allow_pickle=True)


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "dataset.json").unlink(), "data is not a prepared data set, it has no dataset.json"),
        (lambda folder: (folder / "clips.csv").unlink(), "data is not a prepared data set, it has no clips.csv"),
        (lambda folder: (folder / "joints.npy").unlink(), "data is not a prepared data set, it has no joints.npy"),
        (truncate, "joints.npy: not a complete array"),
        (pickle_joints, "joints.npy: not a complete array"),
        (lambda folder: np.save(folder / "joints.npy", JOINTS.astype(float)), "expected float32 .*, got float64"),
        (
            lambda folder: np.save(folder / "joints.npy", JOINTS[:2]),
            r"expected float32 \(3, 3, T, 25, M\), got .*\(2, 3, 6",
        ),
        (edit("clips.csv", "name,label", "label,name"), "clips.csv:1: expected the columns name,label"),
        (edit("clips.csv", "third,", "third,one"), r"clips.csv:4: not a clip \(invalid literal"),
        (edit("clips.csv", 'third,,"Ann, 2nd"', "third"), "clips.csv:4: not a clip"),
        (edit("clips.csv", "third,", "third,2"), "clips.csv: label 2 of clip third is not one of 2 classes"),
        (edit("dataset.json", '"version": 1', '"version": 2'), "dataset.json: version 2 where 1 is read"),
        (edit("dataset.json", '"classes"', '"kinds"'), r"not the description of a data set \(KeyError\('classes'\)"),
        (edit("dataset.json", "{", "["), "dataset.json: not the description of a data set"),
        (
            edit("dataset.json", '"test": [', '"test": 3, "more": ['),
            r"dataset.json: expected protocols whose parts are",
        ),
        (edit("dataset.json", '"train"', '"training"'), "cross-subject has the parts .*, needs train and test"),
        (edit("dataset.json", "    2\n", "    3\n"), "cross-subject train names clips beyond the 3 there are"),
    ],
)
def test_damaged_folders_are_refused(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = write(tmp_path / "data")
    damage(folder)
    with pytest.raises(ValueError, match=message):
        PreparedDataset(folder)


def test_unknown_protocols_and_parts(tmp_path: Path) -> None:
    dataset = PreparedDataset(write(tmp_path / "data"))
    with pytest.raises(ValueError, match=r"protocol: expected one of \['cross-subject'\] .*, got 'xsub'"):
        dataset.split("xsub", "train")
    with pytest.raises(ValueError, match=r"part: expected one of \['test', 'test_without_repeats', 'train'\]"):
        dataset.split("cross-subject", "val")

"""The measurements at full size: what they make up is what it says it is, and what they conclude follows."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import load

from ikem.data.clips import Clip
from ikem.data.dataset import PreparedDataset
from ikem.data.formats import ClipSource
from ikem.data.formats.ntu import read_skeleton_file
from ikem.data.prepare import prepare
from ikem.data.protocols import make_protocols

measuring = load("measuring")
full_run, large_training = load("full_run"), load("large_training")


@pytest.fixture(scope="module")
def recorded() -> Any:
    return full_run.Recorded()


def test_skeleton_files_are_read_as_they_were_made(tmp_path: Path) -> None:
    bodies = np.random.default_rng(0).normal(size=(2, 3, 25, 3))
    bodies[..., 2] += 3
    bodies[0, 1] = bodies[1, 1] = bodies[1, 2] = 0
    path = tmp_path / "clip.skeleton"
    path.write_text(full_run.skeleton_text(list(bodies)))
    read = read_skeleton_file(path)
    assert read.body_counts.tolist() == [2, 0, 1]
    np.testing.assert_allclose(read.joints, bodies.transpose(1, 0, 2, 3), atol=1e-5)
    assert read.body_ids[0].tolist() == [72057594037931101, 72057594037931102]


def test_a_whole_run_has_the_clips_of_ntu(recorded: Any) -> None:
    clips = [recorded.name_and_content(number) for number in range(full_run.ALL_CLIPS)]
    assert len(clips) == len({name for name, _ in clips}) == 56880
    sources = [ClipSource(name, int(name[17:20]) - 1, Path(name), int(name[9:12]), int(name[5:8])) for name, _ in clips]
    assert set(Counter(source.label for source in sources).values()) == {948}
    assert {source.subject for source in sources} == set(range(1, 41))
    contents = [repr(content).encode() for _, content in clips]
    assert len(set(contents)) == 1740
    protocols = make_protocols("ntu60", sources, contents)
    assert {name: list(parts) for name, parts in protocols.items()} == {
        "xsub": ["train", "test"],
        "xview": ["train", "test"],
    }
    assert len(protocols["xsub"]["train"]) == full_run.TRAINING_CLIPS == 40320
    assert len(protocols["xview"]["train"]) == 37920


def test_recordings_are_prepared(tmp_path: Path) -> None:
    first = full_run.make_recordings(tmp_path / "raw", 12)
    assert first["bytes"] > 0 and first["bytes_if_all_differed"] > 0
    names = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "raw").iterdir()}
    full_run.make_recordings(tmp_path / "raw", 12)  # goes on where it stopped, and so does nothing
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "raw").iterdir()} == names
    assert prepare("ntu60", tmp_path / "raw", tmp_path / "data", frames=8).clips == 12


def test_coordinates_of_a_sparse_data_set_take_no_room(tmp_path: Path) -> None:
    folder = large_training.sparse_dataset(tmp_path, 2000)
    assert large_training.sparse_dataset(tmp_path, 2000) == folder
    dataset = PreparedDataset(folder)
    assert dataset.joints.shape == (2000, 3, 50, 25, 2)
    assert not dataset.joints[[0, 999, 1999]].any()
    assert dataset.clips[1999] == measuring.made_clip(1999, 60) and isinstance(dataset.clips[0], Clip)
    stored = (folder / "joints.npy").stat()
    assert stored.st_size > 2000 * 30000 and stored.st_blocks * 512 < stored.st_size / 10


def test_memory_is_the_highest_within() -> None:
    with measuring.measured() as usage:
        held = np.ones(2**24)  # 128 MiB
        del held
    own, with_files = measuring.resident()
    assert usage.own >= own + 0.1 and usage.with_files >= with_files + 0.1


def test_rows_are_stored_and_shown(tmp_path: Path) -> None:
    rows = [large_training.Row(size, [9.0], [2.0, 1.0, 3.0], [0.01], 0.5, 1.25, 1.5) for size in (
        large_training.SWEEPS["keys"][0], large_training.SWEEPS["batch"][1], large_training.SWEEPS["clips"][3],
    )]  # fmt: skip
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"machine": "x", "rows": [asdict(row) for row in rows]}))
    assert large_training.stored(path) == ("x", rows)
    assert large_training.stored(tmp_path / "none") == ("", [])
    tables = list(large_training._tables(rows))
    assert [table.splitlines()[-1] for table in tables] == [
        "| 16,384 | 2.00 s, 1.25 GiB |  |  |",
        "| 2 |  | 2.00 s, 1.25 GiB |  |",
        "| 1,000,000 | 0.50 s | 10.0 ms | 2.00 s | 1.25 GiB | 1.50 GiB |",
    ]


def test_a_whole_run_is_concluded_from_its_parts() -> None:
    usage = {"wall": 30.0, "processor": 20.0, "own": 1.0, "with_files": 2.0}
    step = {"usage": usage, "bytes": 2**20, "steps": 3, "step": 2.0, "step_processor": 1.0, "device": 0.0}
    parts = {
        "recordings": {"usage": usage, "bytes": 0, "bytes_if_all_differed": 2**30},
        "prepare": {"usage": usage, "bytes": 0},
        "stage 1": step,
        "stage 2": step,
        "distillation": step,
        "evaluation of a quarter": {"usage": usage, "bytes": 0, "clips": 10},
        "evaluation": {"usage": usage | {"wall": 60.0, "processor": 50.0}, "bytes": 0, "clips": 40},
    }
    lines = list(full_run.table(parts, clips=5688))
    assert "| stage 1 | 3 steps | 30 s | 20 s | 1.0 GiB | 2.0 GiB | 1 MiB |" in lines
    assert "| prepare | 5.3 ms a clip | 5.0 min | 3.3 min |" in lines
    assert "| stage 2 | 47250 steps of 2.00 s | 26.2 h | 13.1 h |" in lines
    assert "| evaluation | 1000 ms a clip more | 15.8 h | 15.8 h |" in lines
    assert lines[-1].endswith("they would take 10.0 GiB.")

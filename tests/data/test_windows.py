"""Recordings cut into windows: which frames, whose, and in which part."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from recordings import write_npz, write_nw_ucla_clip

from ikem.data.dataset import PreparedDataset
from ikem.data.formats import RawClip
from ikem.data.prepare import prepare
from ikem.data.windows import Window, Windows

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("frames", [1, 29, 30, 31, 50, 70, 71, 200])
def test_every_frame_is_in_a_window(frames: int) -> None:
    windows = list(Windows(30, 20)(frames))
    assert windows[0].start == 0 and windows[-1].stop == frames
    assert len(set(windows)) == len(windows)
    for window in windows:
        assert window.stop - window.start == min(30, frames)
    for before, after in pairwise(windows):
        assert 0 < after.start - before.start <= 20


def test_a_window_holds_all_that_was_recorded() -> None:
    clip = RawClip(
        RNG.normal(size=(2, 40, 17, 1)),
        confidence=RNG.random((40, 17, 1)),
        image_size=(640, 480),
        num_frames=80,
        body_ids=np.arange(40)[:, None],
    )
    part = Window(10, 30).of(clip)
    np.testing.assert_array_equal(part.joints, clip.joints[:, 10:30])
    np.testing.assert_array_equal(part.confidence, clip.confidence[10:30])
    np.testing.assert_array_equal(part.body_ids, clip.body_ids[10:30])
    assert (part.image_size, part.num_frames) == ((640, 480), 40)


def test_windows_are_clips_of_their_recordings(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    recordings = {}
    for view, frames in ((1, 75), (2, 30), (3, 50)):
        joints = RNG.normal(size=(3, frames, 20, 1)).round(6)
        recordings[view] = joints
        write_nw_ucla_clip(raw, joints, action=2, subject=view, view=view)
    summary = prepare("nw-ucla", raw, tmp_path / "out", frames=30, center="none", windows="30,20")
    dataset = PreparedDataset(tmp_path / "out")
    expected = [(1, 0), (1, 20), (1, 40), (1, 45), (2, 0), (3, 0), (3, 20)]
    assert [clip.name for clip in dataset.clips] == [f"a02_s{v:02d}_e00_v{v:02d}@{start}" for v, start in expected]
    for clip, stored, (view, start) in zip(dataset.clips, dataset.joints, expected, strict=True):
        assert (clip.label, clip.subject, clip.camera, clip.num_frames) == (1, view, view, 30)
        np.testing.assert_allclose(stored, recordings[view][:, start : start + 30], atol=1e-5)
    assert dataset.split("cross-view", "train").tolist() == [0, 1, 2, 3, 4]  # by recording
    assert dataset.split("cross-view", "test").tolist() == [5, 6]
    assert "3 recordings were cut into windows of 30 frames, one every 20: 7 clips, called NAME@start" in summary.notes
    description = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert description["selection"]["windows"] == {"length": 30, "hop": 20}


def test_windows_without_a_body_are_left_out_and_named(tmp_path: Path) -> None:
    joints = RNG.normal(size=(2, 3, 60, 25, 1)).astype(np.float32)
    joints[0, :, 20:45] = 0
    path = write_npz(tmp_path, joints=joints, num_frames=np.array([60, 60]), labels=np.array([0, 1]), layout="ntu25")
    summary = prepare("npz", path, tmp_path / "out", frames=20, windows="20,20")
    dataset = PreparedDataset(tmp_path / "out")
    assert len(dataset) == 5
    (reason,) = summary.skipped
    assert [name.split("@")[1] for name in summary.skipped[reason]] == ["20"]


def test_real_recordings(shared: Path, tmp_path: Path) -> None:
    path = shared / "data" / "msr-daily.npz"
    prepare("npz", path, tmp_path / "out", frames=32, windows="64,32", skip_damaged=True)
    dataset = PreparedDataset(tmp_path / "out")
    names = {clip.name.split("@")[0] for clip in dataset.clips}
    lengths = np.load(path)["num_frames"]
    whole = sum(len(list(Windows(64, 32)(length))) for length in lengths.tolist())
    assert 316 <= len(names) <= 320
    assert 0.97 * whole < len(dataset) <= whole
    train, test = (
        {dataset.clips[clip].subject for clip in dataset.split("cross-subject", part)} for part in ("train", "test")
    )
    assert not train & test and len(train | test) == 10


@pytest.mark.parametrize("text", ["64", "64,32,1", "a,b", "0,0", "32,64", "32,0", ""])
def test_windows_that_cannot_be_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="windows: expected"):
        prepare("npz", tmp_path / "own.npz", tmp_path / "out", windows=text)
    assert not (tmp_path / "out").exists()

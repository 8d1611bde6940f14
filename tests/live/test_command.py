"""`ikem live` and `ikem segment` as one uses them."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from classifiers import CLASSES, tiny_classifier
from numpy.testing import assert_allclose

from ikem.cli import main
from ikem.data.formats import RawClip
from ikem.live import Frames
from ikem.live.lines import line_of_frame
from ikem.use.classifier import save_classifier
from ikem_ext import get_layout

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A classifier, and two recordings."""
    save_classifier(tmp_path / "classifier.safetensors", tiny_classifier())
    joints = np.random.default_rng(0).normal(size=(2, 3, 40, 25, 1)).cumsum(axis=2).astype(np.float32)
    np.savez(
        tmp_path / "two.npz",
        joints=joints,
        num_frames=np.array([40, 40]),
        labels=np.arange(2),
        class_names=np.array(CLASSES[:2]),
        subjects=np.arange(2),
        names=np.array(["a", "b"]),
        layout="ntu25",
    )
    return tmp_path


def test_a_replay_says_what_the_whole_recording_shows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["live", str(folder), "--replay", str(folder / "two.npz"), "--speed", "0", "--top", "3"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    with np.load(folder / "two.npz") as stored:
        clips = [RawClip(joints) for joints in stored["joints"]]
    classifier = tiny_classifier()
    with torch.inference_mode():
        expected = classifier(*classifier.prepare(clips, get_layout("ntu25"))).numpy()
    assert [line["recording"] for line in lines] == ["a", "b"]
    for line, row in zip(lines, expected, strict=True):
        assert line["class"] == CLASSES[row.argmax()]
        assert_allclose([line["probabilities"][name] for name in CLASSES], row, atol=1e-4)


def test_results_come_at_once_and_stay_when_the_stream_breaks(folder: Path) -> None:
    command = [sys.executable, "-m", "ikem.cli", "live", str(folder), "--stdin", "--window", "8", "--hop", "8"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdin and process.stdout and process.stderr
        for joints in np.random.default_rng(0).normal(size=(8, 3, 25, 1)):
            process.stdin.write(line_of_frame(Frames(joints)) + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["end"] == 8  # while the stream is still open
        process.stdin.write('{"bodies": [')
        process.stdin.close()
        assert process.stdout.read() == ""
        error = process.stderr.read()
    assert process.returncode == 2
    assert error == "ikem live: error: line 9: the stream stopped within it, after 12 bytes\n"


def test_segments_are_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--fps", "30", "--window", "0.3", "--shortest", "0.2"]
    main(["segment", str(folder), str(folder / "two.npz"), *options, "--output", str(folder / "found.csv")])
    with (folder / "found.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("a", "b"):
        intervals = [(int(row["start"]), int(row["end"])) for row in rows if row["recording"] == name]
        assert intervals[0][0] == 0 and intervals[-1][1] == 40
        assert all(end - start >= 6 for start, end in intervals)
        assert all(before[1] == after[0] for before, after in pairwise(intervals))
    assert float(rows[0]["end_seconds"]) == pytest.approx(int(rows[0]["end"]) / 30, abs=1e-3)
    with pytest.raises(SystemExit):
        main(["segment", str(folder), str(folder / "two.npz"), "--output", str(folder / "found.txt")])
    assert "output: expected a name that ends in .csv or .json" in capsys.readouterr().err


def test_mediapipe_is_turned_as_kinect_has_it() -> None:
    spec = importlib.util.spec_from_file_location("camera", ROOT / "examples" / "mediapipe_camera.py")
    assert spec and spec.loader
    camera = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(camera)
    marks = [SimpleNamespace(x=1.0, y=2.0, z=3.0, visibility=0.5)] * 33
    frame = camera.frame_of(SimpleNamespace(pose_world_landmarks=[marks]), 1.5)
    assert frame.joints.shape == (3, 33, 1) and frame.joints[:, 0, 0].tolist() == [-1, -2, 3]
    assert frame.timestamps == 1.5 and frame.confidence[0, 0] == 0.5
    assert camera.frame_of(SimpleNamespace(pose_world_landmarks=[]), 2.0).joints.shape == (3, 33, 0)

"""PKU-MMD as its authors distribute it: a skeleton and a label file per video, and the split files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ikem.data.dataset import PreparedDataset
from ikem.data.formats import FORMATS
from ikem.data.prepare import prepare


def write_video(raw: Path, video: str, labels: str, frames: int = 20) -> np.ndarray:
    """Writes a video and its labels; returns its joints (3, frames, 25, 2), the second body never seen."""
    joints = np.zeros((frames, 2, 25, 3))
    joints[:, 0] = np.random.default_rng(list(video.encode())).normal(size=(frames, 25, 3)).round(6)
    lines = (" " + " ".join(f"{value:.6f}" for value in frame.ravel()) for frame in joints)
    for folder, content in (("skeleton", "\n".join(lines) + "\n"), ("Train_Label_PKU_final", labels)):
        (raw / folder).mkdir(exist_ok=True)
        (raw / folder / f"{video}.txt").write_text(content)
    return joints.transpose(3, 0, 2, 1)


def write_splits(raw: Path) -> None:
    """As they are written, the misspelling included."""
    (raw / "cross-subject.txt").write_text("Training videos: \n0002-L, 0002-M, \n\nValidataion videos: \n0003-L")
    (raw / "cross_view_v2.txt").write_text("Training videos:\n0002-L, 0003-L\nValidataion videos:\n0002-M\n")


def test_videos_are_cut_by_their_labels(tmp_path: Path) -> None:
    joints = write_video(tmp_path, "0002-L", "51,3,9,2\n1,12,20,1\n")
    write_video(tmp_path, "A01N05-R", "8,0,4,2\n", frames=30)
    recordings = FORMATS["pku-mmd"](tmp_path)
    sources, skipped = recordings.discover()
    assert not skipped
    assert [(clip.name, clip.label, clip.camera, clip.subject) for clip in sources] == [
        ("0002-L_001", 50, 1, None),
        ("0002-L_002", 0, 1, None),
        ("A01N05-R_001", 7, 3, 5),
    ]
    assert (recordings.classes[0], recordings.classes[7], recordings.classes[50]) == ("bow", "drink water", "writing")
    np.testing.assert_array_equal(recordings.read(sources[0]).joints, joints[:, 3:9])
    np.testing.assert_array_equal(recordings.read(sources[1]).joints, joints[:, 12:20])
    recordings.read(sources[2])
    assert recordings.notes[0] == "32 frames between the labelled actions of 2 videos were left out"


def test_prepared_with_the_official_protocols(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for video in ("0002-L", "0002-M", "0003-L"):
        write_video(raw, video, "1,0,10,2\n2,10,20,2\n")
    write_video(raw, "0004-R", "1,0,10,2\n")
    write_splits(raw)
    summary = prepare("pku-mmd", raw, tmp_path / "prepared", frames=8)
    assert "10 frames between the labelled actions of 4 videos were left out" in summary.notes
    assert "1 videos are in no part of cross-view, such as 0004-R" in summary.notes
    data = PreparedDataset(tmp_path / "prepared")
    assert data.joints.shape == (7, 3, 8, 25, 2)
    assert {name: {part: list(clips) for part, clips in parts.items()} for name, parts in data.protocols.items()} == {
        "cross-subject": {"train": [0, 1, 2, 3], "test": [4, 5]},
        "cross-view": {"train": [0, 1, 4, 5], "test": [2, 3]},
    }


def test_an_action_ends_with_its_video_at_the_latest(tmp_path: Path) -> None:
    joints = write_video(tmp_path, "0002-L", "1,15,25,2\n2,20,22,2\n")
    recordings = FORMATS["pku-mmd"](tmp_path)
    last, beyond = recordings.discover().sources
    np.testing.assert_array_equal(recordings.read(last).joints, joints[:, 15:])
    with pytest.raises(ValueError, match=r"skeleton/0002-L\.txt: the action begins in frame 20 of 20"):
        recordings.read(beyond)
    assert "2 actions end with their video, before the frame that their label names" in recordings.notes


def test_what_is_left_out(tmp_path: Path) -> None:
    write_video(tmp_path, "0002-L", "1,0,10,2\n")
    write_video(tmp_path, "0003-L", "")
    write_video(tmp_path, "0004-L", "1,0,10,2\n")
    (tmp_path / "skeleton" / "0004-L.txt").rename(tmp_path / "skeleton" / "0005-L.txt")
    for name in ("readme.txt", "Skeleton.7z", ".DS_Store", "Actions.xlsx"):
        (tmp_path / name).touch()
    recordings = FORMATS["pku-mmd"](tmp_path)
    sources, skipped = recordings.discover()
    assert [source.name for source in sources] == ["0002-L_001"]
    assert skipped == {
        "an archive: if it holds recordings, unpack it": ["Skeleton.7z"],
        "the file is not named like 0002-L.txt": ["readme.txt"],
        "the video has no label file": ["0005-L"],
        "the label file has no video": ["0004-L"],
        "the label file names no action": ["0003-L"],
    }
    assert recordings.notes[1:] == [
        "without cross-subject.txt and cross-view.txt among the recordings there are no such protocols"
    ]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            "1,0,10,2\n52,10,20,2\n",
            ":2: expected a class from 1 to 51 and its first frame before its last, got 52,10,20",
        ),
        ("1,10,10,2\n", ":1: expected a class from 1 to 51 and its first frame before its last, got 1,10,10"),
        ("1,0.5,10,2\n", ":1: expected a class"),
        ("1,0,10\n", ":1: expected 4 numbers, got 3 fields"),
    ],
)
def test_wrong_labels_are_told_when_the_video_is_read(tmp_path: Path, labels: str, message: str) -> None:
    write_video(tmp_path, "0002-L", labels)
    write_video(tmp_path, "0003-L", "1,0,10,2\n")
    recordings = FORMATS["pku-mmd"](tmp_path)
    wrong, _ = recordings.discover().sources
    with pytest.raises(ValueError, match=re.escape(f"Train_Label_PKU_final/0002-L.txt{message}")):
        recordings.read(wrong)


def test_a_wrong_row_is_named_by_its_line_in_the_video(tmp_path: Path) -> None:
    write_video(tmp_path, "0002-L", "1,0,5,2\n2,5,15,2\n")
    path = tmp_path / "skeleton" / "0002-L.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:11], lines[11] + " 7", *lines[12:]]))
    recordings = FORMATS["pku-mmd"](tmp_path)
    first, second = recordings.discover().sources
    assert recordings.read(first).joints.shape == (3, 5, 25, 2)
    with pytest.raises(ValueError, match=r"skeleton/0002-L\.txt:12: expected 150 numbers, got 151 fields"):
        recordings.read(second)


def test_an_empty_line_is_no_frame(tmp_path: Path) -> None:
    write_video(tmp_path, "0002-L", "1,0,5,2\n")
    path = tmp_path / "skeleton" / "0002-L.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], "", *lines[4:]]))
    recordings = FORMATS["pku-mmd"](tmp_path)
    with pytest.raises(ValueError, match=r"skeleton/0002-L\.txt:5: expected 150 numbers, got 0 fields"):
        recordings.read(recordings.discover().sources[0])


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("Training videos:\n0002-L\nValidataion videos:\n0002-L\n", "0002-L is listed twice"),
        ("0002-L, 0003-L\n", "expected lists of videos after 'Training videos:' and 'Validation videos:'"),
    ],
)
def test_wrong_split_files(tmp_path: Path, split: str, message: str) -> None:
    (tmp_path / "cross_subject.txt").write_text(split)
    with pytest.raises(ValueError, match=rf"cross_subject\.txt: {message}"):
        FORMATS["pku-mmd"](tmp_path)

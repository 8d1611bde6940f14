"""SHREC'17 as its authors distribute it: one folder per clip, and two lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from recordings import write_shrec_clip

from ikem.data.formats import FORMATS

JOINTS = np.random.default_rng(0).normal(size=(3, 5, 22, 1)).round(6)


def write_lists(raw: Path, train: str, test: str) -> None:
    (raw / "train_gestures.txt").write_text(train)
    (raw / "test_gestures.txt").write_text(test)


def test_folders_tell_all(tmp_path: Path) -> None:
    write_shrec_clip(tmp_path, JOINTS, gesture=13, fingers=2, subject=28, trial=4)
    for name, label, class_name in (("shrec17", 12, "swipe v"), ("shrec17-28", 25, "swipe v, whole hand")):
        recordings = FORMATS[name](tmp_path)
        (source,) = recordings.discover().sources
        assert source.name == "gesture_13/finger_2/subject_28/essai_4"
        assert (source.label, source.subject, source.replication, source.camera) == (label, 28, 4, None)
        assert recordings.classes[label] == class_name
        np.testing.assert_array_equal(recordings.read(source).joints, JOINTS)


def test_the_official_lists_are_a_protocol(tmp_path: Path) -> None:
    for subject in (1, 2, 3):
        write_shrec_clip(tmp_path, JOINTS, subject=subject)
    write_lists(tmp_path, "1 1 2 1 1 1 5 \n", "1 1 1 1 1 1 5 \n14 2 9 1 14 28 60 \n")
    recordings = FORMATS["shrec17"](tmp_path)
    assert [dict(source.parts) for source in recordings.discover().sources] == [
        {"official": "test"},
        {"official": "train"},
        {},
    ]
    assert recordings.notes == [
        "1 clips are in neither of the official lists, such as gesture_1/finger_1/subject_3/essai_1",
        "1 clips of the official lists are not among the recordings, such as gesture_14/finger_2/subject_9/essai_1",
    ]


def test_without_lists_it_is_said_what_is_missing(tmp_path: Path) -> None:
    write_shrec_clip(tmp_path, JOINTS)
    recordings = FORMATS["shrec17"](tmp_path)
    assert [dict(source.parts) for source in recordings.discover().sources] == [{}]
    assert recordings.notes == [
        "without train_gestures.txt and test_gestures.txt among the recordings there is no protocol 'official'"
    ]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (
            "1 1 1 1 1 1 5\n",
            "2 1 1 1 2 3 5\n1 1 1 1 1 1 5\n",
            r"gestures\.txt: .*essai_1 is listed for test and",
        ),
        ("1 1 1 1 1 1 5\n1 1 1\n", "2 1 1 1 2 3 5\n", r"train_gestures\.txt:2: expected 7 numbers, got 3 fields"),
    ],
)
def test_wrong_lists(tmp_path: Path, train: str, test: str, message: str) -> None:
    write_lists(tmp_path, train, test)
    with pytest.raises(ValueError, match=message):
        FORMATS["shrec17"](tmp_path)


def test_damaged_clip(tmp_path: Path) -> None:
    path = write_shrec_clip(tmp_path, JOINTS)
    path.write_text(path.read_text() + "1 2 3\n")
    recordings = FORMATS["shrec17"](tmp_path)
    with pytest.raises(ValueError, match=r"skeletons_world\.txt:6: expected 66 numbers, got 3 fields"):
        recordings.read(recordings.discover().sources[0])

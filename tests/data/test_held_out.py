"""Training clips held out of a protocol, by what is known of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ikem.data.dataset import Clip, PreparedDataset, write_dataset
from ikem.data.joined import JoinedDataset
from ikem_ext import get_layout

SUBJECTS = (1, "Ann", 1, 2, 2, None, 3, 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight clips, of which all but the last two train; of two cameras in turn."""
    clips = [Clip(f"clip{i}", i % 2, subject, i % 2, None, None, 60) for i, subject in enumerate(SUBJECTS)]
    write_dataset(
        tmp_path / "data",
        joints=np.zeros((8, 3, 4, 25, 1)),
        clips=clips,
        classes=["wave", "walk"],
        layout=get_layout("ntu25"),
        source="npz",
        preprocessing={},
        protocols={"halves": {"train": [0, 1, 2, 3, 4, 5], "test": [6, 7]}, "a/b": {"train": [0, 3], "test": [1]}},
    )
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("protocol", "train", "test"),
    [
        ("halves/subject=1", [1, 3, 4, 5], [0, 2]),
        ("halves/subject=Ann,2", [0, 2, 5], [1, 3, 4]),
        ("halves/subject=None", [0, 1, 2, 3, 4], [5]),
        ("halves/camera=0", [1, 3, 5], [0, 2, 4]),
        ("a/b/subject=2", [0], [3]),
    ],
)
def test_they_are_tested_on_and_test_clips_are_not(
    folder: Path, protocol: str, train: list[int], test: list[int]
) -> None:
    parts = PreparedDataset(folder).parts(protocol)
    assert {name: clips.tolist() for name, clips in parts.items()} == {"train": train, "test": test}
    assert PreparedDataset(folder).split(protocol, "test").tolist() == test


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        ("halves/subject=3", "subject, which are 1, Ann, 2, None, and not all of them, got '3'"),  # who is tested on
        ("halves/camera=0,1", "camera, which are 0, 1, and not all of them, got '0,1'"),
        ("halves/label=0", r"expected one of \['a/b', 'halves'\]"),
        ("thirds/subject=1", r"expected one of \['a/b', 'halves'\]"),
        ("halves/subject=", r"expected one of \['a/b', 'halves'\]"),
    ],
)
def test_what_cannot_be_held_out_is_refused(folder: Path, protocol: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"protocol: .*{said}"):
        PreparedDataset(folder).split(protocol, "train")


def test_subjects_of_several_data_sets(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.symlink_to(folder)
    with pytest.raises(ValueError, match="each data set once"):
        JoinedDataset([folder, other])
    other.unlink()
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).symlink_to(file)
    joined = JoinedDataset([folder, other])
    assert joined.split("halves/subject=other/1", "test").tolist() == [8, 10]

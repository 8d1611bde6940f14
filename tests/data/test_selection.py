"""Classes, subjects and cameras to take, and what becomes of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import write_ntu_clip, write_nw_ucla_clip

from ikem.cli import main
from ikem.data.dataset import PreparedDataset
from ikem.data.formats import ClipSource
from ikem.data.prepare import prepare
from ikem.data.selection import Only

CLASSES = ("walk", "sit", "cheers, and drink", "7", "wave")


def sources() -> list[ClipSource]:
    """Two subjects of each kind, two cameras, all classes, and a clip that says nothing."""
    clips = [
        ClipSource(f"{label}{subject}{camera}", label, Path(), subject, camera)
        for label in range(5)
        for subject in (1, 10, "ann")
        for camera in (1, 2)
    ]
    return [*clips, ClipSource("unknown", None, Path())]


def labels_of(wanted: Any) -> list[int]:
    chosen = Only(classes=wanted).choose(sources(), CLASSES)
    assert {source.label for source in chosen.sources} == set(chosen.labels)
    assert list(chosen.labels.values()) == list(range(len(chosen.classes)))
    assert [CLASSES[label] for label in chosen.labels] == list(chosen.classes)
    assert chosen.others == {"classes": 31 - 6 * len(chosen.classes)}
    return list(chosen.labels)


@pytest.mark.parametrize(
    ("wanted", "labels"),
    [
        (1, [1]),
        ("1", [1]),
        ("1-2", [1, 2]),
        ("0, 2-4", [0, 2, 3, 4]),
        ("wave,sit", [1, 4]),
        ("cheers, and drink", [2]),
        (["cheers, and drink", "0-1", 4], [0, 1, 2, 4]),
        ("7", [3]),  # its name, and there is no label 7
        ("02", [2]),
    ],
)
def test_classes_by_name_and_label(wanted: Any, labels: list[int]) -> None:
    assert labels_of(wanted) == labels


def test_all_that_is_asked_for_has_to_hold() -> None:
    chosen = Only(classes="0-1", subjects="ann,10", cameras=2).choose(sources(), CLASSES)
    assert [source.name for source in chosen.sources] == ["0102", "0ann2", "1102", "1ann2"]
    assert chosen.others == {"classes": 19, "subjects": 4, "cameras": 4}
    everything = Only().choose(sources(), CLASSES)
    assert (len(everything.sources), everything.classes, everything.others) == (31, CLASSES, {})


@pytest.mark.parametrize(
    ("only", "message"),
    [
        (Only(classes="5"), r"only.classes: expected some of those there are \(0 to 4, walk, sit, .*\), got 5"),
        (Only(classes="walk,run"), r"only.classes: .*, got run"),
        (Only(subjects="1-2"), r"only.subjects: expected some of those there are \(1, 10, ann\), got 2"),
        (Only(cameras=[1, 3]), r"only.cameras: expected some of those there are \(1, 2\), got 3"),
    ],
)
def test_what_there_is_not_is_refused(only: Only, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        only.choose(sources(), CLASSES)


def test_names_that_are_numbers_are_kept_as_they_are_written() -> None:
    clips = [ClipSource(subject, 0, Path(), subject) for subject in ("007", "7", "1-2")]
    for name in ("007", "7", "1-2"):
        assert [clip.name for clip in Only(subjects=name).choose(clips, ("walk",)).sources] == [name]


def test_recordings_without_cameras_say_so() -> None:
    with pytest.raises(ValueError, match="none, as the recordings do not say"):
        Only(cameras=1).choose([ClipSource("a", 0, Path())], ("walk",))


def test_sixty_classes_out_of_a_folder_of_120(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    rng = np.random.default_rng(0)
    for name in ("S001C001P001R001A001", "S001C002P003R001A060", "S018C001P050R001A061", "S032C001P106R001A120"):
        write_ntu_clip(raw, rng.normal(size=(3, 5, 25, 1)), name=f"{name}.skeleton")
    main(["prepare", "ntu120", str(raw), str(tmp_path / "only"), "--only.classes", "0-59"])
    assert "2 clips of other classes than asked for were passed over" in " ".join(capsys.readouterr().out.split())
    prepare("ntu60", raw, tmp_path / "ntu60")
    only, whole = PreparedDataset(tmp_path / "only"), PreparedDataset(tmp_path / "ntu60")
    assert only.classes == whole.classes
    assert only.labels.tolist() == whole.labels.tolist() == [0, 59]
    np.testing.assert_array_equal(only.joints, whole.joints)
    assert "nothing else was left out" in (tmp_path / "only" / "summary.md").read_text()
    assert "2 left out: the action is not one of the 60" in (tmp_path / "ntu60" / "summary.md").read_text()


def test_classes_are_numbered_anew_and_readers_know_the_old_numbers(tmp_path: Path) -> None:
    """This format checks the label in each file against the file's name."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for action in (1, 3, 9, 12):
        for view in (1, 3):
            joints = np.random.default_rng(action).normal(size=(3, 5, 20, 1))
            write_nw_ucla_clip(raw, joints + view, action=action, view=view)
    summary = prepare("nw-ucla", raw, tmp_path / "out", only=Only(classes="carry,drop trash", cameras="1,3"))
    dataset = PreparedDataset(tmp_path / "out")
    assert dataset.classes == ["drop trash", "carry"]
    assert {(clip.name[:3], clip.label) for clip in dataset.clips} == {("a03", 0), ("a12", 1)}
    assert (summary.classes, summary.others, summary.skipped) == (2, {"classes": 4, "cameras": 0}, {})
    with pytest.raises(ValueError, match=r"only: none of the 8 clips in .* has all that is asked for"):
        prepare("nw-ucla", raw, tmp_path / "none", only=Only(classes="throw", cameras=1))

"""The parts of each data set's protocols."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ikem.data.formats import ClipSource
from ikem.data.protocols import Protocols, lacking_for_evaluation, make_protocols


def clips_of(**columns: list[Any]) -> list[ClipSource]:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [ClipSource(**{"name": str(row), "label": 0, "path": Path(), **values}) for row, values in enumerate(rows)]


def protocols_of(format_name: str, clips: list[ClipSource]) -> Protocols:
    return make_protocols(format_name, clips, [clip.name.encode() for clip in clips])


def in_train(protocols: Protocols, name: str, first: int = 1) -> list[int]:
    parts = protocols[name]
    assert sorted(parts) == ["test", "train"]
    assert sorted(parts["train"] + parts["test"]) == list(range(len(parts["train"]) + len(parts["test"])))
    return [index + first for index in parts["train"]]


def test_ntu60() -> None:
    clips = clips_of(subject=list(range(1, 41)), camera=[1 + n % 3 for n in range(40)])
    protocols = protocols_of("ntu60", clips)
    assert in_train(protocols, "xsub") == [1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38]
    assert {clips[index].camera for index in protocols["xview"]["train"]} == {2, 3}
    assert {clips[index].camera for index in protocols["xview"]["test"]} == {1}


def test_ntu120() -> None:
    clips = clips_of(subject=list(range(1, 107)), setup=[1 + n % 32 for n in range(106)])
    protocols = protocols_of("ntu120", clips)
    train = in_train(protocols, "xsub")
    assert len(train) == 53
    assert set(train) >= {38, 45, 59, 70, 86, 89, 91, 103}
    assert not set(train) & {3, 40, 44, 48, 51, 60, 79, 87, 90, 96, 99, 101, 102, 104, 106}
    assert {clips[index].setup for index in protocols["xset"]["train"]} == set(range(2, 33, 2))


def test_cross_subject() -> None:
    assert in_train(protocols_of("utd-mhad", clips_of(subject=list(range(1, 9)))), "cross-subject") == [1, 3, 5, 7]
    assert in_train(protocols_of("msr-action3d", clips_of(subject=list(range(1, 11)))), "cross-subject") == [
        *(1, 3, 5, 7, 9)
    ]


def test_sbu_folds_test_on_every_pair_once() -> None:
    pairs = "s01s02 s01s03 s01s07 s02s01 s02s03 s02s06 s02s07 s03s02 s03s04 s03s05 s03s06 s04s02 s04s03 s04s06".split()
    pairs += "s05s02 s05s03 s06s02 s06s03 s06s04 s07s01 s07s03".split()
    clips = clips_of(name=[f"{pair}/01/001" for pair in pairs])
    protocols = protocols_of("sbu", clips)
    assert list(protocols) == ["fold1", "fold2", "fold3", "fold4", "fold5"]
    tests = [{pairs[index] for index in parts["test"]} for parts in protocols.values()]
    assert sorted(pair for test in tests for pair in test) == pairs
    assert tests[0] == {"s01s02", "s03s04", "s05s02", "s06s04"}
    assert tests[4] == {"s04s02", "s04s03", "s04s06", "s06s02", "s06s03"}
    for name in protocols:
        in_train(protocols, name)


def test_repeats_of_training_clips_are_told_apart() -> None:
    clips = clips_of(camera=[1, 2, 3, 3, 3])
    protocols = make_protocols("nw-ucla", clips, [b"a", b"b", b"c", b"b", b"c"])
    assert protocols == {"cross-view": {"train": [0, 1], "test": [2, 3, 4], "test_without_repeats": [2, 4]}}


def given(parts: str) -> list[dict[str, str]]:
    return [{"given": part} for part in parts.split()]


def test_own_data() -> None:
    clips = clips_of(subject=[7, 3, 7, 12, 20], parts=given("train train test test test"))
    assert protocols_of("npz", clips) == {
        "cross-subject": {"train": [1, 3], "test": [0, 2, 4]},
        "given": {"train": [0, 1], "test": [2, 3, 4]},
    }
    split = clips_of(parts=given("train test train"))
    assert protocols_of("npz", split) == {"given": {"train": [0, 2], "test": [1]}}


def test_without_any_split_all_clips_train() -> None:
    everything = {"train": [0, 1], "test": []}
    assert protocols_of("npz", clips_of(camera=[1, 2])) == {"all": everything}
    assert protocols_of("ntu60", clips_of(subject=[3, 6], camera=[1, 1]))["all"] == everything  # who only test
    assert "all" not in protocols_of("ntu60", clips_of(subject=[3, 6], camera=[1, 2]))
    assert protocols_of("npz", clips_of(subject=[1, 2], label=[None, None]))["all"] == everything
    assert "all" not in protocols_of("npz", clips_of(subject=[1, 2], label=[None, 0]))


@pytest.mark.parametrize(
    ("train", "test", "lacking"),
    [
        ([0, 1], [2], None),
        ([0, 1, 4], [2, 4], None),
        ([], [2], "it has no training clip"),
        ([0, 1], [], "it has no test clip"),
        ([0, 3], [2], "its training clips are all of one class"),
        ([0, 3, 4], [2], "its training clips are all of one class"),
        ([4, 5], [2], "none of its 2 training clips has a label"),
        ([0, 1], [4], "none of its 1 test clips has a label"),
    ],
)
def test_what_is_lacking_for_an_evaluation(train: list[int], test: list[int], lacking: str | None) -> None:
    said = lacking_for_evaluation({"train": train, "test": test}, np.array([0, 1, 2, 0, -1, -1]))
    assert said is None if lacking is None else said is not None and said.startswith(lacking)


def test_recordings_that_bring_several_protocols_with_clips_in_some() -> None:
    parts = [{"xsub": "train", "xset": "test"}, {"xsub": "test"}, {"xset": "train"}]
    protocols = protocols_of("npz", clips_of(parts=parts))
    assert protocols == {"xsub": {"train": [0], "test": [1]}, "xset": {"train": [2], "test": [0]}}


def test_subjects_by_name_and_number() -> None:
    protocols = protocols_of("npz", clips_of(subject=["ann", 10, 9, "bob", "ann"]))
    assert protocols == {"cross-subject": {"train": [0, 2, 4], "test": [1, 3]}}


def test_subjects_that_train_are_named() -> None:
    clips = clips_of(subject=["ann", 10, 9, "bob", "ann"])
    contents = [clip.name.encode() for clip in clips]
    protocols = make_protocols("npz", clips, contents, train_subjects=["bob", "10"])
    assert protocols == {"cross-subject": {"train": [1, 3], "test": [0, 2, 4]}}
    for names in (["bob", "11"], ["ann", "10", "9", "bob"]):
        with pytest.raises(
            ValueError, match=f"train_subjects: expected some of the subjects 9, 10, ann, bob, got {', '.join(names)}"
        ):
            make_protocols("npz", clips, contents, train_subjects=names)
    with pytest.raises(ValueError, match=r"expected some of the subjects \(there are none\), got 1"):
        make_protocols("npz", clips_of(camera=[1]), [b""], train_subjects=["1"])
    with pytest.raises(ValueError, match="train_subjects: the authors of ntu60 lay down who trains"):
        make_protocols("ntu60", clips_of(subject=[1]), [b""], train_subjects=["1"])


def test_what_other_code_has_divided_is_not_divided_again() -> None:
    clips = clips_of(subject=[1, 2, 3], parts=[{"xsub": "train"}, {"xsub": "train"}, {"xsub": "test"}])
    assert protocols_of("pyskl", clips) == {"xsub": {"train": [0, 1], "test": [2]}}
    assert list(protocols_of("npz", clips)) == ["cross-subject", "xsub"]
    undivided = clips_of(subject=[1, 2, 3])
    assert protocols_of("pyskl", undivided) == {"cross-subject": {"train": [0, 2], "test": [1]}}

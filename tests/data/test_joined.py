"""Several prepared data sets as one: which clips, in which order, and what does not fit together."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ikem.config import Config, DataConfig, ViewsConfig
from ikem.data.batches import ClipViews, ShuffledBatches
from ikem.data.dataset import Clip, PreparedDataset, write_dataset
from ikem.data.joined import JoinedArrays, JoinedDataset, open_dataset
from ikem.data.views import RandomViews
from ikem.training import open_data
from ikem_ext import get_layout

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a data set of some clips, whose coordinates are the number of the clip."""

    def written(name: str, clips: int, frames: int = 8, bodies: int = 1, layout: str = "sbu15", **options: Any) -> Path:
        shape = (clips, 3, frames, get_layout(layout).num_joints, bodies)
        half = clips // 2
        description = {
            "classes": [f"{name} {label}" for label in range(2)],
            "layout": get_layout(layout),
            "source": "npz",
            "preprocessing": {"center": "frame"},
            "protocols": {
                "cross-subject": {"train": list(range(half)), "test": list(range(half, clips))},
                f"of-{name}": {"train": [0], "test": [1]},
            },
        }
        write_dataset(
            tmp_path / name,
            joints=np.broadcast_to(np.arange(clips, dtype=np.float32).reshape(-1, 1, 1, 1, 1), shape),
            clips=[Clip(f"clip{i}", i % 2, i % 3, None, None, None, 20 + i) for i in range(clips)],
            **{**description, **options},
        )
        return tmp_path / name

    return written


def test_clips_stand_one_after_another(write: Write) -> None:
    folders = [write("a", 4), write("b", 6), write("c", 2)]
    joined, parts = JoinedDataset(folders), [PreparedDataset(folder) for folder in folders]
    assert len(joined) == 12
    assert joined.joints.shape == (12, 3, 8, 15, 1)
    whole = np.concatenate([part.joints for part in parts])
    np.testing.assert_array_equal(np.array(joined.joints), whole)
    clips = np.array([11, 0, 4, 3, 9, 4])
    np.testing.assert_array_equal(joined.joints[clips], whole[clips])
    np.testing.assert_array_equal(joined.num_frames, np.concatenate([part.num_frames for part in parts]))
    assert [clip.name for clip in joined.clips[3:6]] == ["a/clip3", "b/clip0", "b/clip1"]
    assert [clip.subject for clip in joined.clips[3:6]] == ["a/0", "b/0", "b/1"]
    assert {clip.label for clip in joined.clips} == {None} and (joined.labels == -1).all()


def test_protocols_are_those_of_all_and_all_clips(write: Write) -> None:
    joined = JoinedDataset([write("a", 4), write("b", 6)])
    assert set(joined.protocols) == {"cross-subject", "all"}
    assert joined.split("cross-subject", "train").tolist() == [0, 1, 4, 5, 6]
    assert joined.split("cross-subject", "test").tolist() == [2, 3, 7, 8, 9]
    assert joined.split("all", "train").tolist() == list(range(10))
    with pytest.raises(ValueError, match=r"protocol: expected one of \['all', 'cross-subject'\] in .*a \+ .*b"):
        joined.split("of-a", "train")


def test_workers_open_the_folders_themselves(write: Write) -> None:
    joined = JoinedDataset([write("a", 4), write("b", 6)])
    content = pickle.dumps(joined)
    assert len(content) < 1000
    assert pickle.loads(content).clips == joined.clips


def test_batches_are_fetched_from_all(write: Write) -> None:
    joined = open_dataset((write("a", 4), write("b", 6)))
    views = RandomViews(ViewsConfig(), *joined.joints.shape[2:])
    plan = next(iter(ShuffledBatches(joined.split("all", "train"), 10, seed=1)))
    batch = ClipViews(joined, views, 1, rank=0, world_size=1)[plan]
    expected = np.where(plan.clips < 4, plan.clips, plan.clips - 4)
    np.testing.assert_array_equal(batch.joints[:, 0, 0, 0, 0], expected)
    np.testing.assert_array_equal(batch.numbers, plan.clips)


def test_folders_of_one_name_keep_their_clips_apart(write: Write, tmp_path: Path) -> None:
    first = write("a", 4)
    (tmp_path / "other").mkdir()
    second = tmp_path / "other" / "a"
    write("b", 4).rename(second)
    names = [clip.name for clip in JoinedDataset([first, second]).clips]
    assert len(set(names)) == 8 and names[4] == f"{second}/clip0"


def test_what_does_not_fit_together_is_refused(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    first = write("a", 4)
    with pytest.raises(ValueError, match=r"data\.folder: expected each data set once, got .*a more than once"):
        JoinedDataset([first, first])
    with pytest.raises(
        ValueError, match=r"one skeleton, got sbu15 in .*a and ntu25 in .*b; `ikem prepare --layout_out`"
    ):
        JoinedDataset([first, write("b", 4, layout="ntu25")])
    for name, options in (("c", {"frames": 9}), ("d", {"bodies": 2})):
        with pytest.raises(
            ValueError, match=r"one number of frames and bodies, got \(N, 3, T = 8, V, M = 1\) in .*a and"
        ):
            JoinedDataset([first, write(name, 4, **options)])
    assert not capsys.readouterr().out
    JoinedDataset([first, write("e", 4, preprocessing={"center": "none"})])
    assert "was prepared with center 'frame'" in capsys.readouterr().out


def test_a_list_is_for_trainings_without_labels(write: Write) -> None:
    folders = (write("a", 4), write("b", 6))
    assert isinstance(open_dataset(folders), JoinedDataset)
    assert type(open_dataset(folders[0])) is PreparedDataset
    assert DataConfig(folders[0]).one_folder == folders[0]
    with pytest.raises(ValueError, match=r"data\.folder: expected one prepared dataset where labels are used"):
        _ = DataConfig(folders).one_folder
    with pytest.raises(ValueError, match=r"data\.folder: expected a prepared dataset or a list of some, got none"):
        DataConfig(())


def test_trainings_learn_from_unlabelled_data_sets(write: Write, tmp_path: Path) -> None:
    folders = (write("a", 4), write("b", 6))
    config = DataConfig(write("labelled", 8), "cross-subject", unlabelled=folders, batch_size=2)
    data = open_data(Config(data=config))
    assert [clip.name for clip in data.dataset.clips] == [f"a/clip{i}" for i in range(4)] + [
        f"b/clip{i}" for i in range(6)
    ]
    np.testing.assert_array_equal(data.batches.clips, np.arange(10))
    labelled = open_data(Config(data=replace(config, unlabelled=())))
    np.testing.assert_array_equal(labelled.batches.clips, np.arange(4))  # the training part


def test_a_share_is_drawn_by_the_seed_and_within_a_larger_one(write: Write) -> None:
    config = DataConfig(write("a", 40), "cross-subject", batch_size=2)

    def drawn(share: float, seed: int = 1) -> set[int]:
        clips = open_data(Config(seed=seed, data=replace(config, share=share))).batches.clips
        assert (np.diff(clips) > 0).all()
        return set(clips.tolist())

    assert (len(drawn(0.25)), len(drawn(0.5)), drawn(1.0)) == (5, 10, set(range(20)))
    assert drawn(0.25) < drawn(0.5)
    assert drawn(0.5) == drawn(0.5) != drawn(0.5, seed=2)
    with pytest.raises(ValueError, match=r"data\.share: expected in \(0, 1\], got 0"):
        replace(config, share=0)


def test_arrays_may_be_empty() -> None:
    joined = JoinedArrays([np.zeros((0, 2)), np.ones((3, 2)), np.zeros((0, 2))])
    assert joined.shape == (3, 2)
    assert joined[np.array([2, 0])].tolist() == [[1, 1], [1, 1]]

"""Recordings without labels are trained on like any other; what needs labels says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recordings import write_npz
from training.tiny import tiny_config

from ikem.cli import main
from ikem.config import Config, DataConfig
from ikem.data.batches import ContrastiveData
from ikem.data.dataset import PreparedDataset
from ikem.data.prepare import prepare
from ikem.distill import distill
from ikem.evaluate import evaluate
from ikem.evaluation.split import Split
from ikem.pretrain import pretrain
from ikem.report import report


def write_recordings(folder: Path, labels: np.ndarray | None) -> Path:
    """24 clips, every other of which is for training if labels are given."""
    joints = np.random.default_rng(0).normal(size=(24, 3, 8, 15, 1)).cumsum(2)
    split = {} if labels is None else {"labels": labels, "train": np.arange(24) % 2}
    return write_npz(folder, joints=joints, num_frames=np.full(24, 8), layout="sbu15", **split)


def make_config(folder: Path, protocol: str) -> Config:
    config = tiny_config(folder / "run", folder / "data", pretrain={"modalities": ("joint", "bone")})
    return replace(config, data=DataConfig(folder / "data", protocol, batch_size=8))


def test_without_labels_all_but_the_evaluation_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare("npz", write_recordings(tmp_path, None), tmp_path / "data", frames=8)
    config = make_config(tmp_path, "all")
    pretrain(config)
    distill(config)
    assert (config.run / "distill" / "encoders.safetensors").is_file()
    with pytest.raises(
        ValueError, match=r"'all' of .* cannot be evaluated: none of its 24 training clips has a label$"
    ):
        evaluate(config)
    assert not (config.run / "evaluation.json").exists()
    text = report(config).read_text()
    assert "the protocol `all` cannot be evaluated: none of its 24 training clips has a label." in text
    assert "no labels, 24 training and 0 test clips" in text
    assert "## What the numbers show" not in text
    assert "ikem evaluate" not in text
    assert {path.stem for path in (config.run / "pictures").iterdir()} == {"modalities", "training"}
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["pretrain", "--data.folder", str(tmp_path / "data"), "--run", str(tmp_path / "other")])
    assert "expected one of ['all']" in capsys.readouterr().err


def test_of_a_mixture_all_train_and_the_labelled_are_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.arange(24) // 2 % 3  # 0, 0, 1, 1, 2, 2, ...
    labels[[1, 3, 2]] = -1
    prepare("npz", write_recordings(tmp_path, labels), tmp_path / "data", frames=8)
    config, dataset = make_config(tmp_path, "given"), PreparedDataset(tmp_path / "data")
    assert sorted(ContrastiveData(config, dataset).batches.clips.tolist()) == list(range(1, 24, 2))
    split = Split.of(dataset, "given")
    assert split.train.tolist() == list(range(5, 24, 2))
    assert split.test.tolist() == [0, *range(4, 24, 2)]
    assert split.unlabelled == {"train": 2, "test": 1}
    pretrain(config)
    capsys.readouterr()
    result = evaluate(config)
    said = capsys.readouterr().out
    assert "2 clips of the part train have no label and are left out" in said
    assert "1 clips of the part test have no label and are left out" in said
    assert (result["dataset"]["train_clips"], result["dataset"]["test_clips"]) == (10, 11)
    assert json.loads((config.run / "evaluation.json").read_text())["unlabelled"] == {"train": 2, "test": 1}
    assert "no part in the evaluation: train 2, test 1" in report(config).read_text()


@pytest.mark.parametrize(
    ("train", "labels", "said"),
    [
        (np.arange(24) % 2, np.arange(24) % 2, "its training clips are all of one class"),
        (np.ones(24, int), np.arange(24) % 3, "it has no test clip"),
        (np.zeros(24, int), np.arange(24) % 3, "it has no training clip"),
        (np.arange(24) % 2, np.where(np.arange(24) % 2, np.arange(24) // 2 % 3, -1), "none of its 12 test clips"),
    ],
)
def test_what_cannot_be_evaluated_is_told_in_a_sentence(
    tmp_path: Path, train: np.ndarray, labels: np.ndarray, said: str
) -> None:
    write_recordings(tmp_path, labels)
    with np.load(tmp_path / "recordings.npz") as file:
        raw = write_npz(tmp_path, **{**file, "train": train})
    prepare("npz", raw, tmp_path / "data", frames=8)
    config, dataset = make_config(tmp_path, "given"), PreparedDataset(tmp_path / "data")
    with pytest.raises(ValueError, match=f"data.protocol: 'given' of .* cannot be evaluated: {said}"):
        Split.of(dataset, "given")
    if not train.any():
        with pytest.raises(
            ValueError, match=r"data.protocol: expected one with training clips, but 'given' .*has none"
        ):
            ContrastiveData(config, dataset)


def test_a_test_part_without_clips_has_no_row(tmp_path: Path) -> None:
    """As where all test clips repeat training clips."""
    path = write_recordings(tmp_path, np.arange(24) // 2 % 3)
    with np.load(path) as file:
        arrays = dict(file)
    arrays["joints"][::2] = arrays["joints"][1::2]
    prepare("npz", write_npz(tmp_path, **arrays), tmp_path / "data", frames=8)
    dataset = PreparedDataset(tmp_path / "data")
    assert not len(dataset.protocols["given"]["test_without_repeats"])
    assert list(Split.of(dataset, "given").parts) == ["test"]

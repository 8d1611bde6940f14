"""The look at a training from within: it changes nothing, sees no test clip, and its numbers are right."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training.test_finetune import relabelled
from training.test_runs import InterruptionError, assert_same, table

from ikem.checkpoint import load_encoders, read_checkpoint
from ikem.config import Config, TrainerConfig
from ikem.data.dataset import PreparedDataset
from ikem.distill import distill
from ikem.evaluation.rank import rank_me
from ikem.pretrain import Pretraining, pretrain
from ikem.report import plots
from ikem.report.run import Run
from ikem.report.text import _watch_text
from ikem.training import NonFiniteError, log
from ikem.training.watch import Watch
from ikem_ext import derive_modalities

WATCHED = TrainerConfig(accelerator="cpu", progress=False, accuracy_every=1, watch_every=1)
MODALITIES = ("joint", "motion", "bone")


def measured(row: dict[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name.startswith(("held_out", "rankme")) and value}


def test_rank_me() -> None:
    """Of orthogonal directions of equal strength it is their number, of singular values 3 and 1 by hand."""
    basis = torch.linalg.qr(torch.randn(30, 5, generator=torch.Generator().manual_seed(0)))[0]
    assert rank_me(basis) == pytest.approx(5, abs=1e-4)
    assert rank_me(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(4 / 3**0.75, abs=1e-5)
    assert rank_me(torch.zeros(30, 5)) == pytest.approx(1, abs=1e-4)  # an encoder that has collapsed


def test_the_training_does_not_notice(config: Callable[..., Config]) -> None:
    plain, watched = config("plain"), config("watched", trainer=WATCHED)
    for run in (plain, watched):
        pretrain(run)
        distill(run)
    for command in ("pretrain", "distill"):
        rows = [table(run.run, command) for run in (plain, watched)]
        assert all(len(measured(row)) == 2 * len(getattr(watched, command).modalities) for row in rows[1])
        kept = [{name: row[name] for name in rows[0][0]} for row in rows[1]]
        assert kept == rows[0]
        states = [read_checkpoint(run.run / command / "last.ckpt", command) for run in (plain, watched)]
        for part in ("state_dict", "optimizer_states"):
            assert_same(states[0][part], states[1][part], part)


def test_the_numbers(config: Callable[..., Config], dataset: PreparedDataset) -> None:
    """Every third epoch, by the encoders at its end: held out is one of the four subjects of the training clips."""
    run = config(trainer=replace(WATCHED, watch_every=3))
    pretrain(run)
    rows = table(run.run)
    assert [len(measured(row)) for row in rows] == [0, 0, 6]
    watch = Watch(run, dataset)
    assert watch.fold is not None
    bank, held_out = (watch.clips[part] for part in watch.fold)
    train = dataset.split("halves", "train")
    assert sorted([*bank, *held_out]) == sorted(train)
    subjects = [{dataset.clips[clip].subject for clip in part} for part in (bank, held_out)]
    assert len(subjects[1]) == 1 and not subjects[0] & subjects[1]
    encoders = load_encoders(run.run / "pretrain" / "encoders.safetensors")
    for modality, encoder in encoders.items():
        with torch.inference_mode():
            features = []
            for clips in (bank, held_out, train):
                joints, frames = torch.from_numpy(dataset.joints[clips]), torch.from_numpy(dataset.num_frames[clips])
                features.append(encoder(derive_modalities(joints, frames, dataset.layout, modalities=(modality,))[0]))
        known, asked = (torch.nn.functional.normalize(x, dim=-1) for x in features[:2])
        nearest = (asked @ known.T).argmax(-1).numpy()
        expected = (dataset.labels[bank][nearest] == dataset.labels[held_out]).mean()
        assert measured(rows[2])[f"held_out_retrieval/{modality}"] == pytest.approx(expected)
        assert measured(rows[2])[f"rankme/{modality}"] == pytest.approx(rank_me(features[2]), rel=1e-4)


def test_what_is_kept_is_measured(config: Callable[..., Config]) -> None:
    """After the last epoch too, whichever its number."""
    run = config(trainer=replace(WATCHED, watch_every=2))
    pretrain(run)
    assert [len(measured(row)) for row in table(run.run)] == [0, 6, 6]


def test_a_training_that_is_not_finite_says_so_itself(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the epoch's last step is finite; what the step makes of an encoder is not."""
    enqueue = Pretraining.enqueue

    def patched(self: Pretraining, outputs: dict[str, torch.Tensor]) -> None:
        enqueue(self, outputs)
        if self.global_step == 2:
            with torch.no_grad():
                self.encoders["motion"].data_norm.weight[0] = float("nan")

    monkeypatch.setattr(Pretraining, "enqueue", patched)
    with pytest.raises(NonFiniteError, match=r"after epoch 0, step 2: its weights\.query\.motion\.encoder\.data_norm"):
        pretrain(config(trainer=WATCHED))


def test_measuring_does_not_count_as_slow_training(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on by 1 in every step, and by 100 while the features are measured."""
    now = [0.0]

    def taking(seconds: float, work: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            now[0] += seconds
            return work(*arguments)

        return call

    monkeypatch.setattr(log.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Pretraining, "training_step", taking(1, Pretraining.training_step))
    monkeypatch.setattr(Watch, "on_train_epoch_end", taking(100, Watch.on_train_epoch_end))
    run = config(trainer=WATCHED)
    pretrain(run)
    with (run.run / "pretrain" / "metrics.csv").open(newline="") as file:
        assert [float(row["clips_per_second"]) for row in csv.DictReader(file)] == [8.0] * 3


def test_test_clips_have_no_part(config: Callable[..., Config], dataset: PreparedDataset, tmp_path: Path) -> None:
    """Neither their labels nor their joints."""
    test = dataset.split("halves", "test")
    folder = relabelled(tmp_path / "other", dataset, {clip: (clip + 1) % 3 for clip in test.tolist()})
    joints = np.array(dataset.joints)
    joints[test] += np.random.default_rng(1).normal(size=joints[test].shape).astype(np.float32)
    np.save(folder / "joints.npy", joints)
    runs = [config("first", trainer=WATCHED), config("second", trainer=WATCHED)]
    runs[1] = replace(runs[1], data=replace(runs[1].data, folder=folder))
    for run in runs:
        pretrain(run)
    assert table(runs[0].run) == table(runs[1].run)


def test_resumed(config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = config("whole", trainer=WATCHED), config("broken", trainer=WATCHED)
    pretrain(whole)
    training_step = Pretraining.training_step

    def interrupted(self: Pretraining, *arguments: object) -> object:
        if self.global_step == 3:
            raise InterruptionError
        return training_step(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "training_step", interrupted)
        with pytest.raises(InterruptionError):
            pretrain(broken)
    pretrain(broken)
    assert table(whole.run) == table(broken.run)


def test_without_labels_there_is_the_rank_alone(
    config: Callable[..., Config], dataset: PreparedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = config(trainer=WATCHED)
    folder = relabelled(tmp_path / "none", dataset, dict.fromkeys(range(40)))
    pretrain(replace(run, data=replace(run.data, folder=folder)))
    assert "RankMe is measured alone" in capsys.readouterr().out
    assert all(set(measured(row)) == {f"rankme/{modality}" for modality in MODALITIES} for row in table(run.run))


def test_the_report_marks_the_best_epoch(dataset: PreparedDataset) -> None:
    nan = float("nan")
    curves = {
        "epoch": np.arange(5.0),
        "held_out_retrieval/joint": np.array([nan, 0.5, nan, 0.75, 0.6]),
        "rankme/joint": np.array([nan, 9.0, nan, 8.0, 7.5]),
        "loss": np.ones(5),
    }
    run = Run(Path(), dataset, {}, {}, {"pretrain": curves}, {})
    text = "\n".join(_watch_text(run))
    assert "| pretrain | retrieval on held-out training clips, % | joint | 3 | 75.0 | 60.0 |" in text
    assert "| pretrain | RankMe | joint | 1 | 9.0 | 7.5 |" in text
    assert text.count("| pretrain |") == 2
    stars = [line for axes in plots.training(run.curves, None).axes for line in axes.lines if line.get_marker() == "*"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in stars] == [(3, 75), (1, 9)]
    assert _watch_text(Run(Path(), dataset, {}, {}, {"pretrain": {"epoch": np.arange(5.0)}}, {})) == []

"""Trainings that are killed or stopped at any moment: when they are saved, and that they go on to the same bits."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training import killed_training
from training.scripts import run_script
from training.test_runs import InterruptionError, assert_same_training

from ikem.checkpoint import DESCRIPTION, read_checkpoint
from ikem.config import Config
from ikem.data.batches import Batch
from ikem.pretrain import Pretraining, pretrain
from ikem.training import checkpoints

STEPS = 5  # in an epoch


@pytest.fixture
def short_batches(config: Callable[..., Config]) -> Callable[..., Config]:
    """Makes configurations of two epochs of five steps, the second of which is stage 2."""

    def make(name: str, workers: int = 0, **trainer: Any) -> Config:
        schedule = {"epochs": 2, "exchange_epoch": 1, "modalities": ("joint", "motion")}
        run = config(name, pretrain=schedule)
        data = replace(run.data, batch_size=4, workers=workers)
        return replace(run, data=data, trainer=replace(run.trainer, **trainer))

    return make


def at_step(number: int, do: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Have something happen when a step of pretraining, counted from 1, has begun."""
    training_step = Pretraining.training_step

    def stepped(self: Pretraining, batch: Batch, batch_idx: int) -> Any:
        if self.global_step + 1 == number:
            do()
        return training_step(self, batch, batch_idx)

    patch.setattr(Pretraining, "training_step", stepped)


def interrupt() -> None:
    raise InterruptionError


def saved(run: Config) -> int:
    """The steps after which the last checkpoint was written."""
    return read_checkpoint(run.run / "pretrain" / "last.ckpt", "pretrain")["global_step"]


def test_killed_at_random_moments(dataset_folder: Path, tmp_path: Path) -> None:
    process = run_script(killed_training, dataset_folder, tmp_path)
    assert process.returncode == 0, process.stderr
    killed = sorted(tmp_path.glob("killed*"))
    assert killed
    assert int(process.stdout.split()[-2]) >= killed_training.DEATHS
    for run in killed:
        for command in ("pretrain", "distill"):
            assert_same_training(tmp_path / "whole", run, command)
        assert not list(run.rglob("*.tmp"))


@pytest.mark.parametrize("step", [3, 6, 9])
def test_workers_and_the_progress_bar_go_on_too(
    short_batches: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Within an epoch and at the end of one: workers draw their first batches before the trainer sets the epoch."""
    whole = short_batches("whole")
    pretrain(whole)
    broken = short_batches("broken", workers=1, progress=True, checkpoint_minutes=0)
    with monkeypatch.context() as patch:
        at_step(step, interrupt, patch)
        with pytest.raises(InterruptionError):
            pretrain(broken)
    assert saved(broken) == step - 1
    pretrain(broken)
    assert_same_training(whole, broken)


@pytest.mark.parametrize(("number", "step"), [(signal.SIGTERM, 3), (signal.SIGINT, 5), (signal.SIGTERM, 10)])
def test_a_signal_lets_the_step_end_and_saves(
    short_batches: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    step: int,
) -> None:
    """Within an epoch, in the last step of one, and in the last of all."""
    whole, broken = short_batches("whole"), short_batches("broken")
    pretrain(whole)
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        at_step(step, lambda: os.kill(os.getpid(), number), patch)
        with pytest.raises(SystemExit) as stopped:
            pretrain(broken)
    assert stopped.value.code == 128 + number
    assert f"stopped by {number.name} after step {step}; the same command goes on" in capsys.readouterr().err
    assert signal.getsignal(number) is before
    assert saved(broken) == step
    pretrain(broken)
    assert_same_training(whole, broken)
    assert (broken.run / "pretrain" / "encoders.safetensors").is_file()


def test_a_second_signal_acts_at_once(short_batches: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    run = short_batches("run")
    at_step(3, twice, monkeypatch)
    with pytest.raises(SystemExit) as stopped:
        pretrain(run)
    assert stopped.value.code == 1  # Lightning's, for KeyboardInterrupt
    assert not (run.run / "pretrain" / "last.ckpt").exists()


@pytest.mark.parametrize(("minutes", "expected"), [(10.0, [3, 5, 8, 10]), (0.0, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])])
def test_saved_every_so_many_minutes(
    short_batches: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, minutes: float, expected: list[int]
) -> None:
    """Steps of four minutes each, and the end of an epoch."""
    clock, steps = [0.0], []
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    training_step, save = Pretraining.training_step, checkpoints.WholeFiles.save_checkpoint

    def stepped(self: Pretraining, batch: Batch, batch_idx: int) -> Any:
        clock[0] += 240
        return training_step(self, batch, batch_idx)

    def noted(self: checkpoints.WholeFiles, checkpoint: dict[str, Any], path: Path, **others: Any) -> None:
        if Path(path).name == "last.ckpt":
            description = checkpoint[DESCRIPTION]
            steps.append(description["step"])
            assert description["epochs"] == description["step"] // STEPS
        save(self, checkpoint, path, **others)

    monkeypatch.setattr(Pretraining, "training_step", stepped)
    monkeypatch.setattr(checkpoints.WholeFiles, "save_checkpoint", noted)
    pretrain(short_batches("run", checkpoint_minutes=minutes))
    assert steps == expected


@pytest.mark.parametrize(
    ("device", "now", "expected"),
    [
        ("cpu", 0, [STEPS, 2 * STEPS, 3 * STEPS]),
        ("cuda", 0, [STEPS, 3 * STEPS]),  # the end of stage 1, which is kept, and the end
        ("cuda", checkpoints.LEAST_SECONDS, [STEPS, 2 * STEPS, 3 * STEPS]),
    ],
)
def test_short_epochs_on_a_gpu_are_not_saved_one_by_one(
    short_batches: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    now: float,
    expected: list[int],
) -> None:
    """By a clock that stands still, or goes on by so much whenever it is looked at, and an imitated device."""
    clock = itertools.count(0, now)
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(checkpoints, "device_type", lambda trainer: device)
    steps: list[int] = []
    save = checkpoints.Checkpoints._save

    def noted(self: checkpoints.Checkpoints, trainer: Any, *others: Any) -> None:
        steps.append(trainer.global_step)
        save(self, trainer, *others)

    monkeypatch.setattr(checkpoints.Checkpoints, "_save", noted)
    run = short_batches("run", checkpoint_minutes=1e9)
    pretrain(replace(run, pretrain=replace(run.pretrain, epochs=3)))
    assert steps == expected


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    short_batches: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, save = short_batches("run", checkpoint_minutes=0), torch.save

    def full(checkpoint: dict[str, Any], path: Path) -> None:
        save(checkpoint, path)
        if checkpoint["global_step"] == 4:
            path.write_bytes(path.read_bytes()[:1000])
            raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        pretrain(run)
    assert saved(run) == 3
    assert not list(run.run.rglob("*.tmp"))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="where what is mapped is told is Linux's")
def test_what_is_resumed_is_mapped(tmp_path: Path) -> None:
    """Of a long queue there is no room for a second one beside that of the module."""
    files = checkpoints.WholeFiles()
    files.save_checkpoint({"state_dict": {"queue": torch.ones(4, 3)}, "epoch": 2}, tmp_path / "last.ckpt")
    checkpoint = files.load_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    queue = checkpoint["state_dict"]["queue"]
    assert checkpoint["epoch"] == 2 and torch.equal(queue, torch.ones(4, 3))
    assert str(tmp_path / "last.ckpt") in Path("/proc/self/maps").read_text()


def test_another_data_set_in_the_same_place_is_refused(
    short_batches: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = short_batches("run")
    pretrain(run)
    monkeypatch.setattr("ikem.data.dataset.PreparedDataset.split", lambda *_: torch.arange(16).numpy())
    with pytest.raises(ValueError, match=r"was trained in epochs of 5 steps, which are 4 now: .*prepared has changed"):
        pretrain(run)

"""Whole trainings: reproducible, resumable to the bit, the same on two processes, and safe to load again."""

from __future__ import annotations

import csv
import pickle
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from training import two_processes
from training.scripts import run_script

from ikem.checkpoint import load_encoders, read_checkpoint, read_modules
from ikem.config import Config, DataConfig, EncoderConfig, FinetuneConfig, TrainerConfig, ViewsConfig, plain
from ikem.data.batches import Batch
from ikem.data.dataset import PreparedDataset
from ikem.distill import distill, load_student
from ikem.encoders import ARCHITECTURES
from ikem.evaluate import evaluate
from ikem.evaluation.stages import stages_of_run
from ikem.finetune import finetune
from ikem.pretrain import Pretraining, pretrain


def table(run: Path, command: str = "pretrain") -> list[dict[str, str]]:
    """The rows of metrics.csv without the only column that is not reproducible."""
    with (run / command / "metrics.csv").open(newline="") as file:
        return [
            {name: value for name, value in row.items() if name != "clips_per_second"} for row in csv.DictReader(file)
        ]


def assert_same(first: Any, second: Any, where: str = "") -> None:
    """Nested values and tensors are equal to the bit."""
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    else:
        assert first == second, where


def assert_same_training(first: Config | Path, second: Config | Path, command: str = "pretrain") -> None:
    """Losses, weights, key encoders, queues, their pointers, optimizer and schedule are equal to the bit."""
    runs = [each if isinstance(each, Path) else each.run for each in (first, second)]
    assert table(runs[0], command) == table(runs[1], command)
    checkpoints = [read_checkpoint(run / command / "last.ckpt", command) for run in runs]
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert_same(checkpoints[0][part], checkpoints[1][part], part)


def test_the_seed_decides_everything(config: Callable[..., Config]) -> None:
    runs = [config("first"), config("second"), config("other", seed=2)]
    for run in runs:
        pretrain(run)
    assert_same_training(runs[0], runs[1])
    losses = [[row["loss"] for row in table(run.run)] for run in runs]
    assert all(mine != other for mine, other in zip(losses[0], losses[2], strict=True))


@pytest.mark.parametrize("architecture", ["agcn", "ctrgcn", "hcn"])
def test_other_encoders_train_in_the_same_way(config: Callable[..., Config], architecture: str) -> None:
    encoder = EncoderConfig(architecture, base_width=8, feature_width=16, dropout=0.2)
    run = replace(config(architecture), encoder=encoder)
    pretrain(run)
    distill(run)
    evaluate(run)
    assert all(0 < float(row["loss"]) < 100 for row in table(run.run))
    loaded = load_encoders(run.run / "pretrain" / "encoders.safetensors")
    assert {type(each) for each in loaded.values()} == {ARCHITECTURES[architecture]}
    assert set(load_student(run.run / "distill" / "last.ckpt")) == set(run.distill.modalities)


class InterruptionError(Exception):
    """Stands for whatever ends a process."""


def interrupt(monkeypatch: pytest.MonkeyPatch, run: Config, step: int) -> None:
    """Begin a pretraining, which ends in the middle of a step."""
    training_step = Pretraining.training_step

    def interrupted(self: Pretraining, batch: Batch, batch_idx: int) -> Any:
        if self.global_step == step:
            raise InterruptionError
        return training_step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "training_step", interrupted)
        with pytest.raises(InterruptionError):
            pretrain(run)


@pytest.mark.parametrize("step", [1, 3, 5])
def test_interrupted_and_resumed(config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """In the middle of the first epoch, of the second, and of stage 2; each epoch has two steps."""
    whole, broken = config("whole"), config("broken")
    pretrain(whole)
    interrupt(monkeypatch, broken, step)
    assert (broken.run / "pretrain" / "last.ckpt").exists() == (step > 1)
    pretrain(broken)
    assert_same_training(whole, broken)


ALL_VIEWS = ViewsConfig(
    turn_degrees=10,
    bone_jitter=0.1,
    least_window=0.5,
    mirror_probability=0.5,
    speed=(0.7, 1.5),
    speed_probability=0.5,
    scale=(0.7, 1.2),
    jitter=0.05,
    jitter_probability=0.5,
    mask_joints=0.2,
    mask_frames=0.2,
)


ADAMW = {"optimizer": "adamw", "learning_rate": 1e-3}
SUBJECTS = {"same_subject_weight": 0.5, "explicit": False, "epochs": 4}
HCN = EncoderConfig("hcn", base_width=2, feature_width=6, dropout=0.2)
PARTS = EncoderConfig(base_width=2, feature_width=6, dropout=0.2, pooling="parts")


@pytest.mark.parametrize(
    "options",
    [
        {"views": ALL_VIEWS},
        {"encoder": PARTS},
        {"encoder": HCN},
        {"pretrain": {"mask_own_clip": True}},
        {"pretrain": SUBJECTS},
        {"pretrain": ADAMW},
    ],
    ids=str,
)
def test_options_are_resumed(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    options = dict(options)
    pretraining = options.pop("pretrain", {})
    whole, broken = (replace(config(name, pretrain=pretraining), **options) for name in ("whole", "broken"))
    plain = config("plain")
    for run in (whole, plain):
        pretrain(run)
    assert table(whole.run) != table(plain.run)
    interrupt(monkeypatch, broken, 3)
    pretrain(broken)
    assert_same_training(whole, broken)


def test_several_data_sets_are_pretrained_on(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, dataset_folder: Path, tmp_path: Path
) -> None:
    """In one run, which is resumed, distilled, and evaluated on one of them."""
    shutil.copytree(dataset_folder, tmp_path / "more")
    data = DataConfig((dataset_folder, tmp_path / "more"), "halves", batch_size=8)
    watched = TrainerConfig(accelerator="cpu", progress=False, watch_every=3)
    whole, broken = (replace(config(name), data=data, trainer=watched) for name in ("whole", "broken"))
    pretrain(whole)
    assert read_checkpoint(whole.run / "pretrain" / "last.ckpt", "pretrain")["global_step"] == 3 * 5  # of 40 clips
    interrupt(monkeypatch, broken, 7)
    pretrain(broken)
    assert_same_training(whole, broken)
    resident = replace(config("resident"), data=data, trainer=replace(watched, resident=True))
    pretrain(resident)
    assert_same_training(whole, resident)
    distill(whole)
    with pytest.raises(ValueError, match=r"data\.folder: expected one prepared dataset where labels are used"):
        evaluate(whole)
    evaluate(replace(whole, data=replace(data, folder=dataset_folder)))
    assert (whole.run / "evaluation.json").exists()


def test_features_of_body_parts_go_all_the_way(config: Callable[..., Config]) -> None:
    """Through projection, exchange heads, student, probe, finetuned head, and the files of them all."""
    run = replace(config(), encoder=PARTS, finetune=FinetuneConfig(epochs=1, milestones=(), modalities=("joint",)))
    pretrain(run)
    distill(run)
    finetune(run)
    evaluate(run)
    arrays = np.load(run.run / "evaluation.npz")
    assert arrays["features_stage2_joint"].shape == (20, 5 * 6)
    assert arrays["features_student_joint"].shape == (20, 5 * 6)
    for kind in ("pretrain", "distill", "finetune/pretrained"):
        encoder = load_encoders(run.run / kind / "encoders.safetensors")["joint"]
        assert encoder(torch.zeros(2, 3, 8, 15, 1)).shape == (2, 30)
    classifier = read_modules(run.run / "finetune/pretrained/classifier.safetensors")[1]["joint"]
    assert classifier["head.weight"].shape == (3, 30)
    loaded = Pretraining.from_checkpoint(run.run / "pretrain" / "last.ckpt")
    assert loaded.query["joint"].projection[0].weight.shape == (6, 30)
    assert loaded.exchange_heads["joint"][0].weight.shape == (12, 30)


def test_a_run_goes_on_when_there_are_new_options(config: Callable[..., Config]) -> None:
    """An option that the stored configuration does not know had no effect, which is what its default says."""
    run = config()
    pretrain(run)
    path = run.run / "config.yaml"
    stored = yaml.safe_load(path.read_text())
    del stored["views"]["jitter"]
    path.write_text(yaml.safe_dump(stored))
    pretrain(run)
    with pytest.raises(ValueError, match=r"views\.jitter: 0\.0 there, 0\.1 here"):
        pretrain(config(views=ViewsConfig(jitter=0.1)))


def test_interrupted_distillation(finished_run: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ikem.distill import Distillation

    broken = Config(**{**vars(finished_run), "run": tmp_path / "broken"})
    shutil.copytree(finished_run.run / "pretrain", broken.run / "pretrain")
    training_step = Distillation.training_step

    def interrupted(self: Distillation, batch: Batch, batch_idx: int) -> Any:
        if self.global_step == 3:
            raise InterruptionError
        return training_step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Distillation, "training_step", interrupted)
        with pytest.raises(InterruptionError):
            distill(broken)
    distill(broken)
    assert_same_training(finished_run, broken, "distill")


def test_a_finished_run_is_left_as_it_is(config: Callable[..., Config]) -> None:
    run = config()
    last = pretrain(run)
    before = last.stat().st_mtime_ns
    pretrain(run)
    assert last.stat().st_mtime_ns == before


def test_another_configuration_is_refused(config: Callable[..., Config]) -> None:
    run = config()
    pretrain(run)
    changed = config(pretrain={"temperature": 0.2})
    with pytest.raises(ValueError, match=r"pretrain\.temperature: 0\.07 there, 0\.2 here"):
        pretrain(changed)
    pretrain(config(trainer=replace(run.trainer, accuracy_every=2)))
    pretrain(changed, overwrite=True)
    assert len(table(run.run)) == 3
    assert Pretraining.from_checkpoint(run.run / "pretrain" / "last.ckpt").config.temperature == 0.2


def assert_equal_but_for_rounding(first: Path, second: Path) -> None:
    """Losses, weights, key encoders and queues of two runs."""
    one, two = (read_checkpoint(run / "pretrain" / "last.ckpt", "pretrain") for run in (first, second))
    assert one["global_step"] == two["global_step"] == 6
    assert torch.equal(one["state_dict"]["queue.pointer"], two["state_dict"]["queue.pointer"])
    torch.testing.assert_close(two["state_dict"], one["state_dict"], rtol=1e-6, atol=1e-9)
    for rows in zip(table(first), table(second), strict=True):
        numbers = [[float(value) for value in row.values() if value] for row in rows]
        assert numbers[1] == pytest.approx(numbers[0], rel=1e-6)


@pytest.mark.parametrize("options", [(), ("mask", "shuffle")], ids=str)
def test_two_processes_do_what_one_does(dataset_folder: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    """With fixed batch-norm statistics and no dropout, where the maths says so (see two_processes.py).

    A batch that was shuffled for the key encoders gives the same keys, in the same places.
    """
    two_processes.main(dataset_folder, tmp_path / "1", *options)
    process = run_script(two_processes, dataset_folder, tmp_path / "2", *options, "--devices", 2)
    assert process.returncode == 0, process.stderr
    assert_equal_but_for_rounding(tmp_path / "1", tmp_path / "2")


def test_two_processes_stop_together_and_go_on(dataset_folder: Path, tmp_path: Path) -> None:
    """At a loss that is not finite in one of them, and at a signal to one; each is saved up to there.

    Batch norm is that of training, shuffled: what goes on are the same bits, each with its own share of the batch.
    """
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    last = broken / "pretrain" / "last.ckpt"

    def run(folder: Path, *fault: str) -> subprocess.CompletedProcess[str]:
        return run_script(two_processes, dataset_folder, folder, "local", "shuffle", *fault, "--devices", 2)

    assert run(whole).returncode == 0
    process = run(broken, "nan")
    assert process.returncode == 1
    said = "NonFiniteError: the loss is not finite in epoch 1, step 3: contrast of bone is nan"
    assert process.stderr.count(said) == 1
    assert read_checkpoint(last, "pretrain")["global_step"] == 2
    process = run(broken, "stop")
    assert process.returncode == 128 + signal.SIGTERM, process.stderr
    assert read_checkpoint(last, "pretrain")["global_step"] == 3
    assert run(broken).returncode == 0
    assert_same_training(whole, broken)


@pytest.mark.parametrize("views", [ViewsConfig(), ViewsConfig(bone_jitter=0.1, least_window=0.7)])
def test_a_resident_data_set_changes_no_bit(config: Callable[..., Config], views: ViewsConfig) -> None:
    fetched = config("fetched", views=views)
    resident = config("resident", views=views, trainer=replace(fetched.trainer, resident=True))
    for run in (fetched, resident):
        pretrain(run)
        distill(run)
    assert_same_training(fetched, resident)
    assert_same_training(fetched, resident, "distill")


@pytest.mark.parametrize(
    "options",
    [
        {"modalities": ("motion",), "explicit": False, "implicit": False},
        {"implicit": False, "context": False, "topk": 2},
        {"explicit": False, "exchange_momentum_modalities": ()},
    ],
    ids=["moco", "crosclr without context", "implicit alone"],
)
def test_options_train(config: Callable[..., Config], options: dict[str, Any]) -> None:
    run = config(pretrain=options)
    pretrain(run)
    rows = table(run.run)
    modalities = run.pretrain.modalities
    parts = {name for name, value in rows[-1].items() if value and "/" in name}
    expected = {f"{name}/{modality}" for name in ("loss", "accuracy") for modality in modalities}
    if run.pretrain.implicit:
        expected |= {f"{name}/{modality}" for name in ("contrast", "implicit") for modality in modalities}
    assert parts == expected
    assert all(float(row["loss"]) == pytest.approx(sum(float(row[f"loss/{m}"]) for m in modalities)) for row in rows)
    assert [row["lr"] for row in rows] == ["0.02", "0.02", "0.002"]


def test_mixed_precision(config: Callable[..., Config]) -> None:
    """In bfloat16 the encoders differ by rounding; embeddings, losses and queues stay in float32.

    Of encoders of two channels a few steps make 10 percent of that.
    """
    exact = config("exact")
    mixed = config("mixed", trainer=replace(exact.trainer, precision="bf16-mixed"))
    losses = []
    for run in (exact, mixed):
        state = read_checkpoint(pretrain(run), "pretrain")["state_dict"]
        assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
        losses.append([float(row["loss"]) for row in table(run.run)])
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=0.2)


def test_what_a_run_leaves_behind(finished_run: Config, dataset: PreparedDataset) -> None:
    run = finished_run.run
    rows = table(run)
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "2"), ("1", "4"), ("2", "6")]
    assert rows[1]["explicit/joint"] == ""
    assert float(rows[2]["loss/joint"]) == pytest.approx(
        float(rows[2]["explicit/joint"]) + float(rows[2]["implicit/joint"])
    )
    assert yaml.safe_load((run / "config.yaml").read_text()) == plain(finished_run)
    assert not list(run.rglob("*.tmp"))
    stage1, last = (Pretraining.from_checkpoint(run / "pretrain" / name) for name in ("stage1.ckpt", "last.ckpt"))
    assert int(stage1.queue.pointer) == 4 * 8 % 20
    assert int(last.queue.pointer) == 6 * 8 % 20
    for modality in ("joint", "bone", "rotation_axis"):  # their key encoders stay where stage 1 left them
        assert_same(
            dict(stage1.key[modality].named_parameters()), dict(last.key[modality].named_parameters()), modality
        )
    assert not torch.equal(stage1.key["motion"].projection[0].weight, last.key["motion"].projection[0].weight)
    x = torch.randn(2, 3, 8, 15, 1)
    exported = load_encoders(run / "pretrain" / "encoders.safetensors")
    torch.testing.assert_close(exported["bone"](x), last.query["bone"].encoder.eval()(x))
    student = load_encoders(run / "distill" / "encoders.safetensors")
    torch.testing.assert_close(
        student["joint"](x), load_student(run / "distill" / "last.ckpt")["joint"].encoder.eval()(x)
    )
    assert list((run / "pretrain" / "tensorboard").glob("events.*"))


class Hostile:
    """Runs code when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_checkpoints_run_no_code(tmp_path: Path) -> None:
    torch.save({"ikem": {"kind": "pretrain"}, "state_dict": Hostile(tmp_path / "ran")}, tmp_path / "hostile.ckpt")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        Pretraining.from_checkpoint(tmp_path / "hostile.ckpt")
    assert not (tmp_path / "ran").exists()


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, finished_run: Config) -> None:
    with pytest.raises(ValueError, match=r"expected a checkpoint of `ikem pretrain`, there is no file"):
        Pretraining.from_checkpoint(tmp_path / "absent.ckpt")
    (tmp_path / "rubbish.ckpt").write_bytes(b"\x80rubbish" * 10)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        Pretraining.from_checkpoint(tmp_path / "rubbish.ckpt")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="checkpoint"):
        Pretraining.from_checkpoint(tmp_path / "pickle.ckpt")
    whole = (finished_run.run / "pretrain" / "last.ckpt").read_bytes()
    (tmp_path / "truncated.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is not a checkpoint"):
        Pretraining.from_checkpoint(tmp_path / "truncated.ckpt")
    with pytest.raises(ValueError, match=r"expected one of `ikem distill`, .* is one of pretrain"):
        load_student(finished_run.run / "pretrain" / "last.ckpt")


def test_what_needs_encoders_alone_makes_no_queue(
    finished_run: Config, dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue of pretraining is the largest thing in its checkpoint, and no other training or evaluation reads it."""
    expected = stages_of_run(finished_run, dataset)
    monkeypatch.setattr("ikem.pretrain.KeyQueue", None)
    found = stages_of_run(finished_run, dataset)
    for stage, again in zip(expected, found, strict=True):
        for modality, encoder in stage.encoders.items():
            for name, value in encoder.state_dict().items():
                assert torch.equal(value, again.encoders[modality].state_dict()[name])
    teacher = replace(finished_run.distill, teacher=finished_run.run / "pretrain" / "last.ckpt")
    other = replace(finished_run, run=tmp_path / "other", distill=teacher)
    distill(other)
    assert_same_training(finished_run, other, "distill")


def test_distillation_needs_a_teacher_of_the_same_skeleton(config: Callable[..., Config]) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        distill(config())

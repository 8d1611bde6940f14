"""Numbers that are not finite: where a training stops, what it keeps, and what is refused afterwards."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml
from allocations import Allocations
from lightning.pytorch.plugins import MixedPrecision
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils._pytree import tree_leaves
from training.imitated_graphs import imitate_graphs
from training.test_runs import assert_same_training, table

from ikem.checkpoint import DESCRIPTION, first_non_finite, load_encoders, read_checkpoint
from ikem.cli import main
from ikem.config import Config, plain
from ikem.distill import distill, load_student
from ikem.evaluate import evaluate
from ikem.pretrain import Pretraining, pretrain
from ikem.training import NonFiniteError, loop
from ikem.training.optimizer import adamw

NAN = float("nan")


@pytest.mark.parametrize("place", [0, 2**22, 2**23 + 5])
def test_a_long_queue_is_looked_at_in_pieces(place: int) -> None:
    weights = {"bias": torch.ones(()), "none": torch.ones(0, 3), "queue": torch.ones(2**21 + 2, 4)}
    with Allocations() as made:
        assert first_non_finite(weights) is None
        weights["queue"].view(-1)[place] = NAN
        assert first_non_finite(weights) == "queue"
    assert max(made.sizes) < 0.6 * weights["queue"].nbytes


def test_a_learning_rate_that_is_too_high_ends_in_one_sentence(
    config: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = config(pretrain={"learning_rate": 1e25})
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump(plain(run)))
    with pytest.raises(SystemExit) as stopped:
        main(["pretrain", "--config", str(settings)])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("ikem pretrain: error: the loss is not finite in epoch 0, step 2: contrast of joint is ")
    assert said.endswith("; nothing was saved before; try a lower learning rate, or a precision of more bits\n")
    assert said.count("\n") == 1
    assert not list(run.run.rglob("*.ckpt")) + list(run.run.rglob("*.safetensors"))


def spoil_step(number: int, patch: pytest.MonkeyPatch) -> None:
    """Before a step of pretraining, counted from 1, the queues of two modalities get a key that is not a number."""
    begin = Pretraining.on_train_batch_start

    def patched(self: Pretraining, *arguments: Any) -> None:
        begin(self, *arguments)
        if self.global_step + 1 == number:
            self.queue.queue[1:, 0] = NAN

    patch.setattr(Pretraining, "on_train_batch_start", patched)


def said_of(step: int) -> str:
    """What is said of such a step of the second epoch."""
    parts = "contrast of motion is nan, contrast of bone is nan"
    return f"epoch 1, step {step}: {parts}; .*/last.ckpt holds the training after step {step - 1};"


def test_the_last_good_state_is_kept(config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = config("whole"), config("broken")
    broken = replace(broken, trainer=replace(broken.trainer, checkpoint_minutes=0))
    with monkeypatch.context() as patch:
        spoil_step(4, patch)
        with pytest.raises(NonFiniteError, match=said_of(step=4)):
            pretrain(broken)
    assert not (broken.run / "pretrain" / "encoders.safetensors").exists()
    assert not (broken.run / "pretrain" / "stage1.ckpt").exists()
    assert len(table(broken.run)) == 1
    pretrain(whole)
    pretrain(broken)
    assert_same_training(whole, broken)


@pytest.mark.parametrize("step", [3, 4])
def test_with_graphs_it_is_noticed_before_the_next_checkpoint(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The losses of a step are looked at once the next one is launched, or where a checkpoint or the epoch's end is."""
    graphs = imitate_graphs(monkeypatch)
    spoil_step(step, monkeypatch)
    run = config("run")
    encoder = replace(run.encoder, dropout=0.0)  # for which the CPU draws seeds in Python
    run = replace(run, encoder=encoder, trainer=replace(run.trainer, checkpoint_minutes=0, cuda_graphs=True))
    with pytest.raises(NonFiniteError, match=said_of(step)):
        pretrain(run)
    assert graphs.captures == 1


def test_with_graphs_it_is_noticed_a_step_later(config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the step itself, for which the processor would have to wait."""
    imitate_graphs(monkeypatch)
    spoil_step(1, monkeypatch)
    enqueued = []
    monkeypatch.setattr(Pretraining, "enqueue", lambda self, outputs: enqueued.append(self.global_step))
    run = config("run")
    run = replace(run, encoder=replace(run.encoder, dropout=0.0), trainer=replace(run.trainer, cuda_graphs=True))
    with pytest.raises(NonFiniteError, match=r"epoch 0, step 1: contrast of motion is nan, .*; nothing was saved"):
        pretrain(run)
    assert enqueued == [1]


def test_weights_that_are_not_finite_are_not_saved(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the epoch's last step is finite; what the step makes of the weights is not."""
    enqueue = Pretraining.enqueue

    def patched(self: Pretraining, outputs: dict[str, torch.Tensor]) -> None:
        enqueue(self, outputs)
        if self.global_step == 4:
            with torch.no_grad():
                self.query["motion"].projection[0].weight[0, 0] = float("inf")

    monkeypatch.setattr(Pretraining, "enqueue", patched)
    run = config()
    with pytest.raises(
        NonFiniteError, match=r"after epoch 1, step 4: its weights\.query\.motion\.projection\.0\.weight"
    ):
        pretrain(run)
    assert read_checkpoint(run.run / "pretrain" / "last.ckpt", "pretrain")[DESCRIPTION]["step"] == 2
    assert not (run.run / "pretrain" / "stage1.ckpt").exists()


def test_what_is_not_finite_is_refused_wherever_it_is_read(finished_run: Config, tmp_path: Path) -> None:
    run = replace(finished_run, run=tmp_path / "run")
    shutil.copytree(finished_run.run, run.run)

    def spoil(path: Path, name: str) -> str:
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["state_dict"][name].view(-1)[0] = NAN
        torch.save(checkpoint, path)
        return rf"{path.name} is of no use: {name} holds numbers that are not finite"

    student = run.run / "distill" / "last.ckpt"
    said = spoil(student, "student.bone.projection.0.weight")
    for read in (lambda: load_student(student), lambda: distill(run), lambda: evaluate(run)):
        with pytest.raises(ValueError, match=said):
            read()
    teacher = run.run / "pretrain" / "last.ckpt"
    said = spoil(teacher, "query.motion.projection.0.weight")
    for read in (lambda: Pretraining.from_checkpoint(teacher), lambda: distill(run), lambda: pretrain(run)):
        with pytest.raises(ValueError, match=said):
            read()
    exported = run.run / "pretrain" / "encoders.safetensors"
    weights = load_file(exported)
    name = next(name for name in weights if name.startswith("bone.") and name.endswith("weight"))
    weights[name].view(-1)[0] = NAN
    with safe_open(exported, framework="pt") as file:
        metadata = file.metadata()
    save_file(weights, exported, metadata)
    with pytest.raises(ValueError, match=f"encoders.safetensors is of no use: {name} holds"):
        load_encoders(exported)


class OnAGPU(torch.Tensor):
    """A tensor that says that it lies on a GPU, and meets none of the CPU."""

    device = torch.device("cuda", 0)  # type: ignore[assignment]

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert all(isinstance(each, cls) for each in tree_leaves(args) if isinstance(each, torch.Tensor)), function
        return super().__torch_function__(function, types, args, kwargs)


def test_the_state_of_an_optimizer_lies_on_two_devices() -> None:
    """AdamW counts its steps on the CPU, wherever the weights are."""
    layer = torch.nn.Linear(2, 3)
    optimizer = adamw([{"params": layer.parameters(), "lr": 0.1}], weight_decay=0.1)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    for moments in state["state"].values():
        moments.update({name: value.as_subclass(OnAGPU) for name, value in moments.items() if name != "step"})
    assert first_non_finite(state) is None
    state["state"][1]["step"].fill_(NAN)
    assert first_non_finite(state) == "state.1.step"
    state["state"][0]["exp_avg_sq"][1, 0] = NAN
    assert first_non_finite(state) == "state.0.exp_avg_sq"


class ScaledOnTheCPU(MixedPrecision):
    """The scaling of 16-bit gradients, which Lightning leaves to GPUs, with a scale that is at first too large."""

    def __init__(self) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**127))

    def autocast_context_manager(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, cache_enabled=False)


def test_steps_that_scaling_leaves_out_are_counted_and_shown(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def trainer(*, precision: str, plugins: list[Any], **options: Any) -> lightning.Trainer:
        return lightning.Trainer(plugins=[*plugins, ScaledOnTheCPU()], **options)

    monkeypatch.setattr(loop, "lightning", type("Patched", (), {**vars(lightning), "Trainer": staticmethod(trainer)}))
    shown: list[dict[str, Any]] = []
    get_metrics = loop.ProgressBar.get_metrics
    monkeypatch.setattr(loop.ProgressBar, "get_metrics", lambda *given: shown.append(get_metrics(*given)) or shown[-1])
    run = config()
    run = replace(run, trainer=replace(run.trainer, progress=True))
    weights = []
    enqueue = Pretraining.enqueue

    def noted(self: Pretraining, outputs: dict[str, torch.Tensor]) -> None:
        enqueue(self, outputs)
        weights.append(self.query["bone"].projection[0].weight.detach().clone())

    monkeypatch.setattr(Pretraining, "enqueue", noted)
    pretrain(run)
    still = [torch.equal(*pair) for pair in itertools.pairwise(weights)]
    skipped = [int(row["skipped_steps"]) for row in table(run.run)]
    assert skipped[0] == 2
    assert sum(skipped) == 1 + sum(still)  # the first step of all was left out as well
    assert 2 in {metrics["skipped_steps"] for metrics in shown}

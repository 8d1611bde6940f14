"""A training by CUDA graphs is the training without: on a GPU, and elsewhere with graphs that are imitated."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training.imitated_graphs import ImitatedGraphs, imitate_graphs
from training.test_runs import assert_same, assert_same_training

from ikem import cuda_graphs
from ikem.checkpoint import read_checkpoint
from ikem.config import Config, EncoderConfig, FinetuneConfig, TrainerConfig
from ikem.cuda_graphs import CapturedModule, side_by_side
from ikem.distill import distill
from ikem.finetune import finetune
from ikem.pretrain import pretrain


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> ImitatedGraphs:
    return imitate_graphs(monkeypatch)


def with_and_without(config: Callable[..., Config], encoder: EncoderConfig, **trainer: Any) -> tuple[Config, Config]:
    """Two runs, the second with graphs: four steps of each stage and of the distillation."""
    options = TrainerConfig(progress=False, accuracy_every=1, **trainer)
    schedule = {"epochs": 4, "exchange_epoch": 2, "modalities": ("joint", "motion")}
    plain = replace(config("plain", pretrain=schedule, trainer=options), encoder=encoder)
    captured = replace(plain, run=plain.run.with_name("captured"), trainer=replace(options, cuda_graphs=True))
    return plain, captured


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_graphs_change_no_bit(config: Callable[..., Config], graphs: ImitatedGraphs, precision: str) -> None:
    """Without dropout, for which the CPU draws seeds in Python."""
    encoder = EncoderConfig(base_width=2, feature_width=6, dropout=0.0)
    plain, captured = with_and_without(config, encoder, accelerator="cpu", precision=precision)
    for run in (plain, captured):
        pretrain(run)
    assert graphs.captures == 2  # one for each stage
    for run in (plain, captured):
        distill(run)
    assert graphs.captures == 3
    assert_same_training(plain, captured)
    assert_same_training(plain, captured, "distill")


def test_graphs_change_no_bit_of_a_finetuning(config: Callable[..., Config], graphs: ImitatedGraphs) -> None:
    plain, captured = with_and_without(config, EncoderConfig("st_gcn", 2, 6, dropout=0.0), accelerator="cpu")
    options = FinetuneConfig(epochs=2, init="random", modalities=("joint", "bone"), encoder_learning_rate=0.02)
    rows = [finetune(replace(run, finetune=options))["rows"] for run in (plain, captured)]
    assert graphs.captures == 1
    assert rows[0] == rows[1]
    states = [read_checkpoint(run.run / "finetune" / "random" / "last.ckpt", "finetune") for run in (plain, captured)]
    assert_same(states[0]["state_dict"], states[1]["state_dict"])


@pytest.mark.parametrize("architecture", ["agcn", "ctrgcn"])
def test_other_encoders_can_be_captured(
    config: Callable[..., Config], graphs: ImitatedGraphs, architecture: str
) -> None:
    encoder = EncoderConfig(architecture, base_width=8, feature_width=8, dropout=0.0)
    schedule = {"epochs": 2, "modalities": ("joint",), "explicit": False, "implicit": False}
    plain = replace(config("plain", pretrain=schedule), encoder=encoder)
    captured = replace(plain, run=plain.run.with_name("captured"), trainer=replace(plain.trainer, cuda_graphs=True))
    for run in (plain, captured):
        pretrain(run)
    assert graphs.captures == 1
    assert_same_training(plain, captured)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("architecture", "precision"),
    [("st_gcn", "32-true"), ("st_gcn", "bf16-mixed"), ("agcn", "32-true"), ("ctrgcn", "32-true")],
)
def test_graphs_on_a_gpu_change_no_bit(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, architecture: str, precision: str
) -> None:
    """With dropout: when they are launched, graphs read the generator's seed and its place in the sequence."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    encoder = EncoderConfig(architecture, base_width=8, feature_width=16, dropout=0.2)
    plain, captured = with_and_without(config, encoder, accelerator="gpu", precision=precision, resident=True)
    for run in (plain, captured):
        pretrain(run)
        distill(run)
    assert_same_training(plain, captured)
    assert_same_training(plain, captured, "distill")


class Averaging(nn.Module):
    """Remembers what it saw, as batch norm does, in a buffer; and how often it was called, as nothing here may."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("seen", torch.zeros(3))
        self.calls = 0

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        self.calls += 1
        with torch.no_grad():
            self.seen += x.sum(0)
        return {"loss": (x * self.weight).sum(-1)}, self.seen.clone()


def test_a_phase_is_called_once_then_captured_then_launched(graphs: ImitatedGraphs) -> None:
    module = Averaging()
    captured = CapturedModule(module)
    total = torch.zeros(3)
    for step, phase in enumerate((1, 1, 1, 2, 2, 2), start=1):
        x = torch.full((4, 3), float(step))
        total += x.sum(0)
        module.zero_grad()
        losses, seen = captured(phase, x)
        losses["loss"].sum().backward()
        assert torch.equal(seen, total)
        assert torch.equal(module.weight.grad, x.sum(0))
        assert module.unused.grad is None
        with torch.no_grad():
            module.weight -= module.weight.grad
    assert (module.calls, graphs.captures) == (4, 2)


def test_what_waits_for_the_device_is_noticed(graphs: ImitatedGraphs) -> None:
    class Waiting(Averaging):
        def forward(self, x: Tensor) -> Tensor:
            return self.weight * float(x.sum())

    captured = CapturedModule(Waiting())
    captured(1, torch.ones(2))
    with pytest.raises(AssertionError, match="_local_scalar_dense"):
        captured(1, torch.ones(2))


def test_other_shapes_are_refused(graphs: ImitatedGraphs) -> None:
    captured = CapturedModule(Averaging())
    captured(1, torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"cuda_graphs: expected views of the shapes .*4, 3.* got .*5, 3"):
        captured(1, torch.ones(5, 3))


def test_other_devices_are_refused(config: Callable[..., Config]) -> None:
    trainer = TrainerConfig(accelerator="cpu", progress=False, cuda_graphs=True)
    with pytest.raises(ValueError, match="cuda_graphs: expected a training on a CUDA device, got one on cpu"):
        pretrain(config(trainer=trainer))
    with pytest.raises(ValueError, match=r"cuda_graphs: expected trainer.devices = 1 with it, got 2"):
        TrainerConfig(devices=2, cuda_graphs=True)


class Stream:
    """Writes down what waits for what."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def wait_stream(self, other: Stream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")


def test_branches_start_after_what_was_before_and_end_before_what_follows(
    graphs: ImitatedGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    main, made = Stream(log, "main"), iter("ab")

    @contextlib.contextmanager
    def on(stream: Stream) -> Iterator[None]:
        log.append(f"on {stream.name}")
        yield

    fakes = SimpleNamespace(
        is_current_stream_capturing=lambda: True,
        current_stream=lambda device: main,
        stream=on,
        Stream=lambda device: Stream(log, next(made)),
    )
    for name, fake in vars(fakes).items():
        monkeypatch.setattr(torch.cuda, name, fake)
    cuda_graphs._side_stream.cache_clear()
    calls = [lambda: log.append("first") or 1, lambda: log.append("second") or 2]
    expected = ["a waits for main", "on a", "first", "b waits for main", "on b", "second"]
    expected += ["main waits for a", "main waits for b"]
    try:
        for _ in range(2):  # on the same streams again
            assert side_by_side(calls, torch.device("cpu")) == [1, 2]
            assert log == expected
            log.clear()
    finally:
        cuda_graphs._side_stream.cache_clear()

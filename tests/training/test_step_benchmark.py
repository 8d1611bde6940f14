"""The steps that the benchmark compares start from the same weights and learn the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from training.imitated_graphs import imitate_graphs

from ikem.encoders import Stream, load_published_state_dict
from ikem_ext import MODALITIES
from ikem_ext.bench import step
from ikem_ext.bench.operations import operations_of
from ikem_ext.bench.step import cases
from ikem_ext.bench.step import ours as our_steps
from ikem_ext.bench.step import published as published_steps
from ikem_ext.bench.step.batch import Sizes, random_batch
from ikem_ext.bench.step.published_encoder import PublishedEncoder, encoder_operations
from ikem_ext.bench.step.run import Run, Step

CPU = torch.device("cpu")
SIZES = Sizes(clips=2, keys=16, dropout=0.0)


def copy_streams(published: nn.ModuleDict, ours: nn.ModuleDict) -> None:
    for modality, stream in ours.items():
        assert isinstance(stream, Stream)
        head = load_published_state_dict(stream.encoder, published[modality].state_dict())
        stream.projection.load_state_dict({name.removeprefix("fc."): value for name, value in head.items()})


def copy_queues(published: published_steps.PublishedStep, keys: torch.Tensor) -> None:
    keys.copy_(torch.stack([getattr(published, f"queue_{modality}") for modality in MODALITIES], dim=1))


def losses(published: Step, ours: Any, resident: int | None = None) -> list[list[float]]:
    """Of two steps: the second follows from the first one's gradients, momentum and queues."""
    batch = random_batch(SIZES.clips, CPU, resident)
    runs = [Run(each, batch, CPU, torch.float64) for each in (our_steps.Ours(ours), published)]
    return [[run.step(run.batch).item() for _ in range(2)] for run in runs]


@pytest.mark.parametrize(
    ("stage", "peer", "resident"), [(1, published_steps.PublishedStage1, None), (2, published_steps.PublishedStage2, 7)]
)
def test_stages(stage: int, peer: type[published_steps.PublishedStage1], resident: int | None) -> None:
    torch.manual_seed(0)
    published, ours = peer(SIZES), our_steps.pretraining(stage)(SIZES)
    copy_streams(published.query, ours.query)
    copy_streams(published.key, ours.key)
    if isinstance(published, published_steps.PublishedStage2):
        ours.exchange_heads.load_state_dict(published.exchange_heads.state_dict())
    copy_queues(published, ours.queue.keys)
    mine, theirs = losses(published, ours, resident)
    assert mine == pytest.approx(theirs, rel=1e-6)


def test_a_resident_data_set_is_more_than_the_batch() -> None:
    batch = random_batch(SIZES.clips, CPU, resident=7)
    assert (len(batch.joints), len(batch.num_frames), len(batch.clips)) == (7, 7, SIZES.clips)


def test_graphs_are_captured_within_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = imitate_graphs(monkeypatch)
    batch = random_batch(SIZES.clips, CPU)
    losses = []
    for cuda_graphs in (False, True):
        torch.manual_seed(0)
        ours = our_steps.Ours(our_steps.distillation(SIZES._replace(cuda_graphs=cuda_graphs)))
        run = Run(ours, batch, CPU, torch.float32)
        losses.append([run.step(batch).item() for _ in range(3)])
        assert graphs.captures == cuda_graphs
    without, captured = losses
    assert captured[:2] == without[1:]  # the first call makes two steps


def test_distillation() -> None:
    torch.manual_seed(0)
    published, ours = published_steps.PublishedDistillation(SIZES), our_steps.distillation(SIZES)
    copy_streams(published.teacher, ours.teacher.streams)
    copy_streams(published.student, ours.student)
    copy_queues(published, ours.guide_queue.keys)
    ours.teacher_queue.keys.copy_(published.teacher_queue[:, None])
    mine, theirs = losses(published, ours)
    assert mine == pytest.approx(theirs, rel=1e-6)


def test_operations_of_an_encoder_are_those_of_its_convolutions() -> None:
    encoder, x = PublishedEncoder(projected=8).eval(), random_batch(SIZES.clips, CPU).joints
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(x)
    counted = counter.get_flop_counts()["Global"]
    others = sum(flops for operation, flops in counted.items() if operation is not torch.ops.aten.convolution)
    assert encoder_operations(SIZES.clips) == operations_of(encoder, x) - others


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_case_runs(device: str) -> None:
    found = [case for part in step.PARTS for case in part(torch.device(device), torch.float32, True)]
    assert len(found) == len(cases.WORKS) * (1 if device == "cpu" else 2)
    for case in found:
        assert case.operations > 0
        for run in case.variants.values():
            run()

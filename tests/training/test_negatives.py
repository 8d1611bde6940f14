"""Weights of a queue's entries as negatives, against every similarity written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ikem.config import Config, EncoderConfig, PretrainConfig
from ikem.data.clips import Clips
from ikem.data.dataset import PreparedDataset
from ikem.encoders import unit
from ikem.pretrain import Pretraining, pretrain, subjects_of
from ikem.training.negatives import Negatives, by_subject, without_own_clip
from ikem_ext import cross_modal_nce, get_layout, info_nce

G, N, K, C = 3, 4, 12, 6
CLIPS = torch.tensor([5, 2, 9, 0])
ENTRIES = torch.tensor([-1, 2, 5, 9, 7, 5, 1, 3, 4, -1, 8, 0])  # clip 5 is there twice
SUBJECTS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
TINY = EncoderConfig(base_width=1, feature_width=2)


def vectors(*shape: int, seed: int) -> Tensor:
    return unit(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def weights(mask: bool, same: float, other: float) -> Tensor:
    """w (N, K), written out."""
    table = torch.full((N, K), other, dtype=torch.float64)
    for n, clip in enumerate(CLIPS.tolist()):
        for i, entry in enumerate(ENTRIES.tolist()):
            if entry >= 0 and SUBJECTS[entry] == SUBJECTS[clip]:
                table[n, i] = same
            if mask and entry == clip:
                table[n, i] = 0
    return table


def negatives(mask: bool, same: float, other: float, temperature: float) -> Negatives:
    found = [without_own_clip(CLIPS, ENTRIES, temperature)] if mask else []
    found.append(by_subject(CLIPS, ENTRIES, SUBJECTS, 3, same, other, temperature))
    return Negatives.joined(found)


def weighted(positive: Tensor, similarities: Tensor, table: Tensor) -> Tensor:
    """log(e^p + sum w e^s) - p, averaged over the queries."""
    total = torch.logaddexp(positive, (similarities + table.log()).logsumexp(-1))
    return (total - positive).mean(-1)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize(("mask", "same", "other"), [(True, 1, 1), (False, 0.3, 1), (True, 2, 0), (True, 0, 1)])
def test_losses_are_those_of_weighted_exponentials(mask: bool, same: float, other: float, temperature: float) -> None:
    table, found = weights(mask, same, other), negatives(mask, same, other, temperature)
    q, k, queue = vectors(G, N, C, seed=0).requires_grad_(), vectors(G, N, C, seed=1), vectors(G, K, C, seed=2)
    expected = weighted((q * k).sum(-1) / temperature, q @ queue.mT / temperature, table)
    loss = found.contrast(q, k, queue, temperature)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(each.sum(), q)[0] for each in (loss, expected)))

    h = vectors(G, N, G * C, seed=3).requires_grad_()
    joined_k, joined = (x.transpose(0, 1).flatten(1) / G**0.5 for x in (k, queue))
    expected = weighted((h * joined_k).sum(-1) / temperature, h @ joined.T / temperature, table)
    loss = found.implicit(h, k, queue, temperature)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(each.sum(), h)[0] for each in (loss, expected)))


def test_own_copies_leave_no_trace_in_float32() -> None:
    """The hardest case: copies that are equal to the query, at a low temperature, beside entries far from it."""
    q = unit(torch.randn(1, N, C))
    queue = unit(torch.cat((q, -q + 0.1 * torch.randn(1, N, C)), dim=1))
    entries = torch.cat((CLIPS, torch.arange(20, 20 + N)))
    loss = without_own_clip(CLIPS, entries, 0.05).contrast(q, -q, queue, 0.05)
    each = [info_nce(q[:, n : n + 1], -q[:, n : n + 1], queue[:, entries != CLIPS[n]], 0.05) for n in range(N)]
    torch.testing.assert_close(loss, torch.stack(each).mean(0), rtol=1e-5, atol=1e-5)


def module(**options: object) -> Pretraining:
    torch.manual_seed(0)
    config = PretrainConfig(
        queue_length=K, embedding_width=C, modalities=("joint", "motion", "bone"), epochs=2, exchange_epoch=1, **options
    )
    built = Pretraining(config, TINY, get_layout("sbu15"), subjects=SUBJECTS).double()
    if built.queue.clips is not None:
        built.queue.clips.copy_(ENTRIES)
    return built


def test_the_explicit_exchange_leaves_out_the_clips_of_the_batch() -> None:
    q, k = vectors(G, N, C, seed=0), vectors(G, N, C, seed=1)
    masked = module(mask_own_clip=True, implicit=False)
    others = masked.queue.queue[:, [0, 4, 6, 7, 8, 9, 10]]
    losses = masked.exchange(q, k, torch.empty(0), masked.negatives(CLIPS), CLIPS)
    assert list(losses) == ["explicit"]
    assert torch.equal(losses["explicit"], cross_modal_nce(q, k, others, 0.07))


def test_both_stages_weigh() -> None:
    q, k = vectors(G, N, C, seed=0), vectors(G, N, C, seed=1)
    features = torch.randn(G, N, 2, dtype=torch.float64)
    built = module(explicit=False, mask_own_clip=True, same_subject_weight=0.5)
    found = built.negatives(CLIPS)
    table = weights(True, 0.5, 1)
    torch.testing.assert_close((found.log_weights @ found.groups.T).exp().double(), table)
    expected = weighted((q * k).sum(-1) / 0.07, q @ built.queue.queue.mT / 0.07, table)
    torch.testing.assert_close(built.contrast(q, k, found)["contrast"], expected)
    losses = built.exchange(q, k, features, found, CLIPS)
    torch.testing.assert_close(losses["contrast"], expected)
    assert not torch.isclose(losses["implicit"], built.exchange(q, k, features)["implicit"]).any()


@pytest.mark.parametrize("resident", [False, True])
def test_entries_of_a_training_are_of_their_clips(config: Callable[..., Config], resident: bool) -> None:
    run = config(pretrain={"mask_own_clip": True, "explicit": False})
    run = replace(run, trainer=replace(run.trainer, resident=resident))
    last = pretrain(run)
    queue = Pretraining.from_checkpoint(last).queue
    assert queue.clips.min() >= 0 and queue.clips.max() < 20  # 48 clips have gone through 20 places
    assert len(queue.clips.unique()) < 20


def test_subjects_are_numbered_and_needed(dataset: PreparedDataset, dataset_folder: Path) -> None:
    clips = dataset.split("halves", "train")
    subjects = subjects_of(dataset, clips)
    assert subjects[clips].tolist() == [i % 4 for i in range(20)]
    known = list(dataset.clips)
    dataset.clips = Clips([*known[:3], replace(known[3], subject=None), *known[4:]])
    with pytest.raises(ValueError, match="same_subject_weight: expected 1, as 1 of 20 training clips of"):
        subjects_of(dataset, clips)
    dataset.clips = Clips(replace(clip, subject="one") for clip in known)
    with pytest.raises(ValueError, match="has training clips of one subject"):
        subjects_of(dataset, clips)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"same_subject_weight": -1}, "pretrain.same_subject_weight: expected a finite number >= 0, got -1"),
        (
            {"other_subject_weight": float("inf")},
            "pretrain.other_subject_weight: expected a finite number >= 0, got inf",
        ),
        ({"same_subject_weight": 0.5}, "pretrain.same_subject_weight: expected 1 with a stage 2 that has"),
        (
            {"same_subject_weight": 0, "other_subject_weight": 0, "explicit": False},
            "pretrain.same_subject_weight: expected > 0 with pretrain.other_subject_weight 0",
        ),
    ],
)
def test_weights_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainConfig(**options)


def test_cuda_graphs_have_no_room_for_a_queue_that_changes_its_length() -> None:
    options = {"queue_length": K, "mask_own_clip": True}
    with pytest.raises(ValueError, match=r"trainer\.cuda_graphs: expected false with pretrain\.mask_own_clip"):
        Pretraining(PretrainConfig(**options), TINY, get_layout("sbu15"), cuda_graphs=True)
    Pretraining(PretrainConfig(**options, explicit=False), TINY, get_layout("sbu15"), cuda_graphs=True)

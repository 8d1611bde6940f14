"""Dropout within a training: what it draws depends on the step and on the modality, and on nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch

from ikem.config import Config
from ikem.pretrain import Pretraining, pretrain


def test_every_step_and_every_layer_draws_seeds_of_its_own(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[int, list[int]] = {}
    steps: list[int] = []
    modules = [sys.modules[name] for name in ("ikem_ext.batch_norm", "ikem.encoders.norm")]
    draw_seed, training_step = modules[0].draw_seed, Pretraining.training_step

    def noted_seed(device: torch.device) -> torch.Tensor:
        seed = draw_seed(device)
        drawn.setdefault(steps[-1], []).append(int(seed))
        return seed

    def noted_step(self: Pretraining, *arguments: object) -> object:
        steps.append(self.global_step)
        return training_step(self, *arguments)  # type: ignore[arg-type]

    for module in modules:
        monkeypatch.setattr(module, "draw_seed", noted_seed)
    monkeypatch.setattr(Pretraining, "training_step", noted_step)
    pretrain(config())

    assert sorted(drawn) == list(range(6))  # three epochs of two steps
    assert len({len(each) for each in drawn.values()}) == 1
    assert min(map(len, drawn.values())) >= 9  # in each block but the first
    assert len({seed for each in drawn.values() for seed in each}) == sum(map(len, drawn.values()))

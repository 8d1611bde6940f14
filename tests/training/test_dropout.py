"""Dropout within a training: what it draws depends on the step and on the modality, and on nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ikem.config import Config
from ikem.encoders import masks
from ikem.pretrain import Pretraining, pretrain


def test_every_step_and_every_layer_draws_masks_of_its_own(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[int, list[torch.Tensor]] = {}
    steps: list[int] = []
    random_mask, training_step = masks.random_mask, Pretraining.training_step

    def noted_mask(*arguments: object) -> torch.Tensor:
        mask = random_mask(*arguments)  # type: ignore[arg-type]
        drawn.setdefault(steps[-1], []).append(mask.flatten())
        return mask

    def noted_step(self: Pretraining, *arguments: object) -> object:
        steps.append(self.global_step)
        return training_step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(masks, "random_mask", noted_mask)
    monkeypatch.setattr(Pretraining, "training_step", noted_step)
    pretrain(config())

    assert sorted(drawn) == list(range(6))  # three epochs of two steps
    assert len({len(each) for each in drawn.values()}) == 1
    size = min(len(mask) for mask in drawn[0])
    # In each step every mask is drawn twice, forward and backward; between steps none is drawn again.
    firsts = {step: {bytes(mask[:size].tolist()) for mask in each} for step, each in drawn.items()}
    assert all(2 * len(firsts[step]) >= len(drawn[step]) for step in drawn)
    assert sum(map(len, firsts.values())) == len(set().union(*firsts.values()))

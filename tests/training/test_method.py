"""The losses of the stages against the published code's numbers, and the moving parts of momentum contrast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from allocations import Allocations
from torch import Tensor, nn

from ikem.config import Config, DistillConfig, EncoderConfig, OptimizationConfig, PretrainConfig
from ikem.data.batches import ContrastiveData
from ikem.data.dataset import PreparedDataset
from ikem.distill import Distillation
from ikem.encoders import unit
from ikem.pretrain import Pretraining
from ikem.training import contrastive_accuracy, learning_rate_factor
from ikem_ext import MODALITIES, get_layout

TINY = EncoderConfig(base_width=1, feature_width=2)


class Golden:
    """The golden arrays of a name prefix, stacked over modalities, as leaves that gradients are wanted of."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays

    def __call__(self, prefix: str, modalities: tuple[str, ...] = MODALITIES) -> Tensor:
        stacked = np.stack([self.arrays[f"{prefix}_{modality}"] for modality in modalities])
        return torch.from_numpy(stacked).requires_grad_(stacked.ndim > 1)


@pytest.fixture(scope="module")
def exchange(golden: Callable[[str], dict[str, np.ndarray]]) -> Golden:
    return Golden(golden("exchange_small"))


def pretraining(exchange: Golden, **options: Any) -> Pretraining:
    config = PretrainConfig(queue_length=96, temperature=float(exchange.arrays["temperature"]), **options)
    module = Pretraining(config, TINY, get_layout("ntu25")).double()
    module.exchange_heads = nn.ModuleDict({modality: nn.Identity() for modality in MODALITIES})
    module.queue.keys.copy_(exchange("queue").detach().transpose(0, 1))
    return module


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected.detach(), rtol=1e-9, atol=1e-9)


def test_stage_1_is_moco(exchange: Golden) -> None:
    q, k = exchange("q"), exchange("k")
    losses = pretraining(exchange).contrast(unit(q), unit(k.detach()))
    assert list(losses) == ["contrast"]
    close(losses["contrast"], exchange("moco_loss"))
    losses["contrast"].sum().backward()
    close(q.grad, exchange("moco_grad_q"))


def test_stage_2_is_explicit_and_implicit_exchange(exchange: Golden) -> None:
    q, h, k = exchange("q"), exchange("h"), exchange("k")
    losses = pretraining(exchange).exchange(unit(q), unit(k.detach()), h)
    close(losses["explicit"], exchange("explicit_loss"))
    close(losses["implicit"], exchange("implicit_loss"))
    sum(losses.values()).sum().backward()
    close(q.grad, exchange("exchange_grad_q"))
    close(h.grad, exchange("exchange_grad_h"))


def test_options_of_stage_2(exchange: Golden) -> None:
    q, k, h = (unit(exchange(name).detach()) for name in "qkh")
    crosclr = pretraining(exchange, implicit=False).exchange(q, k, h)
    assert list(crosclr) == ["explicit"]
    moco_and_implicit = pretraining(exchange, explicit=False).exchange(q, k, h)
    close(moco_and_implicit["contrast"], exchange("moco_loss"))
    close(moco_and_implicit["implicit"], exchange("implicit_loss"))
    no_context = pretraining(exchange, context=False).exchange(q, k, h)
    assert (no_context["explicit"] < crosclr["explicit"]).all()
    more = pretraining(exchange, topk=4).exchange(q, k, h)
    assert not torch.allclose(more["explicit"], crosclr["explicit"])


def test_distillation(exchange: Golden) -> None:
    students = ("joint", "motion", "bone")
    config = DistillConfig(queue_length=96, temperature=float(exchange.arrays["temperature"]), modalities=students)
    teacher = Pretraining(PretrainConfig(queue_length=96), TINY, get_layout("ntu25")).query
    module = Distillation(config, TINY, teacher, 128, get_layout("ntu25")).double()
    module.guide_queue.keys.copy_(exchange("queue").detach().transpose(0, 1))
    module.teacher_queue.keys.copy_(torch.from_numpy(exchange.arrays["queue_teacher"])[:, None])
    h, q = exchange("student", students), unit(exchange("teacher_q").detach())
    losses = module.distill(unit(h), unit(q.transpose(0, 1).flatten(1)), q)["distillation"]
    close(losses, exchange("distill_loss", students))
    losses.sum().backward()
    close(h.grad, exchange("distill_grad_student", students))


def test_key_encoders_start_as_copies_and_follow_by_momentum(config: Callable[..., Config]) -> None:
    settings = config().pretrain
    module = Pretraining(settings, TINY, get_layout("sbu15"))
    pairs = [(module.key[m].encoder.blocks[4].temporal.weight, module.query[m].encoder.blocks[4].temporal.weight)
             for m in settings.modalities]  # fmt: skip
    for key, query in pairs:
        assert torch.equal(key, query)
        assert not key.requires_grad
        with torch.no_grad():
            query += 1
    before = [key.clone() for key, _ in pairs]
    module.update_key_encoders()
    for old, (key, query) in zip(before, pairs, strict=True):
        torch.testing.assert_close(key, 0.9 * old + 0.1 * query)


def test_in_stage_2_only_chosen_key_encoders_follow(config: Callable[..., Config]) -> None:
    settings = config(pretrain={"exchange_epoch": 0}).pretrain
    module = Pretraining(settings, TINY, get_layout("sbu15"))
    assert module.stage == 2
    before = {name: value.clone() for name, value in module.key.state_dict().items()}
    with torch.no_grad():
        for parameter in module.query.parameters():
            parameter += 1
    module.update_key_encoders()
    moved = {
        name.split(".")[0] for name, value in module.key.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved == {"motion"}  # of joint, motion, bone; acceleration and angular velocity are not trained here


def test_teacher_stays_in_eval_mode_and_has_no_gradient() -> None:
    pretrained = Pretraining(PretrainConfig(queue_length=8), TINY, get_layout("sbu15"))
    module = Distillation(DistillConfig(queue_length=8), TINY, pretrained.query, 128, get_layout("sbu15")).train()
    assert module.student.training
    assert not any(part.training for part in module.teacher.modules())
    assert not any(parameter.requires_grad for parameter in module.teacher.parameters())


def test_the_teacher_sees_the_first_view_and_the_student_the_second(
    config: Callable[..., Config], dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrained = Pretraining(config().pretrain, TINY, dataset.layout)
    students = ("bone", "joint")
    module = Distillation(DistillConfig(queue_length=8, modalities=students), TINY, pretrained.query, 4, dataset.layout)
    data = ContrastiveData(config(), dataset)
    batch = next(iter(data.train_dataloader()))
    seen = []

    def compare(*views: Tensor) -> None:
        seen.extend(views)
        raise InterruptedError

    monkeypatch.setattr(module, "compare", compare)
    with pytest.raises(InterruptedError):
        module.training_step(batch, 0)
    for view, derived, modalities in zip(batch.views, seen, (config().pretrain.modalities, students), strict=True):
        expected = view.derive(batch.joints, batch.num_frames, dataset.layout, modalities)
        assert torch.equal(derived, expected)
    assert not torch.equal(seen[0][2], seen[1][0])  # the bones in two views


def test_the_optimizer_is_sgd_as_configured(config: Callable[..., Config]) -> None:
    options = {"learning_rate": 0.3, "sgd_momentum": 0.8, "weight_decay": 0.02, "milestones": (2,), "decay": 0.5}
    module = Pretraining(replace(config().pretrain, **options), TINY, get_layout("sbu15"))
    configured = module.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]
    (group,) = optimizer.param_groups
    assert type(optimizer) is torch.optim.SGD
    chosen = {name: group[name] for name in ("lr", "momentum", "weight_decay", "nesterov", "dampening")}
    assert chosen == {"lr": 0.3, "momentum": 0.8, "weight_decay": 0.02, "nesterov": False, "dampening": 0}
    trained = [*module.query.parameters(), *module.exchange_heads.parameters()]
    assert {id(parameter) for parameter in group["params"]} == {id(parameter) for parameter in trained}
    rates = []
    for _ in range(3):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.3, 0.3, 0.15])


def test_contrastive_accuracy_does_not_depend_on_the_tile() -> None:
    torch.manual_seed(0)
    q, k, queue = (unit(torch.randn(2, n, 3)) for n in (50, 50, 7))
    similarities = q @ queue.mT
    expected = ((q * k).sum(-1) > similarities.amax(-1)).float().mean(-1)
    assert 0 < expected.min() < 1
    for tile in (1, 3, 7, 100):
        torch.testing.assert_close(contrastive_accuracy(q, k, queue, tile=tile), expected)


def test_contrastive_accuracy_copies_no_queue() -> None:
    q, queue = torch.randn(2, 4, 3).bfloat16(), torch.randn(2, 5000, 3)  # as under mixed precision
    with Allocations() as made:
        contrastive_accuracy(q, q, queue)
    assert max(made.sizes) < 0.4 * queue.nbytes


def test_learning_rate_schedules() -> None:
    step = OptimizationConfig(epochs=300, milestones=(100, 250), warmup_epochs=4)
    assert [learning_rate_factor(step, epoch) for epoch in (0, 3, 4, 99, 100, 250)] == pytest.approx(
        [0.2, 0.8, 1, 1, 0.1, 0.01]
    )
    cosine = OptimizationConfig(epochs=100, schedule="cosine")
    assert [learning_rate_factor(cosine, epoch) for epoch in (0, 50)] == pytest.approx([1, 0.5])
    assert 0 < learning_rate_factor(cosine, 99) < 0.001


def test_adamw_in_the_place_of_sgd(config: Callable[..., Config]) -> None:
    options = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "milestones": (2,), "decay": 0.5}
    module = Pretraining(replace(config().pretrain, **options), TINY, get_layout("sbu15"))
    optimizers = module.configure_optimizers()
    optimizer = optimizers["optimizer"]
    assert type(optimizer) is torch.optim.AdamW
    matrices, vectors = optimizer.param_groups
    for group, decay in ((matrices, 0.05), (vectors, 0)):
        assert (group["lr"], group["weight_decay"], group["betas"]) == (1e-3, decay, (0.9, 0.999))
    trained = {id(parameter) for parameter in module.parameters() if parameter.requires_grad}
    assert {id(parameter) for group in (matrices, vectors) for parameter in group["params"]} == trained
    assert {parameter.ndim for parameter in vectors["params"]} == {1}
    assert optimizers["lr_scheduler"].lr_lambdas[0](2) == 0.5
    with pytest.raises(ValueError, match=r"distill\.optimizer: expected sgd or adamw, got adam"):
        DistillConfig(optimizer="adam")

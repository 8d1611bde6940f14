"""Whole models, ST-GCN, 2s-AGCN's stream and CTR-GCN at full width: their units as published, and ours."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from ikem_ext import LAYOUTS
from ikem_ext.nn import agcn, ctrgcn, stgcn

from .layers import published_agcn, published_conv_temporal_graphical, published_ctrgcn
from .measure import OURS, Case, forward, with_compiled

try:
    from ikem.encoders import AGCN, CTRGCN, Encoder
except ImportError as error:
    raise ImportError(
        f"ikem_ext.bench models: builds its models from the package ikem, which is missing: {error}"
    ) from error

NTU = LAYOUTS["ntu25"]
CLASSES, FRAMES, BODIES = 60, 50, 2


def _published_st_gcn_unit(unit: stgcn.ConvTemporalGraphical, x: Tensor, adjacency: Tensor) -> tuple[Tensor, Tensor]:
    return published_conv_temporal_graphical(unit, x, adjacency), adjacency


PUBLISHED: dict[type[nn.Module], Callable[..., Any]] = {
    stgcn.ConvTemporalGraphical: _published_st_gcn_unit,
    agcn.unit_gcn: published_agcn,
    ctrgcn.unit_gcn: published_ctrgcn,
}


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    """Inference, and the gradients of a training step."""
    clips = 2 if quick else 8 if device.type == "cpu" else 64
    width = 8 if quick else 64
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(clips, 3, FRAMES, NTU.num_joints, BODIES, generator=generator).to(device, dtype)
    labels = torch.randint(CLASSES, (clips,), generator=generator).to(device)
    for name, model in _models(width):
        model.to(device, dtype)
        models = {OURS: model, "published": published(model)}
        with FlopCounterMode(display=False) as counter:  # as published, dense sums over joints and all
            _infer(models["published"], models["published"], x)
        functions = with_compiled(models, () if quick else ("published",))
        for passes, run, times in (("inference", _infer, 1), ("training", partial(_train, labels=labels), 3)):
            yield Case(
                "models",
                f"{name}, {clips} clips",
                {
                    variant: partial(run, cast(nn.Module, function), models[variant.removesuffix(", compiled")], x)
                    for variant, function in functions.items()
                },
                bytes_moved=x.nbytes,
                operations=times * counter.get_total_flops(),
                parameters={"clips": clips, "frames": FRAMES, "width": width, "dtype": str(dtype)},
                passes=passes,
            )


def published(model: nn.Module) -> nn.Module:
    """A copy of a model whose units compute as published."""
    model = copy.deepcopy(model)
    for unit in model.modules():
        if type(unit) in PUBLISHED:
            unit.forward = partial(PUBLISHED[type(unit)], unit)
    return model


def _models(width: int) -> Iterator[tuple[str, nn.Module]]:
    torch.manual_seed(0)
    # Dropout, which draws at random, is left out: the variants are to give the same results.
    yield "ST-GCN", stgcn.Model(3, CLASSES, {"layout": "ntu-rgb+d", "strategy": "spatial"}, True)
    kinds: dict[str, type[Encoder]] = {"2s-AGCN": AGCN, "CTR-GCN": CTRGCN}
    for name, kind in kinds.items():
        encoder = kind(NTU, base_width=width, feature_width=4 * width, dropout=0, initialization="kaiming")
        yield name, nn.Sequential(encoder, nn.Linear(encoder.feature_width, CLASSES))


def _infer(function: nn.Module, model: nn.Module, x: Tensor) -> Tensor:
    model.eval()
    return forward(function, [x])


def _train(function: nn.Module, model: nn.Module, x: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    model.train()
    return torch.autograd.grad(cross_entropy(function(x), labels), list(model.parameters()))


PARTS = (cases,)

"""Whole models, ST-GCN, 2s-AGCN's stream and CTR-GCN at full width: their units as published, and ours."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from ikem_ext import LAYOUTS
from ikem_ext.nn import TemporalConv, agcn, ctrgcn, stgcn

from .layers import published_agcn, published_conv_temporal_graphical, published_ctrgcn
from .measure import OURS, Case, forward, with_compiled
from .operations import operations_of

try:
    from ikem.encoders import AGCN, CTRGCN, Encoder
    from ikem.encoders.agcn import AGCNBlock
    from ikem.encoders.ctr_gcn import CTRGCNBlock, MultiScaleTemporalConv
except ImportError as error:
    raise ImportError(
        f"ikem_ext.bench models: builds its models from the package ikem, which is missing: {error}"
    ) from error

NTU = LAYOUTS["ntu25"]
CLASSES, FRAMES, BODIES, WIDTH = 60, 50, 2, 64


def _published_block(block: Any, x: Tensor) -> Tensor:
    """2s-AGCN's and CTR-GCN's."""
    y = block.dropout(block.temporal(block.graph(x)))
    return relu(y if block.residual is None else y + block.residual(x), inplace=True)


def _published_st_gcn_block(block: Any, x: Tensor, adjacency: Tensor) -> tuple[Tensor, Tensor]:
    y = block.tcn(block.gcn(x, adjacency)[0])
    return relu(y if block.residual is None else y + block.residual(x), inplace=True), adjacency


def _published_branches(unit: Any, x: Tensor) -> Tensor:
    return torch.cat([branch(x) for branch in unit.branches], dim=1)


def _published_st_gcn_unit(unit: stgcn.ConvTemporalGraphical, x: Tensor, adjacency: Tensor) -> tuple[Tensor, Tensor]:
    return published_conv_temporal_graphical(unit, x, adjacency), adjacency


PUBLISHED: dict[type[nn.Module], Callable[..., Any]] = {
    stgcn.ConvTemporalGraphical: _published_st_gcn_unit,
    agcn.unit_gcn: published_agcn,
    ctrgcn.unit_gcn: published_ctrgcn,
    TemporalConv: nn.Conv2d.forward,
    MultiScaleTemporalConv: _published_branches,
    stgcn.st_gcn: _published_st_gcn_block,
    AGCNBlock: _published_block,
    CTRGCNBlock: _published_block,
}


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    """Inference, and the gradients of a training step."""
    clips = 2 if quick else 8 if device.type == "cpu" else 64
    for name in MODELS:
        models = variants(name, 8 if quick else WIDTH, device, dtype)
        yield from cases_of("models", f"{name}, {clips} clips", models, clips, FRAMES, () if quick else ("published",))


def cases_of(
    family: str, title: str, models: dict[str, nn.Module], clips: int, frames: int, compiled: Sequence[str]
) -> Iterator[Case]:
    """Both passes of a model's variants, of random clips."""
    x, labels = random_clips(models[OURS], clips, frames)
    operations = operations_of(models["published"].eval(), x)
    functions = with_compiled(models, compiled)
    for passes, run, times in (("inference", _infer, 1), ("training", partial(train, labels=labels), 3)):
        yield Case(
            family,
            title,
            {
                variant: partial(run, cast(nn.Module, function), models[variant.partition(", ")[0]], x)
                for variant, function in functions.items()
            },
            bytes_moved=x.nbytes,
            operations=times * operations,
            parameters={"clips": clips, "frames": frames, "dtype": str(x.dtype)},
            passes=passes,
        )


def published(model: nn.Module) -> nn.Module:
    """A copy of a model whose units compute as published."""
    model = copy.deepcopy(model)
    for unit in model.modules():
        if type(unit) in PUBLISHED:
            unit.forward = partial(PUBLISHED[type(unit)], unit)
    return model


def variants(name: str, width: int, device: torch.device, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Ours and published. Dropout, which draws at random, is left out: both are to give the same results."""
    torch.manual_seed(0)
    model = MODELS[name](width).to(device, dtype)
    return {OURS: model, "published": published(model)}


def _classifier(kind: type[Encoder], width: int) -> nn.Module:
    encoder = kind(NTU, base_width=width, feature_width=4 * width, dropout=0, initialization="kaiming")
    return nn.Sequential(encoder, nn.Linear(encoder.feature_width, CLASSES))


#: By the width of the first blocks, which in ST-GCN's code is fixed.
MODELS: dict[str, Callable[[int], nn.Module]] = {
    "ST-GCN": lambda width: stgcn.Model(3, CLASSES, {"layout": "ntu-rgb+d", "strategy": "spatial"}, True),
    "2s-AGCN": partial(_classifier, AGCN),
    "CTR-GCN": partial(_classifier, CTRGCN),
}


def random_clips(model: nn.Module, clips: int, frames: int) -> tuple[Tensor, Tensor]:
    """Clips of NTU's shape and their labels, where and in what the model computes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(clips, 3, frames, NTU.num_joints, BODIES, generator=generator)
    labels = torch.randint(CLASSES, (clips,), generator=generator)
    parameter = next(model.parameters())
    return x.to(parameter), labels.to(parameter.device)


def _infer(function: nn.Module, model: nn.Module, x: Tensor) -> Tensor:
    model.eval()
    return forward(function, [x])


def train(function: nn.Module, model: nn.Module, x: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """The gradients of a training step."""
    model.train()
    return torch.autograd.grad(cross_entropy(function(x), labels), list(model.parameters()))


PARTS = (cases,)

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from layer_checks import assert_equal_results, randomized, results
from torch import Tensor, nn

from ikem_ext.bench import models
from ikem_ext.nn.multi_scale import MaxOverFrames
from ikem_ext.nn.normalized import normalized_apart
from ikem_ext.reference import plain_operations

WIDTHS = [4, 8, 4]
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)


called = nn.Module.__call__


def features(frames: int, layout: torch.memory_format) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(3, 16, frames, 5, generator=generator, dtype=torch.float64).contiguous(memory_format=layout)


class Apart(nn.Module):
    """A norm for each of the widths."""

    def __init__(self, make: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(make(place, width) for place, width in enumerate(WIDTHS))
        randomized(self).double()

    def forward(self, x: Tensor) -> Tensor:
        return normalized_apart([*self.norms], WIDTHS, x, residual=x.flip(0), relu=True)

    @staticmethod
    def plain(unit: Apart, x: Tensor) -> Tensor:
        parts = [norm(part) for norm, part in zip(unit.norms, x.split(WIDTHS, 1), strict=True)]
        return torch.relu(torch.cat(parts, 1) + x.flip(0))


@LAYOUTS
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    ("make", "together"),
    [
        (lambda place, width: nn.BatchNorm2d(width), True),
        (lambda place, width: nn.BatchNorm2d(width, track_running_stats=False), True),
        (lambda place, width: nn.BatchNorm2d(width, momentum=0.1 * (1 + place)), False),
        (lambda place, width: nn.BatchNorm2d(width, eps=0.1 * (1 + place)), False),
        (lambda place, width: nn.BatchNorm2d(width, momentum=None), False),
        (lambda place, width: nn.BatchNorm2d(width, affine=False), False),
        (lambda place, width: nn.Identity() if place else nn.BatchNorm2d(width), False),
        (lambda place, width: nn.Identity(), False),
    ],
)
def test_norms_of_parts_are_those_of_each(
    make: Callable[[int, int], nn.Module],
    together: bool,
    training: bool,
    layout: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unit = Apart(make).train(training)
    before, x = copy.deepcopy(unit), features(7, layout)
    calls = []
    original = torch.ops.ikem_ext.batch_norm
    monkeypatch.setattr(torch.ops.ikem_ext, "batch_norm", lambda *each: calls.append(1) or original(*each))
    found = results(called, unit, x)
    assert len(calls) == together
    assert_equal_results(found, results(Apart.plain, before, x))


@LAYOUTS
@pytest.mark.parametrize("frames", [1, 2, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("taps", [3, 5])
def test_the_maximum_is_that_of_max_pool(taps: int, stride: int, frames: int, layout: torch.memory_format) -> None:
    pool = MaxOverFrames(taps, stride)
    plain = nn.MaxPool2d((taps, 1), (stride, 1), (taps // 2, 0))
    assert repr(pool).removeprefix("MaxOverFrames") == repr(plain).removeprefix("MaxPool2d")
    for x in (features(frames, layout), features(frames, layout)[:, 4:9], features(frames, layout)[:, :1]):
        found = results(called, pool, x)
        assert_equal_results(found, results(called, plain, x), tolerance=0)
    whole = features(frames, layout)
    assert pool(whole).is_contiguous(memory_format=layout)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_the_unit_of_the_encoder_is_its_branches_one_by_one(training: bool, stride: int) -> None:
    unit = randomized(models.MultiScaleTemporalConv(16, stride)).double().train(training)
    before = copy.deepcopy(unit)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = features(7, layout)
        found = results(called, unit, x)
        assert_equal_results(found, results(models.PUBLISHED[type(unit)], before, x))


def test_the_unit_is_compiled_and_exported_without_graph_breaks() -> None:
    unit, x = randomized(models.MultiScaleTemporalConv(16, 1)).eval(), features(7, torch.channels_last).float()
    torch.compiler.reset()
    compiled = torch.compile(unit, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), unit(x))
    frames = torch.export.Dim("frames", min=5, max=1024)
    with plain_operations():
        exported = torch.export.export(unit, (x,), dynamic_shapes=({2: frames},))
    for length in (7, 12):
        x = features(length, torch.channels_last).float()
        torch.testing.assert_close(exported.module()(x), unit(x), rtol=1e-5, atol=1e-5)

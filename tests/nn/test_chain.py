"""Layers one after another, against the same layers called one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from layer_checks import assert_equal_results, randomized, results
from torch import Tensor, nn

from ikem_ext.nn.chain import branched, chained, layers

FRAMES, JOINTS = 9, 5


def conv(in_channels: int, out_channels: int, frames: int, **options: object) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, (frames, 1), **options)


class Unit(nn.Module):
    """A temporal unit as other projects have it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.drop, self.relu = conv(6, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.0), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.bn(self.conv(x)))


class Elsewhere(Unit):
    """With the norm first, which its own parameter tells."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.bn(x)) * self.scale


CHAINS: dict[str, Callable[[], list[nn.Module]]] = {
    "norm at the end": lambda: [conv(6, 6, 3), nn.BatchNorm2d(6)],
    "activation at the end": lambda: [conv(6, 6, 3), nn.BatchNorm2d(6), nn.ReLU()],
    "norm first": lambda: [nn.BatchNorm2d(6), nn.ReLU(inplace=True), conv(6, 6, 3, padding=(1, 0))],
    "another activation": lambda: [conv(6, 6, 3), nn.BatchNorm2d(6), nn.Tanh()],
    "another norm": lambda: [conv(6, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(inplace=True)],
    "stride": lambda: [conv(6, 6, 1, stride=(2, 1)), nn.BatchNorm2d(6)],
    "dilation": lambda: [conv(6, 6, 3, dilation=(2, 1), padding=(3, 0), bias=False)],
    "over joints": lambda: [nn.Conv2d(6, 6, (3, 3), padding=1), nn.BatchNorm2d(6)],
    "groups": lambda: [conv(6, 6, 3, groups=3)],
    "around": lambda: [conv(6, 6, 3, padding=(1, 0), padding_mode="circular")],
    "the same size": lambda: [conv(6, 6, 3, padding="same")],
    "maximum": lambda: [conv(6, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d((3, 1)), nn.BatchNorm2d(6)],
    "all dropped": lambda: [conv(6, 6, 3), nn.BatchNorm2d(6), nn.Dropout(1.0)],
    "nested": lambda: [nn.Sequential(conv(6, 6, 3), nn.Sequential(nn.BatchNorm2d(6))), nn.ReLU()],
    "a unit": lambda: [Unit(), Unit()],
    "no unit": lambda: [Elsewhere()],
    "identity": lambda: [nn.Identity()],
    "after a folded norm": lambda: [conv(6, 6, 3), nn.Identity(), nn.ReLU()],
    "nothing": list,
}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("relu", [True, False], ids=["relu", "linear"])
@pytest.mark.parametrize("added", [True, False], ids=["residual", "alone"])
@pytest.mark.parametrize("chain", CHAINS)
def test_a_chain_gives_what_its_layers_give(chain: str, added: bool, relu: bool, training: bool) -> None:
    model = randomized(nn.Sequential(*CHAINS[chain]())).double().train(training)
    x = torch.randn(2, 6, FRAMES, JOINTS, dtype=torch.float64)
    residual = torch.randn_like(copy.deepcopy(model)(x)) if added else None
    unchanged = x.clone()

    def ours(model: nn.Module, x: Tensor) -> Tensor:
        return chained(x, layers(model, *model._modules), residual=residual, relu=relu)

    def plain(model: nn.Module, x: Tensor) -> Tensor:
        y = model(x)
        y = y if residual is None else y + residual
        return torch.relu(y) if relu else y

    assert_equal_results(results(ours, copy.deepcopy(model), x), results(plain, copy.deepcopy(model), x))
    expected = copy.deepcopy(model)
    with torch.no_grad():  # where much is written in place
        torch.testing.assert_close(ours(copy.deepcopy(model), x), plain(expected, x))
    assert torch.equal(x, unchanged)


def test_branches_stand_side_by_side() -> None:
    branches = randomized(
        nn.ModuleList([conv(6, 2, 3, padding=(1, 0)), nn.Sequential(nn.Conv2d(6, 3, 1), nn.BatchNorm2d(3), nn.Tanh())])
    ).double()
    x, residual = torch.randn(2, 6, 9, 5).double(), torch.randn(2, 5, 9, 5).double()
    expected = torch.cat([branch(x) for branch in branches], 1)
    torch.testing.assert_close(branched(x, branches), expected)
    torch.testing.assert_close(branched(x, branches, residual=residual, relu=True), torch.relu(expected + residual))

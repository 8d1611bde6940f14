from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch
from layer_checks import GoldenLayerChecks, adjacency, spread
from torch import Tensor, nn

from ikem_ext.bench import layers
from ikem_ext.nn import ctrgcn


class TestCTRGC(GoldenLayerChecks):
    published = staticmethod(layers.published_ctrgc)
    golden_units: ClassVar = {"ctr_gcn_ctrgc": lambda adjacency: ctrgcn.CTRGC(16, 16)}

    def units(self) -> Iterator[nn.Module]:
        yield ctrgcn.CTRGC(16, 12)
        yield ctrgcn.CTRGC(3, 16)
        yield ctrgcn.CTRGC(16, 8, rel_reduction=4, mid_reduction=2)

    def others(self, unit: nn.Module) -> tuple[Tensor, float]:
        return adjacency(1, self.joints)[0], 0.7

    def golden_others(self, adjacency: Tensor) -> tuple[Tensor, float]:
        return adjacency[0], 0.7

    def test_adjacency_and_alpha_have_defaults(self) -> None:
        unit, x = self.unit_and_input()
        torch.testing.assert_close(unit(x), layers.published_ctrgc(unit, x))
        given = adjacency(1, self.joints)[0], torch.tensor([0.3])
        torch.testing.assert_close(unit(x, *given), layers.published_ctrgc(unit, x, *given))

    def test_bad_adjacency_is_named(self) -> None:
        unit, x = self.unit_and_input()
        with pytest.raises(ValueError, match=r"A: expected shape \(V, V\) with V=11, got \(12, 12\)"):
            unit(x, torch.zeros(12, 12))


class TestUnitGcn(GoldenLayerChecks):
    published = staticmethod(layers.published_ctrgcn)
    golden_units: ClassVar = {"ctr_gcn_unit_gcn": lambda adjacency: ctrgcn.unit_gcn(16, 16, adjacency)}

    def units(self) -> Iterator[nn.Module]:
        parts = adjacency(3, self.joints)
        yield ctrgcn.unit_gcn(16, 12, parts)
        yield ctrgcn.unit_gcn(16, 16, parts.numpy())
        yield ctrgcn.unit_gcn(9, 8, parts, adaptive=False)
        yield ctrgcn.unit_gcn(16, 8, adjacency(2, self.joints), residual=False)


def test_initialization() -> None:
    torch.manual_seed(0)
    parts = adjacency(3, 25)
    unit = ctrgcn.unit_gcn(64, 128, parts)
    assert torch.equal(unit.PA, parts) and unit.alpha.shape == (1,) and not unit.alpha.any()
    assert (unit.bn.weight == 1e-6).all()
    for conv in (unit.convs[0].conv1, unit.convs[1].conv3, unit.convs[2].conv4, unit.down[0]):
        assert spread(conv.weight) == (2 / conv.out_channels) ** 0.5
        assert not conv.bias.any()
    fixed = ctrgcn.unit_gcn(64, 64, parts, adaptive=False)
    assert not {"PA", "A"} & set(fixed.state_dict()) and torch.equal(fixed.A, parts)


@pytest.mark.parametrize(("in_channels", "relations"), [(3, 8), (9, 8), (64, 8), (256, 32)])
def test_relation_channels(in_channels: int, relations: int) -> None:
    assert ctrgcn.CTRGC(in_channels, 64).conv1.out_channels == relations

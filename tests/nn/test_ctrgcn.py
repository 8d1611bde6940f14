from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch
from layer_checks import GoldenLayerChecks, LayerChecks, adjacency, spread
from torch import Tensor, nn

from ikem_ext.bench import layers
from ikem_ext.nn import agcn, ctrgcn, msg3d


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


class TestMultiScaleTemporalConv(LayerChecks):
    published = staticmethod(layers.published_multi_scale_tcn)
    clips_under_autocast = 48
    operation = "temporal_conv"

    def units(self) -> Iterator[nn.Module]:
        yield ctrgcn.MultiScale_TemporalConv(6, 8, 5, dilations=[1, 2], residual=False)
        yield ctrgcn.MultiScale_TemporalConv(6, 12, stride=2, residual_kernel_size=3)
        yield ctrgcn.MultiScale_TemporalConv(8, 8, kernel_size=[3, 5], dilations=[1, 3])

    def test_a_residual_and_relu_are_taken_along(self) -> None:
        x = torch.randn(2, 8, 7, self.joints, dtype=torch.float64)
        for unit in self.units():
            unit = unit.double().eval()
            features = x[:, : unit.branches[0][0].in_channels]
            y = unit(features)
            residual = torch.randn_like(y)
            torch.testing.assert_close(unit.with_residual(features, residual, relu=True), torch.relu(y + residual))


def published_block(block: ctrgcn.TCN_GCN_unit, x: Tensor) -> Tensor:
    y = layers.published_multi_scale_tcn(block.tcn1, layers.published_ctrgcn(block.gcn1, x))
    return layers.published_end_of_block(block, y, x)


class TestBlock(LayerChecks):
    published = staticmethod(published_block)
    clips_under_autocast = 48

    def units(self) -> Iterator[nn.Module]:
        parts = adjacency(3, self.joints)
        yield ctrgcn.TCN_GCN_unit(9, 12, parts, stride=2, kernel_size=3, dilations=(1, 2, 3, 4))
        yield ctrgcn.TCN_GCN_unit(8, 8, parts)
        yield ctrgcn.TCN_GCN_unit(9, 8, parts, residual=False, adaptive=False)


def test_temporal_units_of_other_projects() -> None:
    assert ctrgcn.unit_tcn is agcn.unit_tcn
    assert ctrgcn.TemporalConv is msg3d.TemporalConv


def test_initialization_of_the_multi_scale_unit() -> None:
    torch.manual_seed(0)
    unit = ctrgcn.MultiScale_TemporalConv(128, 256, 5, 2, (1, 2))
    assert spread(unit.branches[0][0].weight) == (2 / 64) ** 0.5
    assert spread(unit.branches[1][3].conv.weight) == (2 / (64 * 5)) ** 0.5
    assert spread(unit.residual.conv.weight) == (2 / 256) ** 0.5
    norms = [part for part in unit.modules() if isinstance(part, nn.BatchNorm2d)]
    weights = torch.cat([norm.weight for norm in norms])
    assert abs(weights.mean().item() - 1) < 0.005 and 0.015 < weights.std().item() < 0.025
    assert not any(value.any() for name, value in unit.named_parameters() if name.endswith("bias"))
    prefixes = [name.removesuffix(".running_var") for name in unit.state_dict() if name.endswith("running_var")]
    expected = "branches.0.1 branches.0.3.bn branches.1.1 branches.1.3.bn branches.2.1 branches.2.4 branches.3.1"
    assert prefixes == [*expected.split(), "residual.bn"]


def test_bad_branches_are_named() -> None:
    with pytest.raises(ValueError, match="out_channels: expected a multiple of the number of branches, 6, got 64"):
        ctrgcn.MultiScale_TemporalConv(64, 64)
    with pytest.raises(ValueError, match=r"kernel_size: expected one, or one for each of \(1, 2\), got \[3\]"):
        ctrgcn.MultiScale_TemporalConv(64, 64, [3], dilations=(1, 2))


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

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch
from layer_checks import GoldenLayerChecks, LayerChecks, adjacency, spread
from torch import Tensor

from ikem_ext.bench import layers
from ikem_ext.nn import agcn


class TestUnitGcn(GoldenLayerChecks):
    published = staticmethod(layers.published_agcn)
    golden_units: ClassVar = {"2s_agcn_unit_gcn": lambda adjacency: agcn.unit_gcn(6, 16, adjacency)}

    def units(self) -> Iterator[agcn.unit_gcn]:
        yield agcn.unit_gcn(6, 16, adjacency(3, self.joints))
        yield agcn.unit_gcn(16, 16, adjacency(3, self.joints))
        yield agcn.unit_gcn(6, 8, adjacency(3, self.joints).numpy(), coff_embedding=2, num_subset=2)
        yield agcn.unit_gcn(6, 8, adjacency(5, self.joints), num_subset=5)


class TestUnitTcn(LayerChecks):
    published = staticmethod(layers.published_tcn)
    operation = "temporal_conv"

    def units(self) -> Iterator[agcn.unit_tcn]:
        yield agcn.unit_tcn(6, 16, 3)
        yield agcn.unit_tcn(6, 8, stride=2)
        yield agcn.unit_tcn(6, 8, kernel_size=1, stride=2)
        yield agcn.unit_tcn(6, 8, kernel_size=4)


def published_block(block: agcn.TCN_GCN_unit, x: Tensor) -> Tensor:
    y = layers.published_tcn(block.tcn1, layers.published_agcn(block.gcn1, x))
    return layers.published_end_of_block(block, y, x)


class TestBlock(LayerChecks):
    published = staticmethod(published_block)
    clips_under_autocast = 48

    def units(self) -> Iterator[agcn.TCN_GCN_unit]:
        parts = adjacency(3, self.joints)
        yield agcn.TCN_GCN_unit(8, 8, parts)
        yield agcn.TCN_GCN_unit(6, 8, parts, stride=2)
        yield agcn.TCN_GCN_unit(6, 8, parts.numpy(), residual=False)


def test_initialization_of_a_block() -> None:
    torch.manual_seed(0)
    block = agcn.TCN_GCN_unit(64, 128, adjacency(3, 25), stride=2)
    assert spread(block.tcn1.conv.weight) == (2 / (128 * 9)) ** 0.5
    assert spread(block.residual.conv.weight) == (2 / 128) ** 0.5
    assert block.tcn1.conv.stride == block.residual.conv.stride == (2, 1)
    assert (block.tcn1.bn.weight == 1).all() and not block.tcn1.conv.bias.any()
    names = {name for name in block.state_dict() if not name.startswith("gcn1")}
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert names == {
        f"{unit}.{leaf}"
        for unit in ("tcn1", "residual")
        for leaf in ("conv.weight", "conv.bias", *(f"bn.{each}" for each in norm))
    }


def test_initialization() -> None:
    torch.manual_seed(0)
    parts = adjacency(3, 25)
    unit = agcn.unit_gcn(64, 128, parts)
    assert (unit.PA == 1e-6).all() and (unit.bn.weight == 1e-6).all()
    assert (unit.down[1].weight == 1).all()
    assert spread(unit.conv_a[1].weight) == (2 / 32) ** 0.5
    assert spread(unit.down[0].weight) == (2 / 128) ** 0.5
    assert spread(unit.conv_d[2].weight) == (2 / (64 * 128 * 3)) ** 0.5
    assert not any(value.any() for name, value in unit.named_parameters() if name.endswith("bias"))
    assert "A" not in unit.state_dict() and torch.equal(unit.A, parts)
    assert unit.A.data_ptr() != parts.data_ptr()  # a copy of its own


def test_bad_adjacencies_are_named() -> None:
    with pytest.raises(ValueError, match="A: expected at least num_subset=4 parts, got 3"):
        agcn.unit_gcn(6, 16, adjacency(3, 25), num_subset=4)
    with pytest.raises(ValueError, match=r"A: expected shape \(K, V, V\)"):
        agcn.unit_gcn(6, 16, adjacency(3, 25)[0])

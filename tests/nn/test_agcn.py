from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch
from layer_checks import GoldenLayerChecks, adjacency, spread

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

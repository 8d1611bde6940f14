from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pytest
import torch
from layer_checks import GoldenLayerChecks, LayerChecks, features, randomized
from torch import nn

from ikem_ext.bench import layers
from ikem_ext.nn import msg3d

PATH = np.eye(11, k=1) + np.eye(11, k=-1)


def golden_unit(adjacency: torch.Tensor) -> msg3d.MultiScale_GraphConv:
    edges = (adjacency.sum(0) > 0).numpy().astype(np.float64)
    np.fill_diagonal(edges, 0)
    return msg3d.MultiScale_GraphConv(5, 6, 16, edges)


class TestMultiScaleGraphConv(GoldenLayerChecks):
    published = staticmethod(layers.published_multi_scale)
    golden_units: ClassVar = {"ms_g3d_multiscale_graph_conv": golden_unit}

    def units(self) -> Iterator[msg3d.MultiScale_GraphConv]:
        yield msg3d.MultiScale_GraphConv(5, 6, 16, PATH)
        yield msg3d.MultiScale_GraphConv(13, 6, 8, torch.from_numpy(PATH), use_mask=False, activation="tanh")
        yield msg3d.MultiScale_GraphConv(4, 6, 6, PATH, disentangled_agg=False, activation="leakyrelu")
        yield msg3d.MultiScale_GraphConv(3, 6, 8, PATH, dropout=0.5, activation="linear")


class TestTemporalConv(LayerChecks):
    published = staticmethod(layers.published_tcn)
    operation = "temporal_conv"
    error_under_autocast = 2.0  # spectra are rounded, where a sum over taps has nothing to

    def units(self) -> Iterator[nn.Module]:
        yield msg3d.TemporalConv(6, 8, 3, dilation=4)
        yield msg3d.TemporalConv(6, 8, 5, 2, 2)
        yield msg3d.TemporalConv(6, 8, 1)


class TestMultiScaleTemporalConv(LayerChecks):
    published = staticmethod(layers.published_multi_scale_tcn)
    operation = "temporal_conv"
    clips_under_autocast = 48

    def units(self) -> Iterator[nn.Module]:
        yield msg3d.MultiScale_TemporalConv(6, 12)
        yield msg3d.MultiScale_TemporalConv(6, 12, stride=2, residual_kernel_size=3, activation="leakyrelu")
        yield msg3d.MultiScale_TemporalConv(8, 8, 5, dilations=(1, 3), residual=False, activation="tanh")

    def test_the_activation_can_be_taken_away(self) -> None:
        unit, x = self.unit_and_input()
        unit.eval()
        y = unit(x)
        unit.act = nn.Identity()
        assert (unit(x) < 0).any()
        torch.testing.assert_close(torch.relu(unit(x)), y)

    def test_state_dict_and_initialization(self) -> None:
        torch.manual_seed(0)
        unit = msg3d.MultiScale_TemporalConv(96, 192, stride=2)
        torch.manual_seed(0)
        first = nn.Conv2d(96, 32, 1)
        assert torch.equal(unit.branches[0][0].weight, first.weight)  # PyTorch's own initialization
        weights = [name.removesuffix(".weight") for name in unit.state_dict() if name.endswith(".weight")]
        dilated = [f"branches.{place}.{part}" for place in range(4) for part in ("0", "1", "3.conv", "3.bn")]
        others = ["branches.4.0", "branches.4.1", "branches.4.4", "branches.5.0", "branches.5.1"]
        assert weights == [*dilated, *others, "residual.conv", "residual.bn"]
        assert [unit.branches[place][3].conv.padding for place in range(4)] == [(1, 0), (2, 0), (3, 0), (4, 0)]

    def test_bad_arguments_are_named(self) -> None:
        with pytest.raises(ValueError, match="out_channels: expected a multiple of the number of branches, 6, got 64"):
            msg3d.MultiScale_TemporalConv(96, 64)
        with pytest.raises(ValueError, match=r"activation: expected relu, .* got 'gelu'"):
            msg3d.MultiScale_TemporalConv(96, 96, activation="gelu")


def test_disentangled_scales_hold_the_pairs_so_far_apart() -> None:
    unit = msg3d.MultiScale_GraphConv(4, 3, 8, PATH.astype(bool))
    scales = unit.A_powers.view(4, 11, 11)
    apart = (torch.arange(11)[:, None] - torch.arange(11)).abs()
    assert torch.equal(scales[0], torch.eye(11))
    for hops in range(1, 4):
        assert torch.equal(scales[hops] > 0, (apart == hops) | (apart == 0))
    assert scales[1, 0, 1].item() == pytest.approx(1 / (2 * 3) ** 0.5)  # the end of the path has one neighbor
    assert scales[3, 5, 8].item() == pytest.approx(1 / (3 * 2) ** 0.5)


def test_powers_walk_that_far() -> None:
    unit = msg3d.MultiScale_GraphConv(3, 3, 8, PATH, disentangled_agg=False)
    once, twice = unit.A_powers.view(3, 11, 11)[1:]
    torch.testing.assert_close(once @ once, twice)
    assert once[0, 0].item() == pytest.approx(1 / 2)


def test_state_dict_and_initialization() -> None:
    unit = msg3d.MultiScale_GraphConv(5, 6, 16, PATH)
    assert "A_powers" not in unit.state_dict()
    assert unit.A_res.shape == (55, 11) and 0 < unit.A_res.abs().max() <= 1e-6
    assert "A_res" not in msg3d.MultiScale_GraphConv(5, 6, 16, PATH, use_mask=False).state_dict()
    assert msg3d.MultiScale_GraphConv(5, 6, 16, PATH, dropout=0.1).mlp.layers[1].weight.shape == (16, 30, 1, 1)


def test_dropout_drops_aggregated_features_in_training_alone() -> None:
    unit = randomized(msg3d.MultiScale_GraphConv(3, 6, 8, PATH, dropout=0.5)).eval()
    x = features(unit, 11)
    kept = unit(x)
    assert torch.equal(unit(x), kept)
    unit.mlp.layers[0].train()  # dropout alone: batch norm, too, gives something else in training
    assert not torch.allclose(unit(x), kept)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"activation: expected relu, .* got 'gelu'"):
        msg3d.MultiScale_GraphConv(5, 6, 16, PATH, activation="gelu")
    with pytest.raises(ValueError, match=r"A_binary: expected shape \(V, V\), got \(11, 10\)"):
        msg3d.MultiScale_GraphConv(5, 6, 16, PATH[:, 1:])

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pytest
import torch
from layer_checks import GoldenLayerChecks, LayerChecks, adjacency, features, spread
from torch import Tensor, nn

from ikem_ext import reference
from ikem_ext.bench import layers
from ikem_ext.nn import ctrgcn, pyskl


class TestUnitGcn(GoldenLayerChecks):
    published = staticmethod(layers.published_pyskl_gcn)
    golden_units: ClassVar = {
        f"pyskl_unit_gcn_{adaptive}_{conv_pos}": lambda adjacency, options=(adaptive, conv_pos, True): pyskl.unit_gcn(
            6, 16, adjacency, *options
        )
        for adaptive, conv_pos in (("importance", "pre"), ("init", "pre"), ("offset", "post"))
    }

    def units(self) -> Iterator[nn.Module]:
        parts = adjacency(3, self.joints)
        for adaptive, conv_pos in itertools.product(("importance", None, "init", "offset"), ("pre", "post")):
            yield pyskl.unit_gcn(6, 16, parts, adaptive, conv_pos)
        yield pyskl.unit_gcn(8, 8, parts, with_res=True, norm={"type": "BN", "eps": 1e-3}, act="Tanh")
        yield pyskl.unit_gcn(6, 8, adjacency(2, self.joints).numpy(), conv_pos="post", with_res=True)


class TestUnitAAGCN(GoldenLayerChecks):
    published = staticmethod(layers.published_aagcn)
    golden_units: ClassVar = {"pyskl_unit_aagcn": lambda adjacency: pyskl.unit_aagcn(6, 16, adjacency)}

    def units(self) -> Iterator[nn.Module]:
        parts = adjacency(3, self.joints)
        yield pyskl.unit_aagcn(6, 16, parts)
        yield pyskl.unit_aagcn(8, 8, parts, coff_embedding=2)
        yield pyskl.unit_aagcn(6, 8, adjacency(4, self.joints), adaptive=False)
        yield pyskl.unit_aagcn(6, 8, parts, attention=False)


class TestUnitAAGCNOfAnEvenNumberOfJoints(TestUnitAAGCN):
    joints = 10


class TestCTRGC(LayerChecks):
    published = staticmethod(layers.published_pyskl_ctrgc)

    def units(self) -> Iterator[nn.Module]:
        yield pyskl.CTRGC(16, 12)
        yield pyskl.CTRGC(24, 8, rel_reduction=4)

    def others(self, unit: nn.Module) -> tuple[Tensor, float]:
        return adjacency(1, self.joints)[0], 0.7

    def test_sums_over_the_other_axis_than_the_original(self) -> None:
        unit, x = self.unit_and_input()
        original = ctrgcn.CTRGC(16, 12, rel_reduction=2)
        original.load_state_dict(unit.state_dict())
        with torch.no_grad():
            for ours, other in ((original.conv1, unit.conv2), (original.conv2, unit.conv1)):
                ours.load_state_dict(other.state_dict())
                ours.weight.neg_()
                ours.bias.neg_()
        part = adjacency(1, self.joints)[0]
        torch.testing.assert_close(unit(x, part), original(x, part.T), rtol=1e-4, atol=1e-4)


class TestUnitCTRGCN(GoldenLayerChecks):
    published = staticmethod(layers.published_pyskl_ctrgcn)
    golden_units: ClassVar = {"pyskl_unit_ctrgcn": lambda adjacency: pyskl.unit_ctrgcn(16, 16, adjacency)}

    def units(self) -> Iterator[nn.Module]:
        yield pyskl.unit_ctrgcn(16, 12, adjacency(3, self.joints))
        yield pyskl.unit_ctrgcn(24, 24, adjacency(2, self.joints))


def published_unit_tcn(unit: pyskl.unit_tcn, x: Tensor) -> Tensor:
    """Its dropout draws as the twin of batch norm does."""
    if not (unit.training and unit.drop.p):
        return layers.published_tcn(unit, x)
    bn = unit.bn
    bn.num_batches_tracked += 1
    y = nn.Conv2d.forward(unit.conv, x)
    return reference.batch_norm(y, bn.weight, bn.bias, bn.running_mean, bn.running_var, dropout=unit.drop.p)


class TestUnitTcn(LayerChecks):
    published = staticmethod(published_unit_tcn)
    operation = "temporal_conv"

    def units(self) -> Iterator[nn.Module]:
        yield pyskl.unit_tcn(6, 16, 3)
        yield pyskl.unit_tcn(6, 8, stride=2, dropout=0.5)
        yield pyskl.unit_tcn(6, 8, 3, dilation=3, norm=None)
        yield pyskl.unit_tcn(6, 8, 1, 2, norm={"type": "GN", "num_groups": 2})

    def test_initialization(self) -> None:
        torch.manual_seed(0)
        unit = pyskl.unit_tcn(64, 128)
        nn.init.constant_(unit.bn.weight, 3)
        unit.init_weights()
        assert spread(unit.conv.weight) == (2 / (128 * 9)) ** 0.5
        assert not unit.conv.bias.any() and (unit.bn.weight == 1).all()
        assert (unit.norm_cfg, unit.stride, unit.in_channels) == ({"type": "BN"}, 1, 64)

    def test_bad_norms_are_named(self) -> None:
        with pytest.raises(ValueError, match=r"norm: expected one of BN, .*, got 'LN'"):
            pyskl.unit_tcn(6, 16, norm="LN")


class TestMstcn(LayerChecks):
    published = staticmethod(layers.published_mstcn)
    operation = "temporal_conv"
    clips_under_autocast = 48

    def units(self) -> Iterator[nn.Module]:
        yield pyskl.mstcn(6, 20)
        yield pyskl.mstcn(6, 16, 0.5, stride=2)
        yield pyskl.mstcn(6, 12, ms_cfg=[("max", 3), "1x1", (5, 2)])

    def test_inner_forward_is_without_the_last_norm(self) -> None:
        unit, x = self.unit_and_input()
        unit.eval()
        torch.testing.assert_close(unit.bn(unit.inner_forward(x)), unit(x))

    def test_dropout_is_taken_along_with_the_residual(self) -> None:
        unit = pyskl.mstcn(6, 20, dropout=0.25)
        x = features(unit, self.joints, clips=48)
        y = unit.with_residual(x, torch.full((48, 20, 7, self.joints), 1e3))
        dropped = (y == 1e3).float().mean().item()
        assert dropped == pytest.approx(0.25, abs=0.01)
        unit.init_weights()

    def test_state_dict(self) -> None:
        unit = pyskl.mstcn(6, 20)
        assert (unit.rem_mid_channels, unit.mid_channels) == (5, 3)
        weights = [name.removesuffix(".weight") for name in unit.state_dict() if name.endswith(".weight")]
        dilated = [f"branches.{place}.{part}" for place in range(4) for part in ("0", "1", "3.conv")]
        assert weights == [*dilated, "branches.4.0", "branches.4.1", "branches.5", "transform.0", "transform.2", "bn"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"mid_channels": 8}, "mid_channels: expected None or a share of out_channels, got 8"),
            ({"ms_cfg": ["3x3"]}, "ms_cfg: expected .* got '3x3'"),
            ({"ms_cfg": [("mean", 3)]}, r"ms_cfg: expected .* got \('mean', 3\)"),
        ],
    )
    def test_bad_options_are_named(self, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            pyskl.mstcn(6, 20, **options)


class TestMSTCN(LayerChecks):
    published = staticmethod(layers.published_multi_scale_tcn)
    operation = "temporal_conv"
    clips_under_autocast = 48

    def units(self) -> Iterator[nn.Module]:
        yield pyskl.MSTCN(6, 20)
        yield pyskl.MSTCN(6, 8, [3, 5], 2, (1, 2), act_cfg="Tanh", tcn_dropout=0.5)
        yield pyskl.MSTCN(8, 8, residual=False)

    def test_initialization(self) -> None:
        torch.manual_seed(0)
        unit = pyskl.MSTCN(128, 256, dilations=(1, 2))
        unit.init_weights()
        assert spread(unit.branches[1][3].conv.weight) == (2 / (64 * 3)) ** 0.5
        assert [branch[-1].num_features for branch in pyskl.MSTCN(6, 20).branches[4:]] == [3, 5]


def published_blocks(block: nn.Module, x: Tensor) -> Tensor:
    gcn, tcn = (block._modules.get(name) or block._modules[f"{name}1"] for name in ("gcn", "tcn"))
    graph = {
        pyskl.unit_gcn: layers.published_pyskl_gcn,
        pyskl.unit_aagcn: layers.published_aagcn,
        pyskl.unit_ctrgcn: layers.published_pyskl_ctrgcn,
    }[type(gcn)]
    time = {
        pyskl.unit_tcn: layers.published_tcn,
        pyskl.mstcn: layers.published_mstcn,
        pyskl.MSTCN: layers.published_multi_scale_tcn,
    }[type(tcn)]
    return layers.published_end_of_block(block, time(tcn, graph(gcn, x)), x)


class TestBlocks(LayerChecks):
    published = staticmethod(published_blocks)
    clips_under_autocast = 48

    def units(self) -> Iterator[nn.Module]:
        parts = adjacency(3, self.joints)
        yield pyskl.STGCNBlock(8, 8, parts)
        yield pyskl.STGCNBlock(
            6, 12, parts, 2, gcn_adaptive="init", gcn_with_res=True, tcn_type="mstcn", tcn_ms_cfg=["1x1", (3, 2)]
        )
        yield pyskl.AAGCNBlock(8, 8, parts, residual=False, tcn_kernel_size=3)
        yield pyskl.CTRGCNBlock(16, 12, parts, 2)

    def test_arguments_of_neither_unit_are_named(self) -> None:
        with pytest.raises(TypeError, match="dropout: expected arguments that begin with gcn_ or tcn_"):
            pyskl.STGCNBlock(8, 8, adjacency(3, 5), dropout=0.5)
        with pytest.raises(ValueError, match="gcn_type: expected one of unit_gcn, got 'dggcn'"):
            pyskl.STGCNBlock(8, 8, adjacency(3, 5), gcn_type="dggcn")
        with pytest.raises(ValueError, match="tcn_type: expected one of unit_tcn, mstcn, got 'dgmstcn'"):
            pyskl.AAGCNBlock(8, 8, adjacency(3, 5), tcn_type="dgmstcn")

    def test_initialization(self) -> None:
        for kind in (pyskl.AAGCNBlock, pyskl.CTRGCNBlock):
            block = kind(16, 32, adjacency(3, 5))
            projection = block.residual.conv.weight.clone()
            block.init_weights()
            gcn = block._modules.get("gcn") or block.gcn1
            assert (gcn.bn.weight == 1e-6).all()
            assert torch.equal(block.residual.conv.weight, projection)


PATH = np.eye(11, k=1, dtype=np.float32) + np.eye(11, k=-1, dtype=np.float32)


class TestMSGCN(LayerChecks):
    published = staticmethod(layers.published_pyskl_multi_scale)

    def units(self) -> Iterator[nn.Module]:
        yield pyskl.MSGCN(5, 6, 16, PATH)
        yield pyskl.MSGCN(
            13, 6, 8, torch.from_numpy(PATH).double(), act_cfg={"type": "LeakyReLU", "negative_slope": 0.1}
        )
        yield pyskl.MSGCN(3, 6, 8, PATH.astype(bool), dropout=0.5, act_cfg=None)

    def test_scales_hold_the_pairs_so_far_apart_divided_by_their_number(self) -> None:
        unit = pyskl.MSGCN(4, 6, 8, PATH)
        apart = (torch.arange(11)[:, None] - torch.arange(11)).abs()
        assert torch.equal(unit.A[0], torch.eye(11))
        for hops in range(1, 4):
            assert torch.equal(unit.A[hops] > 0, (apart == hops) | (apart == 0))
        torch.testing.assert_close(unit.A.sum(1), torch.ones(4, 11))
        assert unit.A[1, 0, 1].item() == pytest.approx(1 / 3)  # joint 1 has two neighbors and itself, the end joint one
        assert unit.A[1, 1, 0].item() == pytest.approx(1 / 2)

    def test_state_dict_and_initialization(self) -> None:
        state = pyskl.MSGCN(5, 6, 16, PATH, dropout=0.1).state_dict()
        assert {name: tuple(value.shape) for name, value in state.items() if "running" not in name} == {
            "A": (5, 11, 11),
            "PA": (5, 11, 11),
            "mlp.layers.1.weight": (16, 30, 1, 1),
            "mlp.layers.1.bias": (16,),
            "mlp.layers.2.weight": (16,),
            "mlp.layers.2.bias": (16,),
            "mlp.layers.2.num_batches_tracked": (),
        }
        assert 0 < state["PA"].abs().max() <= 1e-6

    def test_bad_arguments_are_named(self) -> None:
        with pytest.raises(ValueError, match=r"A: expected shape \(V, V\), got \(11, 10\)"):
            pyskl.MSGCN(5, 6, 16, PATH[:, 1:])
        with pytest.raises(ValueError, match=r"act_cfg: expected one of ReLU, .* got 'Mish2'"):
            pyskl.MSGCN(5, 6, 16, PATH, act_cfg="Mish2")


def test_parameters_of_the_adjacency() -> None:
    parts = adjacency(3, 25)
    for adaptive in (None, "offset", "importance"):
        unit = pyskl.unit_gcn(6, 16, parts, adaptive)
        assert torch.equal(unit.A, parts) and not isinstance(unit.A, nn.Parameter) and "A" in unit.state_dict()
        assert hasattr(unit, "PA") == (adaptive is not None)
    assert (unit.PA == 1).all()
    offset = pyskl.unit_gcn(6, 16, parts, "offset").PA
    assert 0 < offset.abs().max() <= 1e-6
    own = pyskl.unit_gcn(6, 16, parts, "init").A
    assert isinstance(own, nn.Parameter) and own.data_ptr() != parts.data_ptr()
    assert isinstance(pyskl.unit_aagcn(6, 16, parts).A, nn.Parameter)
    assert not isinstance(pyskl.unit_aagcn(6, 16, parts, adaptive=False).A, nn.Parameter)


def test_initialization() -> None:
    torch.manual_seed(0)
    unit = pyskl.unit_aagcn(64, 128, adjacency(3, 25))
    unit.init_weights()
    assert (unit.bn.weight == 1e-6).all() and not unit.alpha.any()
    assert spread(unit.conv_d[0].weight) == (2 / (64 * 128 * 3)) ** 0.5
    assert spread(unit.conv_a[0].weight) == (2 / 32) ** 0.5
    assert spread(unit.conv_sa.weight) == (2 / (25 * 129)) ** 0.5
    assert spread(unit.fc1c.weight) == (2 / 128) ** 0.5
    assert not unit.conv_ta.weight.any() and not unit.fc2c.weight.any()
    refined = pyskl.unit_ctrgcn(64, 128, adjacency(3, 25))
    refined.init_weights()
    assert (refined.bn.weight == 1e-6).all() and not refined.alpha.any()
    assert spread(refined.convs[1].conv3.weight) == (2 / 128) ** 0.5
    before = pyskl.unit_gcn(64, 128, adjacency(3, 25))
    weight = before.conv.weight.clone()
    before.init_weights()
    assert torch.equal(before.conv.weight, weight)


@pytest.mark.parametrize(("in_channels", "relations"), [(3, 8), (16, 8), (64, 8), (128, 16)])
def test_relation_channels(in_channels: int, relations: int) -> None:
    assert pyskl.CTRGC(in_channels, 64).conv1.out_channels == relations


def test_adjacency_given_to_forward_is_ignored() -> None:
    unit = pyskl.unit_gcn(6, 16, adjacency(3, 11)).eval()
    x = torch.randn(2, 6, 5, 11)
    assert torch.equal(unit(x, torch.zeros(3, 11, 11)), unit(x))


def test_norms_and_activations_by_name() -> None:
    parts = adjacency(3, 11)
    unit = pyskl.unit_gcn(6, 16, parts, norm={"type": "GN", "num_groups": 4, "requires_grad": False}, act="SiLU")
    assert isinstance(unit.bn, nn.GroupNorm) and isinstance(unit.act, nn.SiLU)
    assert not unit.bn.weight.requires_grad
    assert unit(torch.randn(2, 6, 5, 11)).shape == (2, 16, 5, 11)
    assert pyskl.unit_gcn(6, 16, parts, act={"type": "LeakyReLU", "negative_slope": 0.2}).act.negative_slope == 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adaptive": "learned"}, "adaptive: expected one of .*'offset'.*, got 'learned'"),
        ({"conv_pos": "both"}, "conv_pos: expected one of .*'post'.*, got 'both'"),
        ({"norm": "LN"}, "norm: expected one of BN, .*, got 'LN'"),
        ({"act": {"type": "Mish2"}}, "act: expected one of ReLU, .*, got 'Mish2'"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pyskl.unit_gcn(6, 16, adjacency(3, 11), **options)

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, cast

import pytest
import torch
from layer_checks import GoldenLayerChecks, LayerChecks, adjacency, randomized
from torch import Tensor, nn

from ikem_ext import LAYOUTS, reference
from ikem_ext.bench import layers
from ikem_ext.nn import stgcn


class TestConvTemporalGraphical(GoldenLayerChecks):
    published = staticmethod(layers.published_conv_temporal_graphical)
    golden_units: ClassVar = {"st_gcn_conv_temporal_graphical": lambda adjacency: stgcn.ConvTemporalGraphical(6, 16, 3)}

    def units(self) -> Iterator[nn.Module]:
        yield stgcn.ConvTemporalGraphical(6, 16, 3)
        yield stgcn.ConvTemporalGraphical(6, 8, 2, bias=False)
        yield stgcn.ConvTemporalGraphical(6, 8, 3, t_stride=2)
        yield stgcn.ConvTemporalGraphical(6, 8, 3, t_padding=2)
        yield stgcn.ConvTemporalGraphical(6, 8, 3, 3, 2, 1, 2)

    def others(self, unit: nn.Module) -> tuple[Tensor]:
        return (adjacency(unit.kernel_size, self.joints),)

    def golden_others(self, adjacency: Tensor) -> tuple[Tensor]:
        return (adjacency,)

    @staticmethod
    def run(unit: nn.Module, x: Tensor, *others: Tensor) -> Tensor:
        return unit(x, *others)[0]

    def test_adjacency_is_returned(self) -> None:
        unit, x = self.unit_and_input()
        parts = adjacency(3, self.joints)
        assert unit(x, parts)[1] is parts
        with pytest.raises(ValueError, match=r"A: expected shape \(3, V, W\) with V=11, got \(2, 11, 11\)"):
            unit(x, parts[:2])


def published_block(block: stgcn.st_gcn, x: Tensor, parts: Tensor) -> Tensor:
    """A block with the published graph convolution, layer by layer; dropout draws as the twin of batch norm does."""
    before, relu, conv, after, dropout = cast("list[Any]", list(block.tcn))
    y = nn.Conv2d.forward(conv, relu(before(layers.published_conv_temporal_graphical(block.gcn, x, parts))))
    after.num_batches_tracked += after.training
    running = after.running_mean, after.running_var
    p = dropout.p if dropout.training else 0.0
    y = reference.batch_norm(y, after.weight, after.bias, *running, training=after.training, dropout=p)
    return torch.relu(y if block.residual is None else y + block.residual(x))


class TestBlock(LayerChecks):
    published = staticmethod(published_block)
    run = staticmethod(TestConvTemporalGraphical.run)

    def units(self) -> Iterator[nn.Module]:
        yield stgcn.st_gcn(6, 8, (3, 3), stride=2)
        yield stgcn.st_gcn(6, 6, (3, 3), dropout=0.5)
        yield stgcn.st_gcn(6, 8, (3, 3), residual=False)

    def others(self, unit: nn.Module) -> tuple[Tensor]:
        return (adjacency(3, self.joints),)


@pytest.mark.parametrize("kernel_size", [(4, 3), (9,)])
def test_bad_kernel_sizes_are_named(kernel_size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="kernel_size: expected"):
        stgcn.st_gcn(3, 8, kernel_size)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_model_is_of_the_default_dtype(dtype: torch.dtype) -> None:
    expected = stgcn.graph_adjacency("ntu-rgb+d", "spatial")
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = stgcn.Model(3, 7, {"layout": "ntu-rgb+d", "strategy": "spatial"}, edge_importance_weighting=True)
        assert torch.equal(model.A, expected.to(dtype))
        logits = model(torch.randn(2, 3, 8, 25, 1))
        logits.sum().backward()
    finally:
        torch.set_default_dtype(before)
    assert {value.dtype for value in (logits, *model.parameters(), *model.buffers())} == {dtype, torch.int64}


def test_model_is_built_and_runs_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = stgcn.Model(3, 7, {"layout": "ntu-rgb+d", "strategy": "spatial"}, edge_importance_weighting=True)
        logits = model(torch.randn(2, 3, 8, 25, 1))
    logits.sum().backward()
    assert logits.is_meta
    assert logits.shape == (2, 7)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.fixture(scope="module")
def model() -> stgcn.Model:
    graph = {"layout": "ntu-rgb+d", "strategy": "spatial"}
    return randomized(stgcn.Model(3, 7, graph, edge_importance_weighting=True, dropout=0.5)).eval()


def test_model_has_the_published_names(model: stgcn.Model) -> None:
    block = {
        *(f"{name}.{leaf}" for name in ("gcn.conv", "tcn.2") for leaf in ("weight", "bias")),
        *(
            f"tcn.{bn}.{leaf}"
            for bn in (0, 3)
            for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        ),
    }
    prefix = "st_gcn_networks.3."
    state = model.state_dict()
    assert {name.removeprefix(prefix) for name in state if name.startswith(prefix)} == block
    assert state["st_gcn_networks.7.gcn.conv.weight"].shape == (3 * 256, 128, 1, 1)
    assert state["st_gcn_networks.4.residual.0.weight"].shape == (128, 64, 1, 1)
    assert not any(name.startswith("st_gcn_networks.0.residual") for name in state)
    assert {"A", "edge_importance.9", "data_bn.running_var", "fcn.weight", "fcn.bias"} <= state.keys()
    assert [block.tcn[4].p for block in model.st_gcn_networks] == [0, *[0.5] * 9]
    plain = stgcn.Model(3, 7, {"layout": "openpose"}, edge_importance_weighting=False)
    assert not any(name.startswith("edge_importance") for name in plain.state_dict())


def test_model_matches_the_published_blocks(model: stgcn.Model) -> None:
    """Logits of clips are those of the mean over places, body by body."""
    x = torch.randn(2, 3, 16, 25, 2)
    bodies = x.movedim(4, 1).flatten(0, 1)
    y = model.data_bn(bodies.permute(0, 3, 1, 2).flatten(1, 2)).unflatten(1, (25, 3)).permute(0, 2, 3, 1)
    for block, importance in zip(model.st_gcn_networks, model.edge_importance, strict=True):
        y = published_block(block, y, model.A * importance)
    expected = model.fcn(y.unflatten(0, (2, 2)).mean((1, 3, 4))[..., None, None])[..., 0, 0]
    scale = expected.abs().max().item()
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-5 * scale)
    logits, maps = model.extract_feature(x)
    assert logits.shape == (2, 7, 4, 25, 2) and maps.shape == (2, 256, 4, 25, 2)
    torch.testing.assert_close(logits.mean((2, 3, 4)), expected, rtol=0, atol=1e-5 * scale)
    assert model(x[:0]).shape == (0, 7)
    with pytest.raises(ValueError, match=r"x: expected shape \(N, 3, T, 25, M\), got"):
        model(x[..., :24, :])


def test_graph_of_ntu_is_the_layouts() -> None:
    assert torch.equal(stgcn.graph_adjacency("ntu-rgb+d", "spatial"), LAYOUTS["ntu25"].adjacency())
    assert torch.equal(stgcn.graph_adjacency("kinect20", "spatial"), LAYOUTS["kinect20"].adjacency())


@pytest.mark.parametrize("layout", ["openpose", "ntu-rgb+d", "ntu_edge"])
@pytest.mark.parametrize(("max_hop", "dilation"), [(1, 1), (2, 1), (3, 2)])
def test_partitions_sum_to_the_normalized_graph(layout: str, max_hop: int, dilation: int) -> None:
    uniform, distance, spatial = (
        stgcn.graph_adjacency(layout, strategy, max_hop, dilation) for strategy in ("uniform", "distance", "spatial")
    )
    hops = max_hop // dilation
    assert [len(parts) for parts in (uniform, distance, spatial)] == [1, 1 + hops, 1 + 2 * hops]
    assert torch.equal(distance.sum(0), uniform[0]) and torch.equal(spatial.sum(0), uniform[0])
    torch.testing.assert_close(uniform.sum(1), torch.ones(1, uniform.shape[-1]))
    assert torch.equal(spatial[0] > 0, torch.eye(uniform.shape[-1]) > 0)


def test_openpose_elbow() -> None:
    """The elbow (3) lies between wrist (4), which is farther from the neck, and shoulder (2), closer."""
    itself, farther, closer = stgcn.graph_adjacency("openpose", "spatial", max_hop=3)[:3, :, 3]
    for part, joint in ((itself, 3), (farther, 4), (closer, 2)):
        assert part.nonzero().flatten().tolist() == [joint]


def test_unknown_graphs_are_named() -> None:
    with pytest.raises(ValueError, match=r"layout: expected one of .*'openpose'.*, got 'coco'"):
        stgcn.graph_adjacency("coco")
    with pytest.raises(ValueError, match=r"strategy: expected one of .*, got 'random'"):
        stgcn.graph_adjacency(strategy="random")

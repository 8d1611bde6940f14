"""Copies of models whose batch norms are folded into convolutions, beside the models."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from layer_checks import adjacency, features, randomized
from torch import nn

from ikem.config import EncoderConfig
from ikem.encoders import build_encoder
from ikem_ext import get_layout
from ikem_ext.nn import agcn, ctrgcn, folded, msg3d, pyskl, stgcn
from ikem_ext.nn.folding import Shift

LAYOUT = get_layout("sbu15")


def encoder_of(kind: str, dtype: torch.dtype) -> nn.Module:
    config = EncoderConfig(architecture=kind, base_width=8, feature_width=24)
    torch.manual_seed(0)
    return randomized(build_encoder(config, LAYOUT)).to(dtype).train()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["st_gcn", "agcn", "ctrgcn", "hcn"])
def test_folded_encoders_give_the_same_features(kind: str, dtype: torch.dtype) -> None:
    encoder = encoder_of(kind, dtype)
    before = copy.deepcopy(encoder.state_dict())
    x = torch.randn(3, 3, 16, 15, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    copied = folded(encoder)
    with torch.no_grad():
        actual = copied.feature_map(x)
        # The encoder is as it was: in training mode, and to the bit.
        assert all(module.training for module in encoder.modules())
        assert all(parameter.requires_grad for parameter in encoder.parameters())
        assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
        expected = encoder.eval().feature_map(x)
        reference = copy.deepcopy(encoder).double().feature_map(x.double())
    size = reference.abs().max()
    assert size > 0
    if dtype == torch.float64:
        torch.testing.assert_close(actual / size, reference / size, rtol=0, atol=1e-12)
    else:  # as near to the truth as the encoder itself
        error, usual = ((each.double() - reference).abs().max() / size for each in (actual, expected))
        assert error < max(2 * usual, 1e-6)
    norms = [name for name, module in copied.named_modules() if isinstance(module, nn.BatchNorm2d)]
    after_maximum = [f"blocks.{place}.temporal.branches.2.4" for place in range(10)]  # which is no convolution
    assert norms == (after_maximum if kind == "ctrgcn" else [])
    assert not any(module.training for module in copied.modules())
    assert not any(parameter.requires_grad for parameter in copied.parameters())


def test_a_folded_model_can_be_differentiated() -> None:
    """In its input, which the shifts in place must not spoil."""
    encoder = encoder_of("st_gcn", torch.float64)
    x = torch.randn(2, 3, 16, 15, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = []
    for each in (folded(encoder), encoder.eval()):
        given = x.clone().requires_grad_()
        each(given).sum().backward()
        gradients.append(given.grad)
    torch.testing.assert_close(*gradients)


def test_what_is_no_convolution_before_a_norm_stays() -> None:
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    copied = folded(nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.ReLU(), nn.BatchNorm2d(4)))
    assert [type(module) for module in copied] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.BatchNorm2d]
    block = randomized(stgcn.st_gcn(4, 6, (9, 3), stride=2))
    graph = torch.rand(3, 15, 15)
    x = torch.randn(2, 4, 8, 15)
    torch.testing.assert_close(folded(block)(x, graph)[0], block.eval()(x, graph)[0])


UNITS: dict[str, Callable[[], nn.Module]] = {
    "agcn.unit_gcn": lambda: agcn.unit_gcn(6, 8, adjacency(3, 11)),
    "agcn.unit_tcn": lambda: agcn.unit_tcn(6, 8, stride=2),
    "agcn.TCN_GCN_unit": lambda: agcn.TCN_GCN_unit(6, 8, adjacency(3, 11), stride=2),
    "ctrgcn.MultiScale_TemporalConv": lambda: ctrgcn.MultiScale_TemporalConv(6, 12),
    "ctrgcn.TCN_GCN_unit": lambda: ctrgcn.TCN_GCN_unit(9, 8, adjacency(3, 11)),
    "msg3d.MultiScale_GraphConv": lambda: msg3d.MultiScale_GraphConv(4, 6, 8, torch.eye(11).roll(1, 0), dropout=0.5),
    "msg3d.MultiScale_TemporalConv": lambda: msg3d.MultiScale_TemporalConv(6, 12, activation="tanh"),
    "pyskl.unit_gcn, pre": lambda: pyskl.unit_gcn(6, 8, adjacency(3, 11), "offset", with_res=True),
    "pyskl.unit_gcn, post": lambda: pyskl.unit_gcn(6, 8, adjacency(3, 11), conv_pos="post"),
    "pyskl.unit_aagcn": lambda: pyskl.unit_aagcn(6, 8, adjacency(3, 11)),
    "pyskl.unit_ctrgcn": lambda: pyskl.unit_ctrgcn(16, 8, adjacency(3, 11)),
    "pyskl.MSGCN": lambda: pyskl.MSGCN(4, 6, 8, torch.eye(11).roll(1, 0)),
    "pyskl.unit_tcn": lambda: pyskl.unit_tcn(6, 8, dropout=0.5),
    "pyskl.mstcn": lambda: pyskl.mstcn(6, 20, dropout=0.5),
    "pyskl.MSTCN": lambda: pyskl.MSTCN(6, 20, stride=2),
}

#: Behind a maximum, or behind branches.
UNFOLDED = {
    "ctrgcn.MultiScale_TemporalConv": ["branches.4.4"],
    "ctrgcn.TCN_GCN_unit": ["tcn1.branches.2.4"],
    "msg3d.MultiScale_TemporalConv": ["branches.4.4"],
    "pyskl.mstcn": ["transform.0"],
    "pyskl.MSTCN": ["branches.4.4"],
}


@pytest.mark.parametrize("kind", UNITS)
def test_units_are_folded(kind: str) -> None:
    unit = randomized(UNITS[kind]()).double().eval()
    x = features(unit, 11).double()
    copied = folded(unit)
    with torch.no_grad():
        torch.testing.assert_close(copied(x), unit(x))
    norms = [name for name, module in copied.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == UNFOLDED.get(kind, [])
    again = folded(copied)  # where nothing is left to be done
    with torch.no_grad():
        torch.testing.assert_close(again(x), unit(x))


@pytest.mark.parametrize("kind", UNITS)
def test_norms_without_running_statistics_stay(kind: str) -> None:
    unit = UNITS[kind]().eval()
    for norm in unit.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    x = features(unit, 11)
    torch.testing.assert_close(folded(unit)(x), unit(x))


def test_a_norm_without_weights_is_folded() -> None:
    model = randomized(nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4, affine=False)))
    x = torch.randn(2, 3, 5, 5)
    copied = folded(model)
    assert isinstance(copied[1], nn.Identity)
    torch.testing.assert_close(copied(x), model.eval()(x))


def test_shift() -> None:
    x = torch.zeros(1, 2, 1, 2)
    shift = Shift(torch.tensor([1.0, 2.0]))
    assert shift(x).flatten().tolist() == [1, 1, 2, 2]
    assert not x.any()
    with torch.inference_mode():
        assert shift(x) is x
    assert x.flatten().tolist() == [1, 1, 2, 2]

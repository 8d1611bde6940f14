"""Models for inference: `accelerate` with batch norms folded."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from layer_checks import randomized
from originals import CHANNELS, UNITS, AdaptiveUnit, Model, RefinedBlock, clips, st_gcn
from torch import Tensor, nn

import ikem_ext
from ikem_ext.nn import agcn

REFUSED = "expected to stay in evaluation mode, as accelerate"


def evaluated(model: nn.Module, x: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model(clips() if x is None else x)


@pytest.fixture(params=UNITS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(kind: str) -> Model:
    return randomized(Model(UNITS[kind][0])).eval()


def norms(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]


def test_results_stay_and_undo_restores_every_bit(kind: str, model: Model) -> None:
    model.double()
    before, state, names = dict(model.named_modules()), copy.deepcopy(model.state_dict()), norms(model)
    expected = evaluated(model, clips().double())
    report = ikem_ext.accelerate(model, inference=True)
    assert (len(report.replaced), report.left) == (UNITS[kind][2], [])
    torch.testing.assert_close(evaluated(model, clips().double()), expected)
    assert sorted(report.folded) == sorted(set(names) - set(norms(model)))
    assert {"l1.tcn1.1", "l2.tcn1.1"} <= set(report.folded)
    inside = dict(model.named_modules())
    assert all(inside[replaced.name] is replaced.unit for replaced in report.replaced)
    report.undo()
    assert all(module is before[name] for name, module in model.named_modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert list(model.state_dict()) == list(state)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(evaluated(model, clips().double()), expected)
    assert all(module.training for module in model.train().modules())


@pytest.mark.parametrize("kind", ["ctr-gcn-block"], indirect=True)
class TestOneModel:
    def test_training_mode_is_refused_before_anything_changes(self, model: Model) -> None:
        report = ikem_ext.accelerate(model, inference=True)
        around = nn.Sequential(model)
        for module in (model, model.l1, model.l2.gcn1, model.l2.gcn1.tcn1, around):
            with pytest.raises(RuntimeError, match=REFUSED):
                module.train()
        assert not any(module.training for module in model.modules())
        model.eval()
        model.fc.train()  # which holds no norm
        report.undo()
        assert around.train().training

    def test_a_model_in_training_mode_is_refused(self, model: Model) -> None:
        model.l2.train()
        before = dict(model.named_modules())
        with pytest.raises(ValueError, match=r"model: expected evaluation mode .* got l2 in training"):
            ikem_ext.accelerate(model, inference=True)
        assert all(module is before[name] for name, module in model.named_modules())
        with pytest.raises(ValueError, match="got the model in training"):
            ikem_ext.accelerate(model.train(), inference=True)

    def test_report(self, model: Model) -> None:
        lines = str(ikem_ext.accelerate(model, inference=True)).splitlines()
        assert lines[0] == "replaced 7, left 0, folded 18"
        assert "  folded   l1.gcn1.tcn1.branches.0.3.bn" in lines
        assert lines.count("  folded   l1.tcn1.1") == 1

    def test_compiles_copies_and_pickles(self, model: Model) -> None:
        ikem_ext.accelerate(model, inference=True)
        expected = evaluated(model)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(evaluated(compiled), expected)
        copied = copy.deepcopy(model)
        with pytest.raises(RuntimeError, match=REFUSED):
            copied.train()
        assert copied.l1.eval().train.args[0] is copied.l1
        assert torch.equal(evaluated(copied), expected)

    def test_undo_follows_device_and_dtype(self, model: Model) -> None:
        expected = evaluated(model)
        report = ikem_ext.accelerate(model, inference=True)
        model.double()
        report.undo()
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
        torch.testing.assert_close(evaluated(model, clips().double()).float(), expected)

    def test_hooks_of_a_unit_go_on_and_can_be_removed(self, model: Model) -> None:
        calls: list[int] = []
        handle = model.l1.gcn1.tcn1.register_forward_hook(lambda *_: calls.append(1))
        report = ikem_ext.accelerate(model, inference=True)
        assert [left.name for left in report.left] == ["l1.gcn1"]  # the block, which would not call it
        assert "l1.gcn1.tcn1" in [replaced.name for replaced in report.replaced]
        evaluated(model)
        handle.remove()
        evaluated(model)
        assert calls == [1]

    def test_without_verification(self, model: Model) -> None:
        expected = evaluated(model)
        assert len(ikem_ext.accelerate(model, verify=False, inference=True).folded) == 18
        torch.testing.assert_close(evaluated(model), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))

    def test_a_second_time_folds_nothing(self, model: Model) -> None:
        ikem_ext.accelerate(model, inference=True)
        again = ikem_ext.accelerate(model, inference=True)
        assert (again.replaced, again.folded) == ([], [])

    def test_after_acceleration_for_training(self, model: Model) -> None:
        expected = evaluated(model)
        first = ikem_ext.accelerate(model)
        second = ikem_ext.accelerate(model, inference=True)
        assert (len(first.replaced), len(second.replaced), len(second.folded)) == (7, 0, 18)
        torch.testing.assert_close(evaluated(model), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
        second.undo()
        first.undo()
        assert torch.equal(evaluated(model), expected)


def test_a_unit_that_computes_something_else_in_evaluation_keeps_its_norm() -> None:
    class Other(RefinedBlock):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + (0 if self.training else 1)

    Other.__name__ = "TCN_GCN_unit"
    model = randomized(nn.Sequential(Other(CHANNELS, CHANNELS))).eval()
    original = model[0]
    expected = evaluated(model)
    report = ikem_ext.accelerate(model, inference=True)
    assert str(report.left[0]).startswith("0: the output would differ from the original's in evaluation mode")
    assert model[0] is original
    assert [str(replaced) for replaced in report.replaced] == [
        "0.gcn1: ctrgcn.unit_gcn",
        "0.tcn1: ctrgcn.MultiScale_TemporalConv",
    ]
    torch.testing.assert_close(evaluated(model), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


class Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Shifted(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return 1 + super().forward(x)


def pair(conv: nn.Module | None = None, norm: nn.Module | None = None) -> nn.Sequential:
    conv = nn.Conv2d(CHANNELS, 4, 3, padding=1, padding_mode="circular") if conv is None else conv
    return nn.Sequential(conv, nn.BatchNorm2d(4) if norm is None else norm, nn.ReLU())


def hooked() -> nn.Sequential:
    sequence = pair()
    sequence[0].register_forward_hook(lambda *_: None)
    return sequence


def other_forward() -> nn.Sequential:
    return type("Mine", (nn.Sequential,), {"forward": lambda self, x: self[0](x)})(*pair())


PAIRS: dict[str, tuple[Callable[[], nn.Module], list[str], list[str]]] = {
    "a pair": (pair, ["0.1"], []),
    "without parameters": (lambda: pair(norm=nn.BatchNorm2d(4, affine=False)), ["0.1"], []),
    "with a stride": (lambda: pair(nn.Conv2d(CHANNELS, 4, (9, 1), (2, 1), dilation=(1, 2), bias=False)), ["0.1"], []),
    "hooks": (hooked, [], ["0.1: it or the convolution before it has hooks, which would no longer run"]),
    "another convolution": (
        lambda: pair(Doubled(CHANNELS, 4, 1)),
        [],
        ["0.1: the convolution before it is a Doubled, with its own forward"],
    ),
    "another norm": (lambda: pair(norm=Shifted(4)), [], ["0.1: it is a Shifted, with its own forward"]),
    "parametrized": (
        lambda: pair(nn.utils.parametrizations.weight_norm(nn.Conv2d(CHANNELS, 4, 1))),
        [],
        ["0.1: it or the convolution before it is parametrized"],
    ),
    "no statistics": (
        lambda: pair(norm=nn.BatchNorm2d(4, track_running_stats=False)),
        [],
        ["0.1: it has no running statistics"],
    ),
    "another order": (lambda: nn.Sequential(nn.BatchNorm2d(CHANNELS), nn.Conv2d(CHANNELS, 4, 1)), [], []),
    "no sequence": (other_forward, [], []),
}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("case", PAIRS)
def test_pairs_outside_of_units(case: str, verify: bool) -> None:
    make, folded, left = PAIRS[case]
    model = randomized(nn.Sequential(make())).eval()
    expected = evaluated(model)
    report = ikem_ext.accelerate(model, verify=verify, inference=True)
    assert (report.folded, [str(each) for each in report.left]) == (folded, left)
    torch.testing.assert_close(evaluated(model), expected, rtol=1e-4, atol=1e-5)
    assert vars(model).keys() == vars(nn.Sequential()).keys() | ({"train"} if folded else set())
    report.undo()
    assert torch.equal(evaluated(model), expected)
    assert "train" not in vars(model)


def test_what_two_places_share_is_folded_in_both() -> None:
    shared = pair()
    model = randomized(nn.ModuleList([shared, nn.Sequential(shared), shared])).eval()
    expected = evaluated(shared)
    report = ikem_ext.accelerate(model, inference=True)
    assert report.folded == ["0.1"]
    assert model[0] is model[1][0] is model[2]
    torch.testing.assert_close(evaluated(model[1]), expected)
    report.undo()
    assert torch.equal(evaluated(model[2]), expected)


def test_one_convolution_with_two_norms() -> None:
    conv = nn.Conv2d(CHANNELS, 4, 1)
    model = randomized(nn.ModuleList([pair(conv), pair(conv)])).eval()
    expected = [evaluated(each) for each in model]
    ikem_ext.accelerate(model, inference=True)
    torch.testing.assert_close([evaluated(each) for each in model], expected)


def test_units_of_ours_are_folded_too() -> None:
    layout = ikem_ext.get_layout("sbu15")
    model = randomized(nn.Sequential(agcn.TCN_GCN_unit(CHANNELS, 4, layout.adjacency()))).eval()
    expected = evaluated(model)
    report = ikem_ext.accelerate(model, inference=True)
    assert report.folded == ["0.gcn1.down.1", "0.gcn1.bn", "0.tcn1.bn", "0.residual.bn"]
    torch.testing.assert_close(evaluated(model), expected, rtol=1e-4, atol=1e-4)


def test_a_unit_that_is_the_model_itself_is_told() -> None:
    unit = randomized(AdaptiveUnit(CHANNELS, CHANNELS)).eval()
    assert [str(left) for left in ikem_ext.accelerate(unit, inference=True).left] == [
        "the model: it is the model itself, with no module around it in which to replace it"
    ]
    block = randomized(st_gcn(CHANNELS, CHANNELS)).eval()
    report = ikem_ext.accelerate(block, inference=True)
    assert [str(replaced) for replaced in report.replaced] == ["gcn: stgcn.ConvTemporalGraphical"]
    assert report.folded == ["tcn.3"]


def test_a_train_of_the_models_own_goes_on() -> None:
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True) -> Frozen:
            self.asked = mode
            return super().train(mode)

    model = randomized(Frozen(*pair())).eval()
    report = ikem_ext.accelerate(model, inference=True)
    del model.asked
    model.eval()
    assert model.asked is False
    report.undo()
    assert model.train().asked and "train" not in vars(model)


def test_a_model_for_inference_can_be_pickled() -> None:
    model = randomized(nn.Sequential(*pair())).eval()
    ikem_ext.accelerate(model, inference=True)
    loaded = pickle.loads(pickle.dumps(model))  # our own bytes
    assert torch.equal(evaluated(loaded), evaluated(model))
    with pytest.raises(RuntimeError, match=REFUSED):
        loaded.train()


@pytest.mark.parametrize("kind", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_weights_that_are_made_of_others_stay(kind: Callable[[nn.Module], nn.Module]) -> None:
    unit = agcn.unit_tcn(4, 8)
    kind(unit.conv)
    model = nn.Sequential(pair(), unit).eval()
    x = clips()
    expected = evaluated(model, x)
    report = ikem_ext.accelerate(model, inference=True)
    assert report.folded == ["0.1"]
    assert [(left.name, left.reason) for left in report.left] == [("1", "it holds a module that is parametrized")]
    torch.testing.assert_close(evaluated(model, x), expected)
    report.undo()
    assert torch.equal(evaluated(model, x), expected)
    if kind is nn.utils.parametrizations.weight_norm:  # PyTorch copies no other
        torch.testing.assert_close(evaluated(ikem_ext.nn.folded(model), x), expected)


def test_what_fails_halfway_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(agcn.unit_tcn):
        def fold_norms(self) -> None:
            raise RuntimeError("cannot")

    model = nn.Sequential(AdaptiveUnit(CHANNELS, CHANNELS), pair(), Broken(4, 8)).eval()
    before = dict(model.named_modules())
    with pytest.raises(RuntimeError, match="cannot"):
        ikem_ext.accelerate(model, inference=True)
    assert dict(model.named_modules()) == before
    model.train()

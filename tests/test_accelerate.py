"""Models of other projects' units, and of what is like them but for a little, before and after `accelerate`."""
# ruff: noqa: N803

from __future__ import annotations

import copy
import re
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from originals import (
    ADJACENCY,
    CHANNELS,
    CLASSES,
    CTRGC,
    JOINTS,
    UNITS,
    ActivatedMultiScale,
    AdaptiveBlock,
    AdaptiveUnit,
    ConvTemporalGraphical,
    Model,
    RefinedBlock,
    TimeUnit,
    WithGraph,
    clips,
    st_gcn,
)
from torch import Tensor, nn
from torch.nn import functional

import ikem_ext
from ikem_ext.bench import layers


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 10) -> Tensor:
    labels = torch.arange(4) % CLASSES
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        loss = functional.cross_entropy(model(clips()), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


@pytest.fixture(params=UNITS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(kind: str) -> Model:
    return Model(UNITS[kind][0])


def units(model: nn.Module) -> list[nn.Module]:
    known = tuple({unit for _, unit, _ in UNITS.values()})
    return [module for module in model.modules() if isinstance(module, known)]


def test_units_are_replaced_and_results_stay(kind: str, model: Model) -> None:
    expected = [copy.deepcopy(model).train(mode)(clips()).detach() for mode in (True, False)]
    report = ikem_ext.accelerate(model)
    _, unit, replaced = UNITS[kind]
    assert (len(report.replaced), report.left, report.unknown) == (replaced, [], [])
    made = [block.gcn1.unit if isinstance(block.gcn1, WithGraph) else block.gcn1 for block in (model.l1, model.l2)]
    assert [type(each) for each in made] == [unit] * 2
    if "dropout" not in kind:
        actual = [copy.deepcopy(model).train(mode)(clips()).detach() for mode in (True, False)]
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected[0].abs().max()))


def test_training_goes_on_with_an_optimizer_made_before(kind: str, model: Model) -> None:
    plain = copy.deepcopy(model)
    expected = train(plain, sgd(plain))
    optimizer = sgd(model)
    ikem_ext.accelerate(model, verify=False)
    torch.testing.assert_close(train(model, optimizer), expected, rtol=1e-3, atol=1e-3)


def test_state_stays_the_very_same(model: Model) -> None:
    before, parameters = model.state_dict(keep_vars=True), list(model.parameters())
    ikem_ext.accelerate(model, verify=False)
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


def test_undo_restores_the_very_modules(model: Model) -> None:
    before = dict(model.named_modules())
    report = ikem_ext.accelerate(model, verify=False)
    assert units(model)
    train(model, sgd(model), steps=2)
    model.eval()
    fast = model(clips()).detach()
    report.undo()
    assert not units(model)
    assert all(module is before[name] for name, module in model.named_modules())
    assert not any(module.training for module in model.modules())
    torch.testing.assert_close(model(clips()), fast, rtol=1e-4, atol=1e-4 * float(fast.abs().max()))
    report.undo()  # once more does nothing


def test_mode_and_dtype_are_kept_and_can_change(model: Model) -> None:
    model.eval()
    report = ikem_ext.accelerate(model, verify=False)
    assert not any(replaced.unit.training for replaced in report.replaced)
    assert model.double()(clips().double()).dtype == torch.float64
    report.undo()
    assert model.float()(clips()).dtype == torch.float32


@pytest.mark.parametrize("kind", ["2s-agcn"], indirect=True)
class TestOneModel:
    def test_compiles_in_one_graph(self, model: Model) -> None:
        ikem_ext.accelerate(model)
        model.eval()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(clips()), model(clips()))

    def test_what_is_ours_is_left_alone(self, model: Model) -> None:
        ikem_ext.accelerate(model)
        again = ikem_ext.accelerate(model)
        assert (again.replaced, again.left, again.unknown) == ([], [], [])

    def test_without_verification(self, model: Model) -> None:
        assert len(ikem_ext.accelerate(model, verify=False).replaced) == 2

    def test_random_state_and_statistics_are_undisturbed(self, model: Model) -> None:
        before, statistics = torch.get_rng_state(), copy.deepcopy(model.state_dict())
        ikem_ext.accelerate(model)
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(value, statistics[name]) for name, value in model.state_dict().items())

    def test_a_unit_that_computes_something_else_is_refused(self, model: Model) -> None:
        class Other(AdaptiveUnit):
            def forward(self, x: Tensor) -> Tensor:
                return 2 * super().forward(x)

        Other.__name__ = "unit_gcn"
        model.l1.gcn1 = original = Other(CHANNELS, CHANNELS)
        report = ikem_ext.accelerate(model)
        assert model.l1.gcn1 is original
        assert [str(left) for left in report.left] == [
            "l1.gcn1: the output would differ from the original's in training mode, for (clips, frames) = (2, 6)"
        ]
        assert [replaced.name for replaced in report.replaced] == ["l2.gcn1"]

    def test_a_unit_that_does_not_run_is_refused(self, model: Model) -> None:
        model.l1.gcn1.A = ADJACENCY[:, :3]
        assert ikem_ext.accelerate(model).left[0].reason.startswith("it does not run on cpu (")

    def test_a_unit_made_in_another_way_is_left(self, model: Model) -> None:
        del model.l1.gcn1.conv_b
        assert "not made like any that is known" in ikem_ext.accelerate(model).left[0].reason

    @pytest.mark.parametrize(
        "register",
        [
            nn.Module.register_forward_hook,
            nn.Module.register_forward_pre_hook,
            nn.Module.register_full_backward_hook,
            nn.Module.register_full_backward_pre_hook,
        ],
    )
    def test_hooks_inside_a_unit_keep_it(self, model: Model, register: Callable[..., object]) -> None:
        register(model.l1.gcn1.conv_d[0], lambda *_: None)
        assert "hooks" in ikem_ext.accelerate(model).left[0].reason

    def test_hooks_of_a_unit_go_on(self, model: Model) -> None:
        calls = []
        model.l1.gcn1.register_forward_hook(lambda *_: calls.append(1))
        ikem_ext.accelerate(model)
        model(clips())
        assert calls == [1]

    def test_a_hook_can_still_be_removed(self, model: Model) -> None:
        calls = []
        handle = model.l1.gcn1.register_forward_hook(lambda *_: calls.append(1))
        ikem_ext.accelerate(model)
        handle.remove()
        model(clips())
        assert calls == []

    def test_a_compiled_unit_is_left(self, model: Model) -> None:
        model.l1.gcn1.compile(backend="eager")
        model.l2.gcn1 = torch.compile(model.l2.gcn1, backend="eager")
        report = ikem_ext.accelerate(model)
        assert [left.name for left in report.left] == ["l1.gcn1", "l2.gcn1._orig_mod"]
        assert all("it is compiled" in left.reason for left in report.left)

    def test_attributes_of_a_unit_remain(self, model: Model) -> None:
        model.l1.gcn1.layer_number = 1
        ikem_ext.accelerate(model)
        assert (model.l1.gcn1.layer_number, model.l1.gcn1.inter_c) == (1, CHANNELS // 4)

    def test_a_module_in_two_places_stays_one(self, model: Model) -> None:
        model.l2.gcn1 = model.l1.gcn1
        report = ikem_ext.accelerate(model)
        assert len(report.replaced) == 1
        assert model.l1.gcn1 is model.l2.gcn1
        report.undo()
        assert model.l1.gcn1 is model.l2.gcn1 is report.replaced[0].original

    def test_a_module_twice_under_one_parent_stays_one(self, model: Model) -> None:
        twice = nn.Sequential(model.l1.gcn1, model.l1.gcn1)
        assert len(ikem_ext.accelerate(twice).replaced) == 1
        assert twice[0] is twice[1] is units(twice)[0]

    def test_the_model_itself_cannot_be_replaced(self, model: Model) -> None:
        report = ikem_ext.accelerate(model.l1.gcn1)
        assert "the model itself" in report.left[0].reason

    def test_report(self, model: Model) -> None:
        del model.l2.gcn1.conv_b
        assert str(ikem_ext.accelerate(model)) == (
            "replaced 1, left 1\n"
            "  replaced l1.gcn1: agcn.unit_gcn\n"
            "  left     l2.gcn1: a unit_gcn, but not made like any that is known"
        )

    def test_under_distributed_data_parallel(self, model: Model, tmp_path: Path) -> None:
        expected = train(copy.deepcopy(model), sgd(model), steps=1)
        store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        try:
            parallel = nn.parallel.DistributedDataParallel(model)
            report = ikem_ext.accelerate(parallel)
            assert [replaced.name for replaced in report.replaced] == ["module.l1.gcn1", "module.l2.gcn1"]
            torch.testing.assert_close(train(parallel, sgd(parallel), steps=1), expected, rtol=1e-3, atol=1e-3)
        finally:
            torch.distributed.destroy_process_group()


Graph = namedtuple("Graph", ["features", "graph"])
features = layers.published_agcn


def derived(parent: type[nn.Module], **members: object) -> type[nn.Module]:
    """A class of the same name with other members."""
    return type(parent.__name__, (parent,), members)


def in_evaluation(unit: nn.Module, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    return features(unit, x) if unit.training else (features(unit, x), unit.PA)


def overwrites(unit: nn.Module, x: Tensor) -> Tensor:
    y = features(unit, x)
    x.data.mul_(2)
    return y


def keeps(unit: nn.Module, x: Tensor) -> Tensor:
    unit.last = features(unit, x)
    return unit.last


def collects(unit: nn.Module, x: Tensor) -> Tensor:
    unit.__dict__.setdefault("all", []).append(x)
    return features(unit, x)


def counts(unit: nn.Module, x: Tensor) -> Tensor:
    unit.down.__dict__["calls"] = vars(unit.down).get("calls", 0) + 1
    return features(unit, x)


def decays(unit: nn.Module, x: Tensor) -> Tensor:
    y = features(unit, x)
    unit.A = 0.5 * unit.A
    return y


def registers(unit: nn.Module, x: Tensor) -> Tensor:
    unit.register_buffer("mean", x.mean().detach())
    return features(unit, x)


def without_autocast(unit: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return features(unit, x)


#: What a unit may return, keep or do beyond what 2s-AGCN's does, and what is said of it.
BEHAVIORS: dict[str, tuple[Callable[[nn.Module, Tensor], object], str]] = {
    "a pair": (
        lambda unit, x: (features(unit, x), unit.PA),
        r"it returns \(Tensor, Parameter\), the replacement Tensor,",
    ),
    "one in a tuple": (lambda unit, x: (features(unit, x),), r"it returns \(Tensor,\), the replacement Tensor,"),
    "a list": (lambda unit, x: [features(unit, x)], r"it returns \[Tensor\], the replacement Tensor,"),
    "a dictionary": (lambda unit, x: {"y": features(unit, x)}, "it returns {'y': Tensor}, the replacement Tensor,"),
    "a named tuple": (lambda unit, x: Graph(features(unit, x), None), r"it returns Graph\(features=Tensor, graph=None"),
    "nothing": (lambda unit, x: None, "the output is NoneType, the replacement's Tensor, in training"),
    "a pair in evaluation": (in_evaluation, r"it returns \(Tensor, Parameter\), .* in evaluation mode"),
    "another shape": (lambda unit, x: features(unit, x)[:, :1], "the shape of the output would differ"),
    "no clip of one": (lambda unit, x: features(unit, x).squeeze(0), r"the shape .* for \(clips, frames\) = \(1, 9\)"),
    "as many frames": (lambda unit, x: features(unit, x)[:, :, :8], r"the shape .* for \(clips, frames\) = \(1, 9\)"),
    "another dtype": (lambda unit, x: features(unit, x).float(), "the dtype of the output would differ"),
    "the dtype under autocast": (without_autocast, "the dtype of the output would differ .* under autocast"),
    "no gradient": (lambda unit, x: features(unit, x).detach(), "the requires_grad of the output would differ"),
    "a gradient less": (lambda unit, x: features(unit, x.detach() + 0 * x), "the gradient of x would differ"),
    "its input overwritten": (overwrites, "x, after the call, would differ"),
    "an attribute": (keeps, "its forward sets self.last, which the replacement's does not"),
    "more in a list": (collects, "its forward sets self.all, which the replacement's does not"),
    "an attribute inside": (counts, "its forward sets self.down.calls, which the replacement's does not"),
    "another adjacency": (decays, "self.A would differ"),
    "a buffer": (registers, "self.mean would differ"),
}


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_a_unit_that_does_something_else_is_left(behavior: str) -> None:
    forward, reason = BEHAVIORS[behavior]
    original = derived(AdaptiveUnit, forward=lambda self, x: forward(self, x))(CHANNELS, 2 * CHANNELS)
    model = nn.Sequential(original)
    report = ikem_ext.accelerate(model)
    assert report.replaced == [] and model[0] is original
    assert re.search(reason, report.left[0].reason), report.left[0].reason


@pytest.mark.parametrize("second", ["the same", "detached", "another"])
def test_all_outputs_and_arguments_are_compared(second: str) -> None:
    def forward(self: nn.Module, x: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
        y = layers.published_conv_temporal_graphical(self, x, A)
        return y, {"the same": A, "detached": A.detach(), "another": 2 * A}[second]

    report = ikem_ext.accelerate(nn.Sequential(derived(ConvTemporalGraphical, forward=forward)(CHANNELS, CHANNELS)))
    reasons = {
        "detached": ["0: the requires_grad of the output[1] would differ from the original's"],
        "another": ["0: the output[1] would differ from the original's"],
    }
    where = " in training mode, for (clips, frames) = (2, 6)"
    assert [str(left) for left in report.left] == [reason + where for reason in reasons.get(second, [])]


def test_the_gradient_of_an_adjacency_is_compared() -> None:
    def forward(self: nn.Module, x: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
        return layers.published_conv_temporal_graphical(self, x, A.detach()), A

    report = ikem_ext.accelerate(nn.Sequential(derived(ConvTemporalGraphical, forward=forward)(CHANNELS, CHANNELS)))
    assert report.left[0].reason.startswith("the gradient of A would differ")


def test_an_adjacency_is_also_left_out() -> None:
    def forward(self: nn.Module, x: Tensor, A: Tensor | None = None, alpha: Tensor | float = 1) -> Tensor:
        return layers.published_ctrgc(self, x, torch.eye(x.shape[-1]).to(x) if A is None else A, alpha)

    report = ikem_ext.accelerate(nn.Sequential(derived(CTRGC, forward=forward)(CHANNELS, CHANNELS)))
    assert report.left[0].reason.startswith("the output would differ")


class ChannelsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)


def test_an_output_stays_contiguous() -> None:
    unit = derived(AdaptiveUnit, forward=lambda self, x: features(self, x).contiguous())(CHANNELS, CHANNELS)
    unit.bn = nn.Sequential(unit.bn, ChannelsLast())
    report = ikem_ext.accelerate(nn.Sequential(unit))
    assert report.left[0].reason.startswith("the output would no longer be contiguous")


def several_clips_alone(unit: nn.Module, x: Tensor) -> Tensor:
    if len(x) == 1:
        raise ValueError("one clip")
    return features(unit, x)


def without_autocast_alone(unit: nn.Module, x: Tensor) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        raise RuntimeError("autocast")
    return features(unit, x)


@pytest.mark.parametrize("forward", [several_clips_alone, without_autocast_alone])
def test_where_a_unit_does_not_run_nothing_is_compared(forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
    unit = derived(AdaptiveUnit, forward=lambda self, x: forward(self, x))(CHANNELS, CHANNELS)
    assert len(ikem_ext.accelerate(nn.Sequential(unit)).replaced) == 1


#: What others may use of a unit beyond what 2s-AGCN's has, and what is said of it.
INTERFACES: dict[str, tuple[dict[str, object], str]] = {
    "one more argument": (
        {"forward": lambda self, x, mask=None: features(self, x)},
        "its forward takes (x, mask=None), the replacement's (x)",
    ),
    "another name": ({"forward": lambda self, y: features(self, y)}, "its forward takes (y), the replacement's (x)"),
    "a default": ({"forward": lambda self, x=None: x}, "its forward takes (x=None), the replacement's (x)"),
    "by name alone": (
        {"forward": lambda self, *, x: features(self, x)},
        "its forward takes (*, x), the replacement's (x)",
    ),
    "anything": (
        {"forward": lambda self, *args, **kwargs: features(self, *args, **kwargs)},
        "its forward takes (*args, **kwargs), the replacement's (x)",
    ),
    "its own call": ({"__call__": lambda self, x: (x, x)}, "it has its own __call__, which would no longer be called"),
    "state": ({"get_extra_state": dict}, "it has its own get_extra_state, which would no longer be called"),
    "modes": ({"train": lambda self, mode=True: self}, "it has its own train, which would no longer be called"),
    "items": (
        {"__getitem__": lambda self, k: self.PA[k]},
        "it has its own __getitem__, which would no longer be called",
    ),
    "a method": ({"sparsity": lambda self: self.PA.abs().sum()}, "it has sparsity, which the replacement has not"),
    "a property": ({"graph": property(lambda self: self.A + self.PA)}, "it has graph, which the replacement has not"),
    "a constant": ({"groups": 8}, "it has groups, which the replacement has not"),
}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("interface", INTERFACES)
def test_a_unit_of_another_interface_is_left(interface: str, verify: bool) -> None:
    members, reason = INTERFACES[interface]
    model = nn.Sequential(derived(AdaptiveUnit, **members)(CHANNELS, CHANNELS))
    assert [str(left) for left in ikem_ext.accelerate(model, verify=verify).left] == [f"0: {reason}"]


@pytest.mark.parametrize(
    ("parent", "forward", "reason"),
    [
        (
            CTRGC,
            lambda self, x, alpha=1, A=None: x,
            "its forward takes (x, alpha=1, A=None), the replacement's (x, A=None",
        ),
        (ConvTemporalGraphical, lambda self, x: (x, self.A), "its forward takes (x), the replacement's (x, A)"),
    ],
    ids=["another order", "one argument less"],
)
def test_a_unit_of_other_arguments_is_left(
    parent: type[nn.Module], forward: Callable[..., object], reason: str
) -> None:
    model = nn.Sequential(derived(parent, forward=forward)(CHANNELS, CHANNELS))
    assert ikem_ext.accelerate(model, verify=False).left[0].reason.startswith(reason)


@pytest.mark.parametrize("verify", [True, False])
def test_a_forward_of_the_module_itself_is_not_lost(verify: bool) -> None:
    model = nn.Sequential(AdaptiveUnit(CHANNELS, CHANNELS))
    model[0].forward = lambda x: x
    report = ikem_ext.accelerate(model, verify=verify)
    assert [str(left) for left in report.left] == ["0: it has its own forward, which would no longer be called"]


def test_what_a_unit_has_for_itself_alone_does_not_matter() -> None:
    unit = derived(AdaptiveUnit, _scaled=lambda self, x: x, extra_repr=lambda self: "mine", __doc__="Mine.")
    assert len(ikem_ext.accelerate(nn.Sequential(unit(CHANNELS, CHANNELS))).replaced) == 1


class Hierarchical(nn.Module):
    """With parts of parts of a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ModuleList([nn.Conv2d(CHANNELS, CHANNELS, 1)])
        self.PA = nn.Parameter(torch.rand(2, 3, JOINTS, JOINTS))


class Windowed(nn.Module):
    """With the parts of a graph below one another."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1))
        self.A_scales = torch.rand(6 * JOINTS, JOINTS)


class Given(nn.Module):
    """That is given its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, x: Tensor, A: Tensor) -> Tensor:
        return self.conv(A @ x)


class Attention(nn.Module):
    """None: what is square here are places, or a layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Linear(JOINTS, JOINTS)
        self.register_buffer("places", torch.zeros(JOINTS, JOINTS, dtype=torch.long))
        self.embedding = nn.Parameter(torch.rand(4 * JOINTS, JOINTS))


class Around(nn.Module):
    """Holds the graph for all that is inside."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.register_buffer("A", ADJACENCY)
        self.net = nn.Sequential(inside, inside)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Hierarchical, f"a Hierarchical, which holds an adjacency PA (2, 3, {JOINTS}, {JOINTS})"),
        (Windowed, f"a Windowed, which holds an adjacency A_scales ({6 * JOINTS}, {JOINTS})"),
        (Given, "a Given, which takes an adjacency A"),
    ],
)
def test_unknown_graph_convolutions_are_told(kind: type[nn.Module], reason: str) -> None:
    assert str(ikem_ext.accelerate(Around(kind()))) == (
        f"replaced 0, left 0, unknown 1\n  unknown  net.0: {reason}, but is no graph convolution that is known"
    )


def test_the_model_itself_may_be_an_unknown_graph_convolution() -> None:
    assert "\n  unknown  the model: a Given, which takes" in str(ikem_ext.accelerate(Given()))


def test_what_is_no_graph_convolution_is_not_told() -> None:
    assert str(ikem_ext.accelerate(nn.Sequential(Attention(), nn.Conv2d(3, 3, 3)))) == (
        "replaced 0, left 0\n  no module looks like a graph convolution of another project"
    )


def test_what_is_known_is_not_told_again() -> None:
    model = Around(AdaptiveUnit(CHANNELS, CHANNELS))
    assert ikem_ext.accelerate(model).unknown == []
    del model.net[0]
    model.net.append(derived(AdaptiveUnit, groups=8)(CHANNELS, CHANNELS))
    report = ikem_ext.accelerate(model)
    assert (len(report.left), report.unknown) == (1, [])


def test_only_modules_are_taken() -> None:
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got list"):
        ikem_ext.accelerate([])  # type: ignore[arg-type]


def dropped_again(block: nn.Module, x: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    y, A = type(block).__mro__[1].forward(block, x, A)
    return block.more(y), A


def dropped_before(block: nn.Module, x: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    y, A = block.gcn(x, A)
    return block.relu(block.tcn(block.more(y)) + block.residual(x)), A


@pytest.mark.parametrize("forward", [st_gcn.forward, dropped_again, dropped_before])
def test_dropout_is_compared_by_where_it_stands(forward: Callable[..., object]) -> None:
    block = derived(st_gcn, forward=lambda self, x, A: forward(self, x, A))(CHANNELS, CHANNELS, dropout=0.5)
    block.more = nn.Dropout(0.5)
    model = nn.Sequential(block)
    report = ikem_ext.accelerate(model)
    assert model[0].tcn[4].p == model[0].more.p == 0.5
    if forward is st_gcn.forward:
        assert [replaced.name for replaced in report.replaced] == ["0", "0.gcn"]
    else:
        assert report.left[0].reason.endswith("in training mode, for (clips, frames) = (2, 6)")
        assert [replaced.name for replaced in report.replaced] == ["0.gcn"]


@pytest.mark.parametrize("verify", [True, False])
def test_the_units_of_a_block_that_is_left_are_replaced(verify: bool) -> None:
    model = nn.Sequential(derived(RefinedBlock, groups=8)(CHANNELS, 2 * CHANNELS, 2))
    block = model[0]
    report = ikem_ext.accelerate(model, verify=verify)
    assert [str(left) for left in report.left] == ["0: it has groups, which the replacement has not"]
    assert model[0] is block
    assert [str(replaced) for replaced in report.replaced] == [
        "0.gcn1: ctrgcn.unit_gcn",
        "0.tcn1: ctrgcn.MultiScale_TemporalConv",
        "0.residual: agcn.unit_tcn",
    ]


def test_a_block_of_a_unit_that_is_left_is_replaced() -> None:
    block = AdaptiveBlock(CHANNELS, CHANNELS)
    block.gcn1 = unit = derived(AdaptiveUnit, groups=8)(CHANNELS, CHANNELS)
    model = nn.Sequential(block)
    expected = copy.deepcopy(model)(clips())
    report = ikem_ext.accelerate(model)
    assert [left.name for left in report.left] == ["0.gcn1"]
    assert [replaced.name for replaced in report.replaced] == ["0", "0.tcn1"]
    assert model[0].gcn1 is unit
    torch.testing.assert_close(model(clips()), expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))


def test_a_hook_in_a_block_leaves_the_block_alone() -> None:
    model = nn.Sequential(RefinedBlock(CHANNELS, CHANNELS))
    calls: list[int] = []
    model[0].tcn1.register_forward_hook(lambda *_: calls.append(1))
    report = ikem_ext.accelerate(model)
    assert [left.name for left in report.left] == ["0"] and "hooks" in report.left[0].reason
    assert len(report.replaced) == 2
    model(clips())
    assert calls == [1]


def test_nothing_is_replaced_within_a_compiled_block() -> None:
    model = nn.Sequential(AdaptiveBlock(CHANNELS, CHANNELS), torch.compile(AdaptiveBlock(CHANNELS, CHANNELS)))
    model[0].compile(backend="eager")
    report = ikem_ext.accelerate(model)
    assert [left.name for left in report.left] == ["0", "1._orig_mod"]
    assert report.replaced == []


def test_another_activation_of_a_block_is_seen() -> None:
    model = nn.Sequential(AdaptiveBlock(CHANNELS, CHANNELS))
    model[0].relu = nn.Tanh()
    assert ikem_ext.accelerate(model).left[0].reason.startswith("the output would differ")


def test_the_activation_of_a_temporal_unit_may_be_taken_away() -> None:
    model = nn.Sequential(ActivatedMultiScale(CHANNELS, CHANNELS))
    model[0].act = nn.Identity()
    expected = copy.deepcopy(model)(clips())
    assert len(ikem_ext.accelerate(model).replaced) == 1
    torch.testing.assert_close(model(clips()), expected, rtol=1e-4, atol=1e-4)


def test_a_convolution_of_ours_is_no_unit_of_that_name() -> None:
    assert ikem_ext.accelerate(nn.Sequential(ikem_ext.nn.TemporalConv(8, 8, 9))).left == []


def test_temporal_units_do_not_make_a_graph_convolution_known() -> None:
    inside = Given()
    inside.time = TimeUnit(CHANNELS, CHANNELS)
    report = ikem_ext.accelerate(nn.Sequential(inside))
    assert [str(each) for each in report.replaced] == ["0.time: agcn.unit_tcn"]
    assert [each.name for each in report.unknown] == ["0"]


def test_what_follows_a_unit_may_still_change_its_output_in_place() -> None:
    """With the channels last, too, as models are trained on the CPU."""

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unit = TimeUnit(CHANNELS, CHANNELS)

        def forward(self, x: Tensor) -> Tensor:
            return functional.relu(self.unit(x), inplace=True)

    model = Around().double()
    x = clips().double().to(memory_format=torch.channels_last)
    expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    assert len(ikem_ext.accelerate(model).replaced) == 1
    actual = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    torch.testing.assert_close(actual, expected)

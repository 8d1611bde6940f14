"""Checks that every unit of `ikem_ext.nn` has to pass that stands in for one of another project.

A test module describes its unit once and gets the tests by inheritance::

    class TestUnitGcn(LayerChecks):
        published = staticmethod(layers.published_agcn)       # the original formulation, with the unit's parameters

        def units(self):
            yield agcn.unit_gcn(6, 16, adjacency(3, 25))      # the first is what most of the tests take
            ...

Where a unit takes more than features, ``others`` gives the rest. Where golden files hold what the project's own code
gave, the class inherits from `GoldenLayerChecks` and names them::

        golden_units = {"2s_agcn_unit_gcn": lambda adjacency: agcn.unit_gcn(6, 16, adjacency)}

and ``golden_others`` gives the rest of what these units take.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from operation_checks import assert_as_accurate, cotangent
from torch import Tensor, nn

from ikem_ext.reference import plain_operations

Run = Callable[..., Tensor]
FRAMES = 7


def adjacency(parts: int, joints: int) -> Tensor:
    """With zeros, as a skeleton's."""
    generator = torch.Generator().manual_seed(parts * joints)
    size = 2, parts, joints, joints
    values, kept = torch.rand(size, generator=generator, dtype=torch.float32, device="cpu")  # whatever the defaults
    return values * (kept < 0.3)


def randomized(unit: nn.Module) -> nn.Module:
    """Parameters and statistics of which none is negligible, as the original initialization leaves some."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
        for part in unit.modules():
            if isinstance(part, nn.BatchNorm2d) and part.track_running_stats:
                part.running_mean.copy_(torch.randn(part.num_features, generator=generator))
                part.running_var.copy_(1 + torch.rand(part.num_features, generator=generator))
    return unit


def features(unit: nn.Module, joints: int, frames: int = FRAMES, clips: int = 3) -> Tensor:
    """An input of as many channels as the unit takes."""
    channels = next(part.in_channels for part in unit.modules() if hasattr(part, "in_channels"))
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(clips, channels, frames, joints, generator=generator)


def results(run: Run, unit: nn.Module, x: Tensor, others: Sequence[Any] = ()) -> dict[str, Tensor]:
    """Output, gradients and what batch norms remember."""
    x = x.detach().requires_grad_()
    leaves = {"x": x, **dict(unit.named_parameters())}
    torch.manual_seed(0)  # for dropout
    y = run(unit, x, *others)
    gradients = torch.autograd.grad(y, list(leaves.values()), cotangent(y), allow_unused=True)
    found = {f"gradient of {name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    found |= {f"buffer {name}": buffer.clone() for name, buffer in unit.named_buffers()}
    return {"output": y.detach(), **{name: value for name, value in found.items() if value is not None}}


def assert_equal_results(ours: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    """Requires the same names, and values that agree to ``tolerance`` of the largest."""
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        largest = 1 + (value.abs().max().item() if value.numel() else 0)
        torch.testing.assert_close(
            ours[name], value, rtol=0, atol=tolerance * largest, msg=lambda text, name=name: f"{name}: {text}"
        )


class LayerChecks(ABC):
    """Inherit, fill in, and pytest runs them all; see the module's docstring."""

    published: Run  # as a static method
    joints: ClassVar[int] = 11
    operation: ClassVar[str] = "graph_conv"  # one that the unit computes through
    # Of which rounding errors are compared: many where maxima and ReLUs inside let gradients jump at some.
    clips_under_autocast: ClassVar[int] = 3
    #: By how much gradients under autocast may err more than those of the published formulation.
    error_under_autocast: ClassVar[float] = 1.5

    @abstractmethod
    def units(self) -> Iterator[nn.Module]:
        """New units for ``joints`` joints: at least one for each branch."""

    def others(self, unit: nn.Module) -> tuple[Any, ...]:
        return ()

    @staticmethod
    def run(unit: nn.Module, x: Tensor, *others: Any) -> Tensor:
        return unit(x, *others)

    def compare(self, unit: nn.Module, x: Tensor) -> None:
        """Ours with the published formulation, from the same state."""
        state = {name: value.clone() for name, value in unit.state_dict().items()}
        ours = self.results_of(unit, x)
        unit.load_state_dict(state)
        assert_equal_results(ours, self.results_of(unit, x, type(self).published))

    def results_of(self, unit: nn.Module, x: Tensor, run: Run | None = None) -> dict[str, Tensor]:
        others = [value.to(x) if isinstance(value, Tensor) else value for value in self.others(unit)]
        return results(run or self.run, unit, x, others)

    def unit_and_input(self, frames: int = FRAMES, clips: int = 3) -> tuple[nn.Module, Tensor]:
        unit = randomized(next(self.units()))
        return unit, features(unit, self.joints, frames, clips)

    @pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
    def test_matches_the_published_formulation(self, training: bool) -> None:
        for unit in self.units():
            self.compare(randomized(unit).double().train(training), features(unit, self.joints).double())

    def test_takes_channels_last(self) -> None:
        unit, x = self.unit_and_input()
        unit, x = unit.double().eval(), x.double()
        last = x.contiguous(memory_format=torch.channels_last)
        assert_equal_results(self.results_of(unit, last), self.results_of(unit, x))

    def test_takes_one_frame(self) -> None:
        unit, x = self.unit_and_input(frames=1)
        self.compare(unit.double(), x.double())

    @pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
    def test_takes_an_empty_batch(self, training: bool) -> None:
        unit, x = self.unit_and_input(clips=0)
        unit.train(training)
        found = self.results_of(unit, x)
        assert found["output"].shape == self.results_of(unit, x, type(self).published)["output"].shape
        assert not any(value.any() for name, value in found.items() if name.startswith("gradient"))

    def test_as_accurate_as_published_under_autocast(self) -> None:
        unit, x = self.unit_and_input(clips=self.clips_under_autocast)
        unit.eval()
        with torch.autocast("cpu", torch.bfloat16):
            ours, plain = self.results_of(unit, x), self.results_of(unit, x, type(self).published)
        truth = self.results_of(unit.double(), x.double(), type(self).published)
        assert {name: value.dtype for name, value in ours.items()} == {
            name: value.dtype for name, value in plain.items()
        }
        assert_as_accurate(ours["output"], plain["output"], truth["output"], ulps=2)
        # Of all gradients together: some are sums that happen to vanish.
        error, allowed = (
            torch.cat([(found[name] - truth[name]).flatten() for name in found if name.startswith("gradient")]).norm()
            for found in (ours, plain)
        )
        assert error <= self.error_under_autocast * allowed

    def test_compiles_without_graph_breaks(self) -> None:
        unit, x = self.unit_and_input()
        unit, x = unit.double().eval(), x.double()
        torch.compiler.reset()  # the many units are one function to torch.compile
        compiled = torch.compile(self.run, fullgraph=True, backend="aot_eager")
        assert_equal_results(self.results_of(unit, x, compiled), self.results_of(unit, x))

    @pytest.mark.parametrize("plain", [False, True], ids=["operations", "plain"])
    def test_exports_with_any_number_of_clips_and_frames(self, plain: bool) -> None:
        unit, x = self.unit_and_input()
        others, run = self.others(unit), self.run

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.unit = unit

            def forward(self, x: Tensor) -> Tensor:
                return run(self.unit, x, *others)

        model = Model().eval()
        clips, frames = torch.export.Dim("clips", min=1, max=1024), torch.export.Dim("frames", min=5, max=1024)
        with plain_operations() if plain else nullcontext():
            exported = torch.export.export(
                model,
                (x,),
                dynamic_shapes=({0: clips, 2: frames},),  # PyTorch 2.10 insists on bounds
                prefer_deferred_runtime_asserts_over_guards=True,
            )
        found = {node.target for node in exported.graph.nodes}
        ours = {torch.ops.ikem_ext.refined_graph_conv.default, getattr(torch.ops.ikem_ext, self.operation).default}
        assert bool(ours & found) != plain
        more = (features(unit, self.joints, *size) for size in ((12, 1), (5, 4)))
        for batch in (x, *more):
            torch.testing.assert_close(exported.module()(batch), model(batch), rtol=1e-5, atol=1e-4 if plain else 1e-6)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
    def test_is_of_the_default_dtype(self, dtype: torch.dtype) -> None:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            for unit in self.units():
                found = self.results_of(unit, features(unit, self.joints))
                assert {value.dtype for value in found.values() if value.is_floating_point()} == {dtype}
        finally:
            torch.set_default_dtype(before)

    def test_is_built_and_runs_on_the_meta_device(self) -> None:
        unit, x = self.unit_and_input()
        expected = {name: (value.shape, value.dtype) for name, value in self.results_of(unit, x).items()}
        with torch.device("meta"):
            unit = next(self.units())
        found = self.results_of(unit, x.to("meta"))
        assert all(value.is_meta for value in found.values())
        assert {name: (value.shape, value.dtype) for name, value in found.items()} == expected

    def test_bad_features_are_named(self) -> None:
        unit, x = self.unit_and_input()
        for bad in (x[0], x[:, 1:]):
            with pytest.raises(ValueError, match=r"x: expected shape \(N, \d+, T, (V|\d+)\), got"):
                self.results_of(unit, bad)


class GoldenLayerChecks(LayerChecks):
    """Also compares with outputs and gradients of the project's own code."""

    golden_units: ClassVar[dict[str, Callable[[Tensor], nn.Module]]]

    def golden_others(self, adjacency: Tensor) -> tuple[Any, ...]:
        return ()

    def test_golden(self, golden: Callable[[str], dict[str, np.ndarray]]) -> None:
        for name, make in self.golden_units.items():
            arrays = {key: torch.from_numpy(value) for key, value in golden(f"layer_{name}").items()}
            constant = arrays["adjacency"].float()  # as the projects held it
            unit = make(constant).double().eval()
            state = {key.removeprefix("param/"): value for key, value in arrays.items() if key.startswith("param/")}
            unit.load_state_dict(state, strict=True)
            x = arrays["input"].requires_grad_()
            y = self.run(unit, x, *self.golden_others(arrays["adjacency"]))
            torch.testing.assert_close(y, arrays["output"], rtol=0, atol=1e-8)
            y.backward(arrays["cotangent"])
            torch.testing.assert_close(x.grad, arrays["grad_input"], rtol=0, atol=1e-6)
            expected = {key: value for key, value in arrays.items() if key.startswith("grad/")}
            assert expected.keys() == {f"grad/{key}" for key, _ in unit.named_parameters()}
            for key, parameter in unit.named_parameters():
                torch.testing.assert_close(parameter.grad, expected[f"grad/{key}"], rtol=0, atol=1e-6)


def spread(weight: Tensor) -> Any:
    """Its standard deviation, to be compared with an expected one."""
    return pytest.approx(weight.detach().std(correction=0).item(), rel=0.1)

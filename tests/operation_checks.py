"""Checks that every operation of the package has to pass, whatever it computes.

A test module describes its operation once and gets the tests by inheritance::

    class TestGraphConv(OperationChecks):
        operation = staticmethod(ikem_ext.graph_conv)
        reference = staticmethod(ikem_ext.reference.graph_conv)
        differentiable = ("x", "weight", "bias", "adjacency")

        def inputs(self, dtype=torch.float32, device="cpu", seed=0):
            ...
            return {"x": ..., "weight": ..., "bias": ..., "adjacency": ...}   # arguments by name

``inputs`` returns new arguments of the operation; floating tensors in ``dtype`` (arguments that are no tensors are
passed on as they are). Keep them small: compilation and checks of gradients run over all of it. An operation with
native code also says, by ``native_calls``, what opcheck is to call, and by ``batch_axes`` what has how many clips or
queries. Class attributes that may be overridden:
``autocast_dtype`` (of the output under bfloat16 autocast), ``gradcheck_tolerance``, ``ulps``, and ``changeable``, the
seed of inputs whose output may be changed in place (None where the derivative needs it, as that of `torch.logsumexp`).

`assert_as_accurate` is the rule for single comparisons: measured against float64, an operation may err at most twice
as much as its plain-PyTorch twin does in the same precision, plus ``ulps`` units in the last place of the largest
value; in float64 itself the two have to agree to nine digits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))

Arguments = Mapping[str, Any]
Made = TypeVar("Made")


def assert_as_accurate(ours: Tensor, plain: Tensor, truth: Tensor, what: str = "", ulps: float = 1) -> None:
    """Requires that ``ours`` errs at most twice as much as ``plain``, plus ``ulps``, both against the ``truth``."""
    assert ours.dtype == plain.dtype, f"{what}: {ours.dtype} instead of {plain.dtype}"
    assert ours.shape == plain.shape, f"{what}: {tuple(ours.shape)} instead of {tuple(plain.shape)}"
    if ours.numel() == 0:
        return
    largest = truth.abs().max().item()
    if ours.dtype == torch.float64:  # no wider truth to measure against
        torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-10 * largest, msg=lambda text: f"{what}: {text}")
        return
    error, allowed = ((x.double() - truth).abs().max().item() for x in (ours, plain))
    ulp = torch.finfo(ours.dtype).eps * largest
    message = f"{what}: error {error:.3g}, plain PyTorch's {allowed:.3g}, one ulp {ulp:.3g}"
    assert error <= 2 * allowed + ulps * ulp, message


def with_gradients(arguments: Arguments, names: tuple[str, ...]) -> dict[str, Any]:
    """The arguments with those named detached and requiring a gradient."""
    return {
        name: value.detach().requires_grad_() if name in names and value is not None else value
        for name, value in arguments.items()
    }


def in_dtype(arguments: Arguments, dtype: torch.dtype) -> dict[str, Any]:
    """The arguments with all floating tensors in another dtype."""
    return {
        name: value.detach().to(dtype) if isinstance(value, Tensor) and value.dtype.is_floating_point else value
        for name, value in arguments.items()
    }


def non_contiguous(tensor: Tensor) -> Tensor:
    """An equal tensor with its axes laid out in reverse and gaps between the elements."""
    spread = torch.stack((tensor.detach(), torch.full_like(tensor, 7)), dim=-1).permute(
        *reversed(range(tensor.dim() + 1))
    )
    equal = spread.contiguous().permute(*reversed(range(tensor.dim() + 1)))[..., 0]
    assert torch.equal(equal, tensor)
    return equal


def cotangent(output: Tensor) -> Tensor:
    """A gradient for ``output``, the same each time."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)


def _unfit(value: Tensor) -> Iterator[tuple[Tensor, str]]:
    """Tensors of its shape that no operation takes, and what the error says of them."""
    yield value.to_sparse(), r"got one of torch.sparse_coo; use \w+\.to_dense"
    if value.dim() >= 2:
        yield torch.ones_like(value).to_sparse_csr(), "got one of torch.sparse_csr"
    yield torch.nested.nested_tensor([value, value]), "got a nested one"
    yield value.to(torch.complex64), "got torch.complex64"
    if value.is_floating_point():
        yield value.int(), "got torch.int32"
        yield torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "got torch.qint8"


def _assert_alike(found: Tensor, expected: Tensor) -> None:
    assert (found.shape, found.dtype, found.stride()) == (expected.shape, expected.dtype, expected.stride())


def _module(operation: Callable[..., Tensor], arguments: Arguments) -> tuple[torch.nn.Module, list[str]]:
    """The operation as a module that takes the tensors among its arguments, and their names."""
    names = [name for name, value in arguments.items() if isinstance(value, Tensor)]

    class Operation(torch.nn.Module):
        def forward(self, *values: Tensor) -> Tensor:
            return operation(**{**arguments, **dict(zip(names, values, strict=True))})

    return Operation(), names


def by_threads(make: Callable[[], Made], numbers: tuple[int, ...] = (1, 2, 4)) -> list[Made]:
    """What is made with each of these numbers of threads."""
    before = torch.get_num_threads()
    made = []
    try:
        for threads in numbers:
            torch.set_num_threads(threads)
            made.append(make())
    finally:
        torch.set_num_threads(before)
    return made


class OperationChecks(ABC):
    """Inherit, fill in, and pytest runs them all; see the module's docstring."""

    operation: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    differentiable: ClassVar[tuple[str, ...]]
    batch_axes: ClassVar[dict[str, int]]
    autocast_dtype: ClassVar[torch.dtype] = torch.float32
    gradcheck_tolerance: ClassVar[float] = 1e-6
    ulps: ClassVar[float] = 1
    changeable: ClassVar[int | None] = 0

    @abstractmethod
    def inputs(self, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
        """New arguments of the operation, by name."""

    def native_calls(self, arguments: Arguments) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        """Pairs (native operation, its arguments), for opcheck; none for operations without native code."""
        yield from ()

    def run(
        self, function: Callable[..., Tensor], arguments: Arguments, given: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The output, and the gradients by name; ``given`` is the output's, by default `cotangent`."""
        arguments = with_gradients(arguments, self.differentiable)
        output = function(**arguments)
        wanted = {name: arguments[name] for name in self.differentiable if arguments[name] is not None}
        gradients = torch.autograd.grad(output, list(wanted.values()), cotangent(output) if given is None else given)
        return output.detach(), dict(zip(wanted, gradients, strict=True))

    def assert_matches_reference(self, arguments: Arguments) -> None:
        """Output and gradients as accurate as the twin's."""
        ours, our_gradients = self.run(self.operation, arguments)
        plain, plain_gradients = self.run(self.reference, arguments)
        truth, true_gradients = self.run(self.reference, in_dtype(arguments, torch.float64))
        assert_as_accurate(ours, plain, truth, "output", self.ulps)
        for name, gradient in our_gradients.items():
            assert_as_accurate(gradient, plain_gradients[name], true_gradients[name], f"gradient of {name}", self.ulps)

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_matches_the_plain_twin(self, dtype: torch.dtype, device: str) -> None:
        for seed in range(3):
            self.assert_matches_reference(self.inputs(dtype, device, seed))

    @pytest.mark.parametrize("device", DEVICES)
    def test_takes_non_contiguous_inputs_and_gradients(self, device: str) -> None:
        arguments = with_gradients(self.inputs(torch.float64, device), self.differentiable)
        strided = {
            name: non_contiguous(value).requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value
            for name, value in arguments.items()
        }
        outputs = self.operation(**arguments), self.operation(**strided)
        gradient = cotangent(outputs[0])
        names = [name for name in self.differentiable if arguments[name] is not None]
        results = [
            torch.autograd.grad(output, [inputs[name] for name in names], given)
            for output, inputs, given in zip(
                outputs, (arguments, strided), (gradient, non_contiguous(gradient)), strict=True
            )
        ]
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("device", DEVICES)
    def test_the_output_may_be_changed_in_place(self, device: str) -> None:
        """As by a ReLU in place, with the channels last or not: autograd refuses that of views made in an operation."""

        def results(operation: Callable[..., Tensor], arguments: Arguments) -> tuple[Tensor, ...]:
            arguments = with_gradients(arguments, self.differentiable)
            output = operation(**arguments).mul_(2)
            wanted = [arguments[name] for name in self.differentiable if arguments[name] is not None]
            return output, *torch.autograd.grad(output, wanted, cotangent(output))

        if self.changeable is None:
            pytest.skip("its derivative is made of its output")
        arguments = self.inputs(torch.float64, device, self.changeable)
        last = {
            name: value.to(memory_format=torch.channels_last)
            if isinstance(value, Tensor) and value.dim() == 4
            else value
            for name, value in arguments.items()
        }
        expected = results(self.reference, arguments)
        torch.testing.assert_close(results(self.operation, arguments), expected)
        torch.testing.assert_close(results(self.operation, last), expected)

    @pytest.mark.parametrize("device", DEVICES)
    def test_takes_a_gradient_that_is_one_number_expanded(self, device: str) -> None:
        arguments = with_gradients(self.inputs(torch.float64, device), self.differentiable)
        names = [name for name in self.differentiable if arguments[name] is not None]
        values = [arguments[name] for name in names]
        ours = torch.autograd.grad(self.operation(**arguments).sum(), values)
        plain = torch.autograd.grad(self.reference(**arguments).sum(), values)
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("device", DEVICES)
    def test_gradients_are_those_of_finite_differences(self, device: str) -> None:
        arguments = with_gradients(self.inputs(torch.float64, device), self.differentiable)
        names = [name for name in self.differentiable if arguments[name] is not None]

        def function(*values: Tensor) -> Tensor:
            return self.operation(**{**arguments, **dict(zip(names, values, strict=True))})

        tolerance = self.gradcheck_tolerance
        assert torch.autograd.gradcheck(
            function, tuple(arguments[name] for name in names), atol=tolerance, rtol=tolerance, fast_mode=True
        )

    @pytest.mark.parametrize("device", DEVICES)
    def test_gradients_for_some_inputs_alone(self, device: str) -> None:
        _, together = self.run(self.operation, self.inputs(torch.float64, device))
        for name, gradient in together.items():
            arguments = with_gradients(self.inputs(torch.float64, device), (name,))
            output = self.operation(**arguments)
            (alone,) = torch.autograd.grad(output, [arguments[name]], cotangent(output))
            torch.testing.assert_close(alone, gradient, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("device", DEVICES)
    def test_same_bits_each_time(self, device: str) -> None:
        arguments = self.inputs(torch.float32, device)
        first, first_gradients = self.run(self.operation, arguments)
        for _ in range(3):
            again, gradients = self.run(self.operation, arguments)
            assert torch.equal(first, again)
            assert all(torch.equal(first_gradients[name], gradients[name]) for name in gradients)

    def test_same_bits_for_any_number_of_threads(self) -> None:
        arguments = self.inputs(torch.float32)
        (first, first_gradients), *others = by_threads(lambda: self.run(self.operation, arguments))
        for output, gradients in others:
            assert torch.equal(output, first)
            assert all(torch.equal(gradients[name], first_gradients[name]) for name in gradients)

    @pytest.mark.parametrize("device", DEVICES)
    def test_tensors_on_different_devices_are_refused(self, device: str) -> None:
        arguments = self.inputs(torch.float32, device)
        elsewhere = "meta" if device == "cpu" else "cpu"
        _, *others = (name for name, value in arguments.items() if isinstance(value, Tensor))
        for name in others:
            message = rf"{name}: expected to be on {device}\S* as \w+ (is|are), got {elsewhere}"
            with pytest.raises(ValueError, match=message):
                self.operation(**{**arguments, name: arguments[name].to(elsewhere)})

    @pytest.mark.filterwarnings("ignore::UserWarning")  # of sparse, nested and quantized tensors themselves
    def test_what_is_not_dense_and_real_is_refused_by_name(self) -> None:
        arguments = self.inputs(torch.float32)
        for name, value in arguments.items():
            if not isinstance(value, Tensor):
                continue
            for bad, message in _unfit(value):
                for autocast in (False, True):
                    error = pytest.raises(TypeError, match=rf"^{name}: expected .*{message}")
                    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), error:
                        self.operation(**{**arguments, name: bad})

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_runs_on_the_meta_device_and_on_fake_tensors(self, dtype: torch.dtype) -> None:
        arguments = self.inputs(dtype)
        expected = self.run(self.operation, arguments)
        on_meta = {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in arguments.items()}
        with torch.autocast("cpu", torch.bfloat16):  # which says nothing of the meta device
            found = self.run(self.operation, on_meta)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            faked = {
                name: mode.from_tensor(value) if isinstance(value, Tensor) else value
                for name, value in arguments.items()
            }
            fake = self.run(self.operation, faked)
        for output, gradients in (found, fake):
            _assert_alike(output, expected[0])
            for name, gradient in gradients.items():
                _assert_alike(gradient, expected[1][name])
        assert found[0].is_meta

    def test_exports_with_a_dynamic_batch(self) -> None:
        arguments = self.inputs(torch.float64)
        module, names = _module(self.operation, arguments)
        batch = torch.export.Dim("batch")
        axes = tuple({self.batch_axes[name]: batch} if name in self.batch_axes else None for name in names)
        exported = torch.export.export(
            module, tuple(arguments[name] for name in names), dynamic_shapes={"values": axes}
        ).module()
        larger = [
            torch.cat([arguments[name]] * 2, self.batch_axes[name]) if name in self.batch_axes else arguments[name]
            for name in names
        ]
        assert torch.equal(exported(*larger), module(*larger))

    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace.*:DeprecationWarning")
    def test_is_traced_by_torchscript(self) -> None:
        arguments = self.inputs(torch.float64)
        module, names = _module(self.operation, arguments)
        values = [arguments[name] for name in names]
        traced = torch.jit.trace(module, values)
        others = [value * 0.5 if value.is_floating_point() else value for value in values]
        assert torch.equal(traced(*others), module(*others))

    @pytest.mark.gpu
    def test_runs_on_the_current_stream(self) -> None:
        arguments = self.inputs(torch.float32, "cuda")
        output, gradients = self.run(self.operation, arguments)
        given = cotangent(output)
        # What runs on any other stream does not wait for the inputs, and finds no numbers.
        late = {
            name: torch.full_like(value, torch.nan if value.is_floating_point() else 0)
            if isinstance(value, Tensor)
            else value
            for name, value in arguments.items()
        }
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda._sleep(50_000_000)  # clock cycles
            for name, value in arguments.items():
                if isinstance(value, Tensor):
                    late[name].copy_(value)
            late_output, late_gradients = self.run(self.operation, late, given)
        torch.cuda.synchronize()
        assert torch.equal(late_output, output)
        assert all(torch.equal(late_gradients[name], gradients[name]) for name in gradients)

    @pytest.mark.gpu
    def test_is_captured_in_a_cuda_graph(self) -> None:
        arguments = self.inputs(torch.float32, "cuda")
        given = cotangent(self.run(self.operation, arguments)[0])
        with torch.cuda.stream(torch.cuda.Stream()):  # what is set up at first use is not for the graph
            self.run(self.operation, arguments, given)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output, gradients = self.run(self.operation, arguments, given)
        for name in self.differentiable:
            if arguments[name] is not None:
                arguments[name].mul_(0.75)
        graph.replay()
        expected, expected_gradients = self.run(self.operation, arguments, given)
        assert torch.equal(output, expected)
        assert all(torch.equal(gradients[name], expected_gradients[name]) for name in gradients)

    def test_makes_no_tensor_of_numbers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Which on a GPU would be copied there from the CPU: that waits, and a CUDA graph cannot capture it."""
        arguments = self.inputs(torch.float32)
        for owner, name in ((torch.Tensor, "new_tensor"), (torch, "tensor"), (torch, "as_tensor")):
            monkeypatch.setattr(owner, name, lambda *_, name=name, **__: pytest.fail(f"{name} was called"))
        self.run(self.operation, arguments)

    @pytest.mark.gpu
    def test_runs_on_another_device_than_the_current(self) -> None:
        if torch.cuda.device_count() < 2:
            pytest.skip("one GPU alone")
        arguments = self.inputs(torch.float32, "cuda:0")
        there = {name: value.to("cuda:1") if isinstance(value, Tensor) else value for name, value in arguments.items()}
        output, gradients = self.run(self.operation, arguments)
        output_there, gradients_there = self.run(self.operation, there)
        assert output_there.device == torch.device("cuda:1")
        assert torch.equal(output_there.cpu(), output.cpu())
        assert all(torch.equal(gradients_there[name].cpu(), gradients[name].cpu()) for name in gradients)

    @pytest.mark.parametrize("device", DEVICES)
    def test_compiles_without_graph_breaks(self, device: str) -> None:
        arguments = self.inputs(torch.float64, device)
        output, gradients = self.run(self.operation, arguments)
        compiled = torch.compile(self.operation, fullgraph=True, backend="aot_eager")
        compiled_output, compiled_gradients = self.run(compiled, arguments)
        torch.testing.assert_close(compiled_output, output, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(compiled_gradients, gradients, rtol=1e-12, atol=1e-12)

    @pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
    def test_torchscript_says_what_to_use_instead(self) -> None:
        operation = type(self).operation

        def calls_it(x: Tensor) -> Tensor:
            return operation(x)

        message = rf"ikem_ext\.{operation.__name__}: torch\.jit\.script cannot compile it; use torch\.compile"
        for function in (operation, calls_it):
            with pytest.raises(RuntimeError, match=message):
                torch.jit.script(function)

    @pytest.mark.parametrize("device", DEVICES)
    def test_dtype_under_autocast(self, device: str) -> None:
        arguments = self.inputs(torch.float32, device)
        with torch.autocast(device, torch.bfloat16):
            output, gradients = self.run(self.operation, arguments)
        assert output.dtype == self.autocast_dtype
        for name, gradient in gradients.items():
            assert gradient.dtype == arguments[name].dtype
        reference, _ = self.run(self.reference, in_dtype(arguments, torch.float64))
        tolerance = 1e-4 if self.autocast_dtype == torch.float32 else 5e-2
        torch.testing.assert_close(
            output.double(), reference, rtol=tolerance, atol=tolerance * reference.abs().max().item()
        )

    @pytest.mark.parametrize("device", DEVICES)
    def test_is_registered_as_torch_expects(self, device: str) -> None:
        arguments = with_gradients(self.inputs(torch.float64, device), self.differentiable)
        for native, native_arguments in self.native_calls(arguments):
            torch.library.opcheck(native, native_arguments)

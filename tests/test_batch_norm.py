from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operation_checks import DEVICES, Arguments, OperationChecks
from torch import Tensor
from torch.nn import functional

import ikem_ext
from ikem_ext import reference
from ikem_ext.reference.batch_norm import dropout_mask, moments_of

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def arguments(
    n: int, c: int, t: int, v: int, residual: bool, layout: torch.memory_format, dtype: torch.dtype = torch.float64
) -> dict[str, Any]:
    x, r = (torch.randn(n, c, t, v, dtype=dtype).to(memory_format=layout) for _ in range(2))
    weight, bias = torch.randn(c, dtype=dtype), torch.randn(c, dtype=dtype)
    return {"x": 3 * x + 1, "weight": weight, "bias": bias, "residual": r if residual else None}


class TestBatchNorm(OperationChecks):
    operation = staticmethod(ikem_ext.batch_norm)
    reference = staticmethod(reference.batch_norm)
    differentiable = ("x", "weight", "bias", "residual")
    ulps = 4  # sums of other orders: of few numbers, either may be lucky
    batch_axes: ClassVar[dict[str, int]] = {"x": 0, "residual": 0}
    changeable = 1  # without the ReLU, whose derivative is made of its output
    layout: ClassVar[torch.memory_format] = torch.contiguous_format

    def inputs(self, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
        """Channels that fill no vector, whole vectors, and both."""
        torch.manual_seed(2 + seed)  # not that of the cotangent: x itself as its gradient would leave one of zero
        given = arguments(3, (3, 16, 18)[seed % 3], 5, 7, residual=True, layout=self.layout)
        tensors = {name: value.to(device, dtype) for name, value in given.items()}
        return {**tensors, "relu": seed != 1}

    def native_calls(self, arguments: Arguments) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        operations = torch.ops.ikem_ext
        x, weight, bias, residual, relu = arguments.values()
        seed = torch.tensor(-5)
        yield operations.batch_norm.default, (x, weight, bias, None, None, residual, seed, 0.25, 1e-5, relu, True)
        yield (
            operations.batch_norm.default,
            (x, weight, bias, bias, weight.square(), None, None, 0.0, 1e-5, False, False),
        )
        yield operations.batch_norm.default, (x, weight, bias, bias, weight.square(), None, None, 0.0, 1e-5, relu, True)
        x, weight, bias, residual = (each.detach() for each in (x, weight, bias, residual))
        for y in (None, residual, (residual > 0).to(torch.int8)):
            statistics = bias, weight.square()
            yield (
                operations.batch_norm_backward.default,
                (x, x, y, weight, *statistics, seed, 0.25, 1e-5, True, y is not None),
            )


class TestChannelsLast(TestBatchNorm):
    layout = torch.channels_last


def check_against_twin(
    sizes: tuple[int, ...],
    residual: bool,
    relu: bool,
    dropout: float,
    training: bool,
    layout: torch.memory_format,
    device: str = "cpu",
) -> None:
    results = []
    for function in (ikem_ext.batch_norm, reference.batch_norm):
        torch.manual_seed(0)
        leaves = {
            name: None if value is None else value.to(device).requires_grad_()
            for name, value in arguments(*sizes, residual, layout).items()
        }
        running = [torch.rand(sizes[1], dtype=torch.float64).to(device) for _ in range(2)]
        options = {"relu": relu, "dropout": dropout, "training": training, "momentum": 0.3}
        y = function(*list(leaves.values())[:3], *running, residual=leaves["residual"], **options)
        given = torch.randn(y.shape, dtype=torch.float64).to(device)
        asked = [leaf for leaf in leaves.values() if leaf is not None]
        results.append((y, *running, *torch.autograd.grad(y, asked, given)))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 35), st.integers(1, 6), st.integers(2, 30)),
    st.booleans(), st.booleans(), st.sampled_from((0.0, 0.3)), st.booleans(), st.sampled_from(LAYOUTS),
)  # fmt: skip
def test_any_size_as_the_twin(
    sizes: tuple[int, ...], residual: bool, relu: bool, dropout: float, training: bool, layout: torch.memory_format
) -> None:
    check_against_twin(sizes, residual, relu, dropout, training, layout)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sizes", [(37, 64, 50, 25), (5, 256, 13, 25), (64, 3, 50, 25), (3, 1100, 2, 3), (1, 1, 1, 3)])
def test_larger_sizes_on_cuda(sizes: tuple[int, ...], training: bool, layout: torch.memory_format) -> None:
    for dropout in (0.0, 0.5):
        check_against_twin(sizes, True, True, dropout, training, layout, "cuda")


@pytest.mark.gpu
def test_each_launch_of_a_cuda_graph_drops_other_entries() -> None:
    x, weight, bias = torch.randn(4, 16, 9, 25).cuda(), torch.ones(16).cuda(), torch.ones(16).cuda()

    def run() -> tuple[Tensor, ...]:
        # New leaves each time: what autograd keeps of a leaf belongs to the stream of its first use.
        leaves = [value.detach().requires_grad_() for value in (x, weight, bias)]
        y = ikem_ext.batch_norm(*leaves, dropout=0.5, relu=True)
        return y.detach(), *torch.autograd.grad(y, leaves, torch.ones_like(y))

    with torch.cuda.stream(torch.cuda.Stream()):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    torch.manual_seed(5)
    eager = [run(), run()]
    torch.manual_seed(5)
    for expected in eager:
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))
    assert not torch.equal(eager[0][0] > 0, eager[1][0] > 0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False])
def test_is_what_pytorch_computes(training: bool, layout: torch.memory_format) -> None:
    given = arguments(4, 18, 20, 25, residual=True, layout=layout, dtype=torch.float32)
    ours, plain = ((torch.zeros(18), torch.ones(18)) for _ in range(2))
    y = ikem_ext.batch_norm(**given, running_mean=ours[0], running_var=ours[1], training=training, relu=True)
    x, weight, bias, residual = given.values()
    expected = torch.relu(functional.batch_norm(x, *plain, weight, bias, training) + residual)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(ours, plain)
    assert y.stride() == x.stride()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("device", DEVICES)
def test_moments_that_are_given_are_not_made_again(device: str, layout: torch.memory_format) -> None:
    """The gradient is that of normalizing by the batch, and the running statistics take part in them."""
    given = {name: value.to(device) for name, value in arguments(4, 18, 5, 7, residual=True, layout=layout).items()}
    running = [(torch.zeros(18).double().to(device), torch.ones(18).double().to(device)) for _ in range(2)]
    results = []
    for statistics, moments in zip(running, (moments_of(given["x"]), None), strict=True):
        leaves = {name: value.detach().requires_grad_() for name, value in given.items()}
        torch.manual_seed(0)
        y = ikem_ext.batch_norm(
            **leaves, running_mean=statistics[0], running_var=statistics[1], dropout=0.3, relu=True, moments=moments
        )
        results.append((y, *torch.autograd.grad(y.square().sum(), list(leaves.values())), *statistics))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)
    others = torch.stack((torch.zeros(18), torch.ones(18))).double().to(device)
    y = ikem_ext.batch_norm(given["x"], others[1], others[0], eps=0.0, moments=others)
    torch.testing.assert_close(y, given["x"])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [5, 16])
def test_statistics_of_numbers_far_from_zero(channels: int, layout: torch.memory_format) -> None:
    """A sum of squares minus the square of the sum would leave nothing."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(8, channels, 40, 25, dtype=torch.float64, generator=generator) + 1e4).float()
    y = ikem_ext.batch_norm(x.to(memory_format=layout), torch.ones(channels), torch.zeros(channels))
    truth = functional.batch_norm(x.double(), None, None, training=True)
    # Floats at 1e4 are 1e-3 of a deviation apart, and so is the mean rounded.
    assert (y - truth).abs().max() < 2e-3


@pytest.mark.parametrize("size", [0, 1])
def test_sizes_without_statistics(size: int) -> None:
    x, parameters = torch.randn(size, 5, 1, 1), (torch.ones(5), torch.zeros(5))
    y = ikem_ext.batch_norm(x, *parameters, torch.zeros(5), torch.ones(5), training=False, eps=0.0)
    torch.testing.assert_close(y, x)
    if size == 1:
        with pytest.raises(ValueError, match="x: expected more than one value per channel in training"):
            ikem_ext.batch_norm(x, *parameters)


class TestDropout:
    def draw(self, p: float, seed: int, shape: tuple[int, ...] = (8, 16, 20, 25)) -> Tensor:
        """Which entries stay."""
        torch.manual_seed(seed)
        ones = torch.ones(shape)
        parameters = torch.zeros(shape[1]), torch.ones(shape[1])
        y = ikem_ext.batch_norm(ones, *parameters, dropout=p)
        torch.testing.assert_close(y.unique(), torch.tensor([0, 1 / (1 - p)]))
        return y > 0

    @pytest.mark.parametrize("p", [0.5, 0.25, 1 / 256, 0.3, 0.999])
    def test_masks_are_independent_draws(self, p: float) -> None:
        masks = torch.stack([self.draw(p, seed).flatten() for seed in range(10)]).double()
        size, sigma = masks.shape[1], (p * (1 - p)) ** 0.5
        assert masks.mean().item() == pytest.approx(1 - p, abs=5 * sigma / (10 * size) ** 0.5)
        # Within a mask, at the distances of neighbors along all axes, and between masks.
        centered = (masks - (1 - p)) / sigma
        for distance in (1, 2, 3, 16, 25, 26, 500, 8000):
            products = centered[:, distance:] * centered[:, :-distance]
            assert products.mean().abs() < 6 / products.numel() ** 0.5
        assert (torch.corrcoef(masks) - torch.eye(10)).abs().max() < 6 / size**0.5

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_a_gradient_goes_back_where_an_entry_stayed(self, layout: torch.memory_format) -> None:
        y = torch.randn(6, 4, 50, 25, dtype=torch.float64).to(memory_format=layout)
        weight, bias = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64, requires_grad=True)
        dropped = ikem_ext.batch_norm(y, weight, bias, dropout=0.75)
        assert dropped.unique().tolist() == [0, 4]
        assert (dropped > 0).double().mean().item() == pytest.approx(0.25, abs=0.01)
        cotangent = torch.randn(y.shape, dtype=y.dtype)
        for part in (cotangent, cotangent.contiguous(memory_format=torch.channels_last)):
            (grad_bias,) = torch.autograd.grad(dropped, bias, part, retain_graph=True)
            torch.testing.assert_close(grad_bias, (part * dropped).sum((0, 2, 3)))

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_the_mask_is_the_twins_in_any_memory_layout(self, layout: torch.memory_format, device: str) -> None:
        seed = torch.tensor(-(2**62) + 12345)
        x = torch.ones(3, 18, 5, 7, device=device).to(memory_format=layout)
        zeros, ones = torch.zeros(18, device=device), torch.ones(18, device=device)
        for each in (seed, seed.to(device)):
            y, _, _ = torch.ops.ikem_ext.batch_norm(x, zeros, ones, None, None, None, each, 0.5, 1e-5, False, True)
            assert torch.equal((y > 0).cpu(), dropout_mask(seed, x.shape, 0.5))


def test_not_a_number_is_not_rectified_away() -> None:
    x = torch.full((1, 1, 1, 2), torch.nan)
    assert ikem_ext.batch_norm(x, torch.ones(1), torch.zeros(1), relu=True).isnan().all()


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": torch.randn(2, 3, 4)}, ValueError, r"x: expected shape \(N, C, T, V\), got \(2, 3, 4\)"),
        ({"weight": torch.ones(4)}, ValueError, r"weight: expected shape \(C,\) with C=3, got \(4,\)"),
        ({"bias": torch.ones(3, dtype=torch.int32)}, TypeError, "bias: expected one of .*, got torch.int32"),
        ({"residual": torch.randn(2, 3, 4, 6)}, ValueError, "residual: expected shape"),
        ({"residual": torch.randn(2, 3, 4, 5).double()}, TypeError, "residual: expected torch.float32 as x has"),
        ({"dropout": 1.0}, ValueError, "dropout: expected at least 0 and less than 1, got 1.0"),
        ({"moments": torch.ones(3, 2)}, ValueError, r"moments: expected shape \(2, C\) with C=3, got \(3, 2\)"),
        (
            {
                "moments": torch.ones(2, 3),
                "training": False,
                "running_mean": torch.ones(3),
                "running_var": torch.ones(3),
            },
            ValueError,
            "moments: expected None in evaluation",
        ),
        ({"training": False}, ValueError, "running_mean: expected a tensor in evaluation, got None"),
    ],
)
def test_bad_arguments_are_refused(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    given = arguments(2, 3, 4, 5, residual=False, layout=torch.contiguous_format, dtype=torch.float32)
    with pytest.raises(error, match=message):
        ikem_ext.batch_norm(**{**given, **changed})

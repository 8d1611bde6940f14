from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operation_checks import DTYPES, Arguments, OperationChecks, assert_as_accurate, cotangent, non_contiguous
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d

import ikem_ext
from ikem_ext import reference
from ikem_ext.reference.batch_norm import moments_of


def arguments(
    n: int, c_in: int, c_out: int, t: int, v: int, taps: int, dtype: torch.dtype = torch.float64
) -> dict[str, Any]:
    shapes = {"x": (n, c_in, t, v), "weight": (c_out, c_in, taps), "bias": (c_out,)}
    return {name: torch.randn(shape, dtype=dtype) for name, shape in shapes.items()}


def pytorchs(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Tensor:
    return conv2d(x, weight[..., None], bias, (stride, 1), (padding, 0), (dilation, 1))


@pytest.fixture(autouse=True)
def no_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA the twin would round float32 otherwise, and so would the operation."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


class TestTemporalConv(OperationChecks):
    operation = staticmethod(ikem_ext.temporal_conv)
    reference = staticmethod(reference.temporal_conv)
    differentiable = ("x", "weight", "bias")
    autocast_dtype = torch.bfloat16
    ulps = 4  # sums of other orders: of few numbers, either may be lucky
    batch_axes: ClassVar[dict[str, int]] = {"x": 0}
    options: ClassVar[dict[str, int]] = {"padding": 4}
    taps: ClassVar[int] = 9

    def inputs(self, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
        """Channels that fill no vector, and then some; a single tile, and several."""
        torch.manual_seed(seed)
        c_in, c_out, frames = ((3, 18, 7), (18, 3, 13), (16, 16, 50))[seed % 3]
        tensors = arguments(3, c_in, c_out, frames, 5, self.taps)
        return {**{name: value.to(device, dtype) for name, value in tensors.items()}, **self.options}

    def native_calls(self, arguments: Arguments) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        operations = torch.ops.ikem_ext
        tensors = [arguments[name] for name in self.differentiable]
        settings = [arguments.get(name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))]
        settings.append(False)
        yield operations.temporal_conv.default, (*tensors, *settings)
        x, weight, bias = (tensor.detach() for tensor in tensors)
        gradient = torch.ones_like(operations.temporal_conv(x, weight, bias, *settings))
        for wanted in ((True, True, True), (False, True, False), (True, False, False)):
            yield operations.temporal_conv_backward.default, (gradient, x, weight, *settings, *wanted)
            strided = non_contiguous(gradient), non_contiguous(x), non_contiguous(weight)
            yield operations.temporal_conv_backward.default, (*strided, *settings, *wanted)


class TestStride(TestTemporalConv):
    options: ClassVar[dict[str, int]] = {"padding": 4, "stride": 2}


class TestDilation(TestTemporalConv):
    options: ClassVar[dict[str, int]] = {"padding": 2, "dilation": 2}
    taps = 3


class TestOneTap(TestTemporalConv):
    """As a block's residual has it."""

    options: ClassVar[dict[str, int]] = {"padding": 0, "stride": 2}
    taps = 1


class TestNormed(TestTemporalConv):
    """With a norm on either side, whose moments come from the operation that made x."""

    differentiable = ("x", "weight", "bias", "norm_weight", "norm_bias")

    @staticmethod
    def chain(
        library: Any, x: Tensor, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor, **options: int
    ) -> Tensor:
        """`graph_conv`, which by the identity leaves x what it is, then `temporal_conv`."""
        sizes = (1, 1) if x.is_nested else (x.shape[1], x.shape[3])  # a nested one is refused below
        dtype = x.dtype if x.is_floating_point() else None
        one, joints = (torch.eye(size, dtype=dtype, device=x.device)[None] for size in sizes)
        x, moments = library.graph_conv(x, one, None, joints, moments=True)
        return library.temporal_conv(x, weight, bias, norm=(norm_weight, norm_bias, moments, 1e-5), **options)

    @staticmethod
    def operation(*values: Any, **named: Any) -> Tensor:
        return TestNormed.chain(ikem_ext, *values, **named)

    @staticmethod
    def reference(*values: Any, **named: Any) -> Tensor:
        return TestNormed.chain(reference, *values, **named)

    def inputs(self, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
        given = super().inputs(dtype, device, seed)
        numbers = torch.randn(2, given["x"].shape[1]).to(device, dtype)
        given["x"] = given["x"] * 3 + 1
        return {**given, "norm_weight": numbers[0], "norm_bias": numbers[1]}

    def native_calls(self, arguments: Arguments) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        operations = torch.ops.ikem_ext
        x, weight, bias, norm_weight, norm_bias = (arguments[name] for name in self.differentiable)
        moments = moments_of(x.detach())
        settings = arguments.get("stride", 1), arguments["padding"], 1, False
        for training in (True, False):
            norm = norm_weight, norm_bias, moments, 1e-5, training
            yield operations.temporal_conv_normed.default, (x, weight, bias, *norm, *settings)
        yield operations.temporal_conv_normed.default, (x, weight, bias, None, None, None, 0.0, True, *settings)
        x, weight, *norm = (each.detach() for each in (x, weight, norm_weight, norm_bias))
        gradient = torch.ones_like(operations.temporal_conv(x, weight, None, *settings))
        for wanted in ((True, True, True), (False, True, False), (True, False, False)):
            yield (
                operations.temporal_conv_normed_backward.default,
                (gradient, x, weight, *norm, moments, 1e-5, True, *settings, *wanted),
            )

    test_torchscript_says_what_to_use_instead = None  # type: ignore[assignment]  # which is said of one operation


class TestNormedWithStride(TestNormed):
    options: ClassVar[dict[str, int]] = {"padding": 4, "stride": 2}


class TestNormedOneTap(TestNormed):
    options: ClassVar[dict[str, int]] = {"padding": 0, "stride": 2}
    taps = 1


sizes = st.tuples(st.integers(0, 3), *(st.integers(1, 20) for _ in range(2)), st.integers(1, 70), st.integers(1, 5))


@settings(max_examples=80, deadline=None)
@given(sizes, st.integers(1, 11), *(st.integers(1, 4) for _ in range(2)), st.integers(0, 9), st.booleans())
def test_any_size_as_pytorch_computes_it(
    sizes: tuple[int, ...], taps: int, stride: int, dilation: int, padding: int, channels_last: bool
) -> None:
    options = {"stride": stride, "dilation": dilation, "padding": padding}
    given = arguments(*sizes, taps)
    if channels_last:
        given["x"] = given["x"].to(memory_format=torch.channels_last)
    if sizes[3] + 2 * padding < dilation * (taps - 1) + 1:
        with pytest.raises(ValueError, match=r"weight: expected taps that span 1 to \d+ frames"):
            ikem_ext.temporal_conv(**given, **options)
        return
    results = []
    for function in (ikem_ext.temporal_conv, pytorchs):
        leaves = {name: value.detach().requires_grad_() for name, value in given.items()}
        y = function(**leaves, **options)
        cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype)
        results.append((y, *torch.autograd.grad(y, list(leaves.values()), cotangent)))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9 * max([1, *plain.detach().abs().flatten()]))


@settings(max_examples=40, deadline=None)
@given(
    sizes, st.integers(1, 9), st.integers(1, 3), st.integers(0, 4), st.booleans(), st.booleans(), st.booleans()
)  # fmt: skip
def test_norms_on_either_side_as_pytorch_computes_them(
    sizes: tuple[int, ...], taps: int, stride: int, padding: int, channels_last: bool, training: bool, biased: bool
) -> None:
    given = arguments(*sizes, taps)
    norm_weight, norm_bias = torch.randn(2, sizes[1], dtype=torch.float64)
    x = (given["x"] * 2 + 1).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    given = {**given, "x": x, "norm_weight": norm_weight, "norm_bias": norm_bias}
    if sizes[0] == 0 or sizes[3] + 2 * padding < taps or x.numel() == x.shape[1]:
        return
    constant = torch.stack((torch.randn(sizes[1]), torch.rand(sizes[1]))).double()
    results = []
    for ours in (True, False):
        leaves = {name: value.detach().requires_grad_() for name, value in given.items()}
        x, weight, bias, norm_weight, norm_bias = leaves.values()
        used = bias if biased else None
        if ours:
            moments = moments_of(x.detach()) if training else constant
            norm = norm_weight, norm_bias, moments, 1e-5
            y, of_y = ikem_ext.temporal_conv(
                x, weight, used, stride=stride, padding=padding, norm=norm, training=training, moments=True
            )
        else:
            normed = batch_norm(x, *constant, norm_weight, norm_bias, training, momentum=0.0).relu()
            y = conv2d(normed, weight[..., None], used, (stride, 1), (padding, 0))
            of_y = moments_of(y.detach())
        cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype)
        wanted = [each for each in leaves.values() if each is not bias or biased]
        results.append((y, of_y, *torch.autograd.grad(y, wanted, cotangent)))
    for mine, plain in zip(*results, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-8, atol=1e-8 * max([1, *plain.detach().abs().flatten()]))


def test_moments_of_numbers_far_from_zero() -> None:
    """A sum of squares minus the square of the sum would leave nothing."""
    weight, bias = torch.zeros(3, 2, 1), torch.full((3,), 1e4)
    weight[:, 0] = 1
    x = torch.randn(8, 2, 40, 25)
    y, moments = ikem_ext.temporal_conv(x, weight, bias, moments=True)
    assert torch.equal(y, ikem_ext.temporal_conv(x, weight, bias))
    torch.testing.assert_close(moments[1], y.double().var((0, 2, 3), correction=0).float(), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("channels", "frames", "stride"), [(16, 50, 1), (32, 50, 2), (64, 13, 1), (256, 13, 1), (64, 300, 1)]
)
def test_is_as_accurate_as_a_sum_over_taps(channels: int, frames: int, stride: int) -> None:
    """At the sizes of encoders, of features that went through a ReLU: output and gradients."""
    torch.manual_seed(0)
    given = arguments(2, channels, channels, frames, 5, 9)
    given["x"].relu_()
    results = []
    for function, dtype in (
        (ikem_ext.temporal_conv, torch.float32), (pytorchs, torch.float32), (pytorchs, torch.float64),
    ):  # fmt: skip
        leaves = {name: value.detach().to(dtype).requires_grad_() for name, value in given.items()}
        y = function(**leaves, stride=stride, padding=4)
        results.append((y, *torch.autograd.grad(y.square().sum(), list(leaves.values()))))
    for name, ours, plain, truth in zip(("y", *given), *results, strict=True):
        assert_as_accurate(ours.detach(), plain.detach(), truth.detach(), name, ulps=4)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("sizes", "stride", "dilation"),
    [((37, 64, 64, 50, 25, 9), 1, 1), ((16, 64, 128, 50, 25, 9), 2, 1), ((5, 256, 256, 13, 25, 9), 1, 1),
     ((8, 32, 32, 64, 17, 5), 1, 4), ((20, 64, 128, 50, 25, 1), 2, 1), ((600, 3, 16, 50, 25, 9), 1, 1)],
)  # fmt: skip
def test_larger_sizes_on_cuda(sizes: tuple[int, ...], stride: int, dilation: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    given = {name: value.cuda() for name, value in arguments(*sizes, dtype=dtype).items()}
    options = {"stride": stride, "dilation": dilation, "padding": dilation * (sizes[-1] // 2)}
    results = []
    for function, of in (
        (ikem_ext.temporal_conv, dtype), (reference.temporal_conv, dtype), (reference.temporal_conv, torch.float64),
    ):  # fmt: skip
        leaves = {name: value.detach().to(of).requires_grad_() for name, value in given.items()}
        y = function(**leaves, **options)
        results.append((y, *torch.autograd.grad(y, list(leaves.values()), cotangent(y).to(dtype).to(of))))
    for name, ours, plain, truth in zip(("y", *given), *results, strict=True):
        # Without tensor cores one product after another is added; plain PyTorch adds them in parts.
        ulps = 16 if dtype == torch.float32 else 4
        assert_as_accurate(ours.detach(), plain.detach(), truth.detach(), name, ulps=ulps)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("sizes", "stride", "training"),
    [((37, 64, 64, 50, 25, 9), 1, True), ((16, 64, 128, 50, 25, 9), 2, False), ((600, 16, 16, 50, 25, 9), 1, True)],
)
def test_norms_on_either_side_on_cuda(
    sizes: tuple[int, ...], stride: int, training: bool, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    """As accurate as the twin, and the same bits again."""
    torch.manual_seed(0)
    given = {name: value.cuda() for name, value in arguments(*sizes, dtype=dtype).items()}
    # Of few values, none of which the ReLU is near to.
    given["x"] = ((given["x"] * 3 + 1) * 8).round().div(8).to(memory_format=layout)
    given |= dict(zip(("norm_weight", "norm_bias"), torch.randn(2, sizes[1]).cuda().to(dtype), strict=True))
    constant = torch.stack((torch.randn(sizes[1]), torch.rand(sizes[1]) + 0.1)).cuda()
    moments = moments_of(given["x"].double()) if training else constant.double()

    def run(function: Any, of: torch.dtype) -> tuple[Tensor, ...]:
        leaves = {name: value.detach().to(of).requires_grad_() for name, value in given.items()}
        x, weight, bias, norm_weight, norm_bias = leaves.values()
        norm = norm_weight, norm_bias, moments.to(torch.promote_types(of, torch.float32)), 1e-5
        y, made = function(x, weight, bias, stride=stride, padding=4, norm=norm, training=training, moments=True)
        return y, made.to(dtype), *torch.autograd.grad(y, list(leaves.values()), cotangent(y).to(dtype).to(of))

    ours, again = run(ikem_ext.temporal_conv, dtype), run(ikem_ext.temporal_conv, dtype)
    assert all(torch.equal(*each) for each in zip(ours, again, strict=True))
    plain, truth = run(reference.temporal_conv, dtype), run(reference.temporal_conv, torch.float64)
    for name, *each in zip(("y", "moments", *given), ours, plain, truth, strict=True):
        assert_as_accurate(*(value.detach() for value in each), name, ulps=4)


@pytest.mark.gpu
def test_tf32_on_cuda_only_where_pytorch_allows_it() -> None:
    torch.manual_seed(0)
    given = {name: value.cuda() for name, value in arguments(8, 64, 64, 50, 25, 9, torch.float32).items()}
    truth = reference.temporal_conv(**{name: value.double() for name, value in given.items()}, padding=4)
    errors = []
    for allowed in (False, True):
        torch.backends.cudnn.allow_tf32 = allowed
        errors.append((ikem_ext.temporal_conv(**given, padding=4) - truth).abs().max() / truth.abs().max())
    assert errors[0] < 2e-6 < 1e-4 < errors[1] < 2e-3


@pytest.mark.parametrize(
    ("channels", "frames", "taps", "options"),
    [
        (7, 50, 9, {"padding": 4}),
        (8, 50, 9, {"padding": 4, "stride": 2}),
        (8, 20, 5, {"padding": 4, "dilation": 2}),
        (16, 50, 9, {"padding": 4}),
        (16, 9, 2, {"stride": 2}),
        (16, 11, 4, {"stride": 3, "padding": 1}),
        (40, 20, 5, {"padding": 4, "dilation": 2}),
        (33, 50, 9, {"padding": 4, "stride": 2}),
        (64, 13, 9, {"padding": 4}),
        (256, 13, 9, {"padding": 4}),
        (18, 20, 5, {"padding": 4, "dilation": 2}),
        (7, 5, 1, {}),
        (64, 25, 1, {"stride": 2}),
    ],
)
def test_bfloat16_errs_at_most_twice_as_much_as_pytorchs_own(
    channels: int, frames: int, taps: int, options: dict[str, int]
) -> None:
    """In the root mean square, over output and gradients: spectra are rounded where a sum over taps has nothing to."""
    torch.manual_seed(0)
    given = {name: value.bfloat16() for name, value in arguments(3, channels, channels, frames, 25, taps).items()}
    given["x"].relu_()
    results = []
    for function, dtype in (
        (ikem_ext.temporal_conv, torch.bfloat16), (pytorchs, torch.bfloat16), (pytorchs, torch.float64),
    ):  # fmt: skip
        leaves = {name: value.detach().to(dtype).requires_grad_() for name, value in given.items()}
        y = function(**leaves, **options)
        cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(dtype)
        results.append((y.detach(), *torch.autograd.grad(y, list(leaves.values()), cotangent)))
    for name, ours, plain, truth in zip(("y", *given), *results, strict=True):
        error, allowed = ((each.double() - truth).square().mean().sqrt() for each in (ours, plain))
        assert error <= 2 * allowed, f"{name}: {error:.3g}, PyTorch's {allowed:.3g}"


def test_zeros_before_and_behind_do_not_meet() -> None:
    """A single tile is a circle: what stands at one end must not reach the other."""
    for frames in range(1, 30):
        x = torch.zeros(1, 1, frames, 1, dtype=torch.float64)
        x[0, 0, -1] = 1
        weight = torch.arange(1.0, 10, dtype=torch.float64).view(1, 1, 9)
        torch.testing.assert_close(
            ikem_ext.temporal_conv(x, weight, padding=4), pytorchs(x, weight, padding=4), rtol=0, atol=1e-13
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_error_is_one_of_the_largest_frame_in_reach_of_a_circle(dtype: torch.dtype) -> None:
    given = {name: value.to(dtype) for name, value in arguments(2, 16, 16, 50, 5, 9).items()}
    given["x"][0, :, 0] *= 1e4
    truth = pytorchs(*(value.double() for value in given.values()), padding=4)
    error = (ikem_ext.temporal_conv(**given, padding=4) - truth).abs().amax((1, 2, 3))
    largest = truth.abs().amax((1, 2, 3))
    assert (error <= 2 * torch.finfo(dtype).eps * largest).all()  # each clip by its own


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("frames", "options"),
    [
        (10, {"stride": 100_000}),
        (10, {"stride": 3, "dilation": 2}),
        (12, {"stride": 4, "dilation": 6}),
        (9, {"stride": 5}),
    ],
)
def test_frames_that_no_tap_sees_have_no_part(frames: int, options: dict[str, int], dtype: torch.dtype) -> None:
    given = {name: value.to(dtype).requires_grad_() for name, value in arguments(2, 24, 16, frames, 5, 3).items()}
    y = ikem_ext.temporal_conv(**given, **options, padding=2)
    gradients = torch.autograd.grad(y.square().sum(), list(given.values()))
    leaves = [value.detach().double().requires_grad_() for value in given.values()]
    truth = pytorchs(*leaves, **options, padding=2)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for ours, expected in zip(
        (y, *gradients), (truth, *torch.autograd.grad(truth.square().sum(), leaves)), strict=True
    ):
        torch.testing.assert_close(
            ours.double(), expected, rtol=tolerance, atol=tolerance * expected.abs().max().item()
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_of_no_channels_the_bias_is_left(dtype: torch.dtype) -> None:
    given = {name: value.to(dtype).requires_grad_() for name, value in arguments(2, 0, 3, 5, 4, 3).items()}
    y = ikem_ext.temporal_conv(**given, padding=1)
    torch.testing.assert_close(y, given["bias"].view(1, 3, 1, 1).expand_as(y))
    (gradient,) = torch.autograd.grad(y.sum(), given["bias"])
    assert torch.equal(gradient, torch.full_like(gradient, 2 * 5 * 4))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_memory_layout_is_kept(layout: torch.memory_format, dtype: torch.dtype) -> None:
    given = {name: value.to(dtype) for name, value in arguments(2, 16, 32, 10, 5, 9).items()}
    x = given["x"].to(memory_format=layout).requires_grad_()
    y = ikem_ext.temporal_conv(x, given["weight"], given["bias"], padding=4)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    for tensor in (y, gradient):
        assert tensor.is_contiguous(memory_format=layout)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": torch.randn(2, 3, 4)}, ValueError, r"x: expected shape \(N, C_in, T, V\), got \(2, 3, 4\)"),
        ({"weight": torch.randn(5, 4, 3)}, ValueError, r"weight: expected shape \(C_out, C_in, K\) with C_in=3"),
        ({"bias": torch.randn(4)}, ValueError, r"bias: expected shape \(C_out,\) with C_out=5, got \(4,\)"),
        ({"weight": torch.randn(5, 3, 3).double()}, TypeError, "weight: expected torch.float32 as x has"),
        ({"stride": 0}, ValueError, "stride: expected at least 1, got 0"),
        ({"stride": (2, 1)}, TypeError, r"stride: expected an integer number of frames, got \(2, 1\)"),
        ({"padding": "same"}, TypeError, "padding: expected an integer number of frames, got 'same'"),
        ({"padding": -1}, ValueError, "padding: expected at least 0, got -1"),
        ({"norm": (torch.ones(3), torch.ones(3), 1e-5)}, ValueError, "norm: expected weight, bias, moments and eps"),
        (
            {"norm": (torch.ones(3), torch.ones(3), torch.ones(2, 4), 1e-5)},
            ValueError,
            r"norm_moments: expected shape \(2, C_in\) with C_in=3, got \(2, 4\)",
        ),
        (
            {"norm": (torch.ones(3, dtype=torch.int32), torch.ones(3), torch.ones(2, 3), 1e-5)},
            TypeError,
            "norm_weight: expected one of .*, got torch.int32",
        ),
        (
            {
                "x": torch.randn(1, 3, 1, 1),
                "padding": 1,
                "norm": (torch.ones(3), torch.ones(3), torch.ones(2, 3), 1e-5),
            },
            ValueError,
            "x: expected more than one value per channel in training",
        ),
        ({"dilation": 4}, ValueError, "weight: expected taps that span 1 to 6 frames.*got 3 that span 9"),
    ],
)
def test_bad_arguments_are_refused(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {name: value.float() for name, value in arguments(2, 3, 5, 6, 4, 3).items()}
    with pytest.raises(error, match=message):
        ikem_ext.temporal_conv(**{**given, **changed})


LEVELS = """
import sys, torch, ikem_ext
torch.manual_seed(0)
shapes = (2, 18, 13, 5), (20, 18, 9), (20,)
dtype = getattr(torch, sys.argv[2])
x, weight, bias = (torch.randn(shape).to(dtype).requires_grad_() for shape in shapes)
y = ikem_ext.temporal_conv(x, weight, bias, padding=4, stride=2)
norm = torch.ones(18).double(), torch.rand(18).double(), torch.rand(2, 18).double(), 1e-5
normed, moments = ikem_ext.temporal_conv(x, weight, bias, padding=4, norm=norm, moments=True)
gradients = [torch.autograd.grad(each.square().sum(), (x, weight, bias)) for each in (y, normed)]
torch.save([y.detach(), normed.detach(), moments, *gradients[0], *gradients[1]], sys.argv[1])
"""


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-11), ("bfloat16", 2e-2)])
def test_every_simd_level_computes_the_same(dtype: str, tolerance: float, tmp_path: Any) -> None:
    """In bfloat16 to its precision: where it is multiplied as such, other things are rounded."""
    results = []
    for level in torch.ops.ikem_ext.available_simd_levels().split():
        file = tmp_path / level
        subprocess.run([sys.executable, "-c", LEVELS, file, dtype], check=True, env={**os.environ, "IKEM_SIMD": level})
        results.append(torch.load(file, weights_only=True))
    for others in results[1:]:
        for other, first in zip(others, results[0], strict=True):
            torch.testing.assert_close(other, first, rtol=tolerance, atol=tolerance * first.abs().max().item())

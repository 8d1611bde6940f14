"""The CUDA kernels of the temporal convolution, compiled for the host and run without a GPU."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from on_host import SANITIZE
from on_host.temporal_conv import HostTemporalConv
from operation_checks import DTYPES, assert_as_accurate, non_contiguous
from test_temporal_conv import arguments
from torch import Tensor

from ikem_ext import reference
from ikem_ext.reference.batch_norm import moments_of

HERE = Path(__file__).parent

Given = dict[str, Any]


@pytest.fixture(scope="module")
def on_host(compile_for_host: Callable[..., Path]) -> HostTemporalConv:
    source = HERE / "temporal_conv_on_host.cpp"
    return HostTemporalConv(compile_for_host("temporal_conv.so", "-O1", "-fPIC", "-shared", source))


def run(function: Callable[..., Tensor], given: Given, precision: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """The output and the gradients of all tensors; the output's has that precision, if not less."""
    leaves = {
        name: value.detach().requires_grad_() if isinstance(value, Tensor) else value for name, value in given.items()
    }
    y = function(**leaves)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cotangent = cotangent.to(precision).to(y.dtype)
    return y.detach(), *torch.autograd.grad(
        y, [leaf for leaf in leaves.values() if isinstance(leaf, Tensor)], cotangent
    )


def converted(given: Given, dtype: torch.dtype) -> Given:
    return {name: value.to(dtype) if isinstance(value, Tensor) else value for name, value in given.items()}


def check(on_host: HostTemporalConv, given: Given, allow_tf32: bool = False, ulps: float = 4) -> None:
    """Output and gradients as accurate as the twin's."""

    def ours(**leaves: Any) -> Tensor:
        return on_host(**leaves, allow_tf32=allow_tf32)

    dtype = given["x"].dtype
    plain = run(reference.temporal_conv, given), run(reference.temporal_conv, converted(given, torch.float64), dtype)
    names = ("output", *(name for name, value in given.items() if isinstance(value, Tensor)))
    for name, *each in zip(names, run(ours, given), *plain, strict=True):
        assert_as_accurate(*each, name, ulps)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_the_plain_twin(on_host: HostTemporalConv, dtype: torch.dtype) -> None:
    """Channels of one, two and three slices of a sum and for each of the widths of a block."""
    torch.manual_seed(0)
    for c_in, c_out, frames in ((3, 18, 7), (18, 3, 13), (20, 40, 60)):
        check(on_host, {**converted(arguments(2, c_in, c_out, frames, 5, 9), dtype), "padding": 4})
    check(on_host, {**converted(arguments(1, 70, 40, 3, 3, 3), dtype), "padding": 1})


sizes = st.tuples(st.integers(0, 3), *(st.integers(1, 20) for _ in range(2)), st.integers(1, 70), st.integers(1, 5))


@settings(max_examples=40, deadline=None)
@given(
    sizes, st.integers(1, 11), *(st.integers(1, 4) for _ in range(2)), st.integers(0, 9), st.booleans(),
    st.sampled_from([torch.float64, torch.float16]),
)  # fmt: skip
def test_any_size(
    on_host: HostTemporalConv,
    sizes: tuple[int, ...],
    taps: int,
    stride: int,
    dilation: int,
    padding: int,
    channels_last: bool,
    dtype: torch.dtype,
) -> None:
    frames = max(sizes[3], dilation * (taps - 1) + 1 - 2 * padding)
    given = converted(arguments(*sizes[:3], frames, sizes[4], taps), dtype)
    if channels_last:
        given["x"] = given["x"].to(memory_format=torch.channels_last)
    check(on_host, {**given, "stride": stride, "dilation": dilation, "padding": padding})


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((1, 2, 3, 40, 2, 9), {"stride": 60, "padding": 20}),  # one output: no stride
        ((1, 2, 3, 9, 2, 1), {"stride": 2, "dilation": 1000}),  # one tap: no dilation
        ((1, 2, 3, 30, 2, 3), {"stride": 12, "dilation": 5}),  # more classes of the gradient than frames
        ((1, 1, 1, 1, 1, 1), {}),
        ((1, 2, 3, 1, 2, 9), {"padding": 4}),  # one frame
        ((1, 2, 3, 5, 2, 25), {"padding": 30}),  # more padding than taps reach
    ],
)
def test_strides_and_padding_beyond_the_frames(
    on_host: HostTemporalConv, sizes: tuple[int, ...], options: dict[str, int]
) -> None:
    torch.manual_seed(0)
    check(on_host, {**arguments(*sizes), **options})


@pytest.mark.parametrize(("frames", "joints", "taps"), [(3, 300, 3), (40, 67, 9), (150, 1, 70)])
def test_more_joints_and_taps_than_a_tile_has_room_for(
    on_host: HostTemporalConv, frames: int, joints: int, taps: int
) -> None:
    torch.manual_seed(0)
    check(on_host, {**arguments(1, 2, 3, frames, joints, taps, torch.float32), "padding": taps // 2})


@pytest.mark.parametrize("layout", ["channels last", "strided", "expanded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_layouts(on_host: HostTemporalConv, layout: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    given = converted(arguments(2, 16, 40, 20, 5, 5), dtype)
    if layout == "channels last":
        given["x"] = given["x"].to(memory_format=torch.channels_last)
    elif layout == "strided":
        given = {name: non_contiguous(value) for name, value in given.items()}
        given["bias"] = given["bias"].contiguous()
    else:
        given["x"] = given["x"][:1, :, :, :1].expand(2, 16, 20, 5)
    if layout == "expanded":  # whose gradient would have one place for several numbers
        wide = converted(given, torch.float64)
        assert_as_accurate(
            on_host(**given), reference.temporal_conv(**given), reference.temporal_conv(**wide), layout, ulps=4
        )
    else:
        check(on_host, {**given, "stride": 2, "padding": 2})


def test_tf32_only_where_allowed_and_not_for_the_bias(on_host: HostTemporalConv) -> None:
    torch.manual_seed(0)
    given = {**arguments(2, 20, 40, 11, 7, 9, torch.float32), "padding": 4}
    check(on_host, given, allow_tf32=True, ulps=2e-3 / torch.finfo(torch.float32).eps)
    exact, rounded = (
        run(lambda allowed=allowed, **leaves: on_host(**leaves, allow_tf32=allowed), given) for allowed in (False, True)
    )
    assert all(not torch.equal(*each) for each in zip(exact[:3], rounded[:3], strict=True))
    assert torch.equal(exact[3], rounded[3])


def test_gradients_for_some_inputs_alone(on_host: HostTemporalConv) -> None:
    torch.manual_seed(0)
    given = arguments(3, 18, 33, 12, 4, 3)
    leaves = [value.requires_grad_() for value in given.values()]
    together = torch.autograd.grad(on_host(*leaves, stride=2).square().sum(), leaves)
    for i, leaf in enumerate(leaves):
        others = [other.detach() if other is not leaf else leaf for other in leaves]
        (alone,) = torch.autograd.grad(on_host(*others, stride=2).square().sum(), [leaf])
        assert torch.equal(alone, together[i])


def test_same_bits_each_time(on_host: HostTemporalConv) -> None:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        given = converted(arguments(2, 18, 20, 12, 25, 5), dtype)
        for first, again in zip(run(on_host, given), run(on_host, given), strict=True):
            assert torch.equal(first, again)


def test_many_clips_are_summed_up_in_chunks(on_host: HostTemporalConv) -> None:
    """More tiles than a gradient's sums are spread over blocks."""
    torch.manual_seed(0)
    check(on_host, arguments(700, 2, 3, 2, 2, 2, torch.float32))


def test_no_channels_bias_or_clips(on_host: HostTemporalConv) -> None:
    torch.manual_seed(0)
    for dtype in (torch.float64, torch.bfloat16):
        given = converted(arguments(0, 3, 4, 5, 6, 3), dtype)
        y = on_host(**given)
        assert y.shape == (0, 4, 3, 6)
        without_norm = None, None, None, 0.0, True
        gradients = on_host.backward(y, given["x"], given["weight"], *without_norm, 1, 0, 1, False, *(True,) * 3)
        for value, gradient in zip(given.values(), gradients[:3], strict=True):
            assert gradient is not None and gradient.shape == value.shape
            assert not gradient.any()
    given = arguments(2, 3, 4, 5, 6, 3)
    check(on_host, {"x": given["x"], "weight": given["weight"]})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_infinity_stays_with_the_taps_and_channels_that_meet_it(on_host: HostTemporalConv, dtype: torch.dtype) -> None:
    """Also where the products of the gradients go by whole steps of positions, of which a tile has fewer."""
    torch.manual_seed(0)
    for frame in (0, 6, 12):
        given = {**converted(arguments(1, 3, 4, 13, 5, 9), dtype), "padding": 4}
        given["x"][0, 1, frame, 2] = torch.inf
        twins = run(reference.temporal_conv, given)
        for allow_tf32 in (False, True):
            ours = run(lambda allowed=allow_tf32, **leaves: on_host(**leaves, allow_tf32=allowed), given)
            for mine, plain in zip(ours, twins, strict=True):
                assert torch.equal(mine.isfinite(), plain.isfinite())


def normed(given: Given, layout: torch.memory_format = torch.contiguous_format) -> Given:
    """With a norm before the convolution, of features that are far from zero, and behind it none so near to it that
    one precision has it pass the ReLU and another has not.
    """
    x = ((given["x"] * 3 + 5) * 8).round().div(8).to(memory_format=layout)
    numbers = torch.randn(2, x.shape[1], dtype=torch.float64).to(x.dtype)
    return {**given, "x": x, "norm_weight": numbers[0], "norm_bias": numbers[1]}


def check_normed(
    on_host: HostTemporalConv, given: Given, training: bool = True, allow_tf32: bool = False, ulps: float = 4
) -> None:
    """Output, moments and gradients as accurate as the twin's, the norm's own among them."""
    dtype, x = given["x"].dtype, given["x"].double()
    constant = torch.stack((torch.randn(x.shape[1]), torch.rand(x.shape[1]) + 0.1)).double()
    moments = moments_of(x) if training else constant
    found = []

    def call(function: Callable[..., Any], **options: Any) -> Callable[..., Tensor]:
        def run(*, norm_weight: Tensor, norm_bias: Tensor, **leaves: Any) -> Tensor:
            wide = torch.promote_types(leaves["x"].dtype, torch.float32)
            norm = norm_weight, norm_bias, moments.to(wide), 1e-5
            y, made = function(**leaves, **options, norm=norm, training=training, moments=True)
            found.append(made)
            return y

        return run

    ours = run(call(on_host, allow_tf32=allow_tf32), given)
    plain = run(call(reference.temporal_conv), given)
    truth = run(call(reference.temporal_conv), converted(given, torch.float64), dtype)
    names = ("output", *(name for name, value in given.items() if isinstance(value, Tensor)))
    for name, *each in zip(names, ours, plain, truth, strict=True):
        assert_as_accurate(*each, name, ulps)
    # Of x behind a norm, which is rounded before it is multiplied.
    assert_as_accurate(*(each.to(dtype) for each in found[:2]), found[2], "moments", ulps)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norms_on_either_side(on_host: HostTemporalConv, dtype: torch.dtype, layout: torch.memory_format) -> None:
    """Blocks of each width, several slices of the channels, and tiles that share out a clip."""
    torch.manual_seed(0)
    for c_in, c_out, frames in ((3, 18, 7), (18, 3, 13), (20, 40, 60)):
        given = normed(converted(arguments(2, c_in, c_out, frames, 5, 9), dtype), layout)
        check_normed(on_host, {**given, "padding": 4}, training=c_in != 3)
    check_normed(on_host, normed(converted(arguments(1, 70, 40, 3, 3, 3), dtype), layout))


@settings(max_examples=40, deadline=None)
@given(
    sizes, st.integers(1, 11), *(st.integers(1, 4) for _ in range(2)), st.integers(0, 9), st.booleans(), st.booleans()
)  # fmt: skip
def test_norms_at_any_size(
    on_host: HostTemporalConv,
    sizes: tuple[int, ...],
    taps: int,
    stride: int,
    dilation: int,
    padding: int,
    channels_last: bool,
    training: bool,
) -> None:
    frames = max(sizes[3], dilation * (taps - 1) + 1 - 2 * padding, 2)
    given = normed(
        arguments(max(sizes[0], 1), *sizes[1:3], frames, sizes[4], taps),
        torch.channels_last if channels_last else torch.contiguous_format,
    )
    check_normed(on_host, {**given, "stride": stride, "dilation": dilation, "padding": padding}, training)


@pytest.mark.parametrize(("frames", "joints", "taps"), [(3, 300, 3), (40, 67, 9)])
def test_norms_where_a_tile_has_some_of_the_joints(
    on_host: HostTemporalConv, frames: int, joints: int, taps: int
) -> None:
    torch.manual_seed(0)
    given = normed(arguments(1, 2, 3, frames, joints, taps, torch.float32))
    check_normed(on_host, {**given, "padding": taps // 2})


def test_norms_where_float32_is_rounded_to_tf32(on_host: HostTemporalConv) -> None:
    torch.manual_seed(0)
    given = {**normed(arguments(2, 20, 40, 11, 7, 9, torch.float32)), "padding": 4}
    check_normed(on_host, given, allow_tf32=True, ulps=2e-3 / torch.finfo(torch.float32).eps)


def test_norms_with_strided_features_and_without_bias(on_host: HostTemporalConv) -> None:
    torch.manual_seed(0)
    given = normed(arguments(2, 5, 6, 12, 7, 3, torch.float32))
    del given["bias"]
    check_normed(on_host, {**given, "x": non_contiguous(given["x"]), "stride": 2})


def test_norm_gives_the_same_bits_each_time_and_for_some_inputs_alone(on_host: HostTemporalConv) -> None:
    torch.manual_seed(0)
    given = normed(arguments(300, 5, 6, 8, 5, 3, torch.float32))
    leaves = [given[name].requires_grad_() for name in ("x", "weight", "bias", "norm_weight", "norm_bias")]
    moments = moments_of(given["x"].detach())

    def call(x: Tensor, weight: Tensor, bias: Tensor, *norm: Tensor) -> tuple[Tensor, Tensor]:
        return on_host(x, weight, bias, norm=(*norm, moments, 1e-5), moments=True)

    (y, of_y), again = call(*leaves), call(*leaves)
    assert torch.equal(y, again[0]) and torch.equal(of_y, again[1])
    together = torch.autograd.grad(y.square().sum(), leaves)
    for i, leaf in enumerate(leaves):
        others = [other.detach() if other is not leaf else leaf for other in leaves]
        (alone,) = torch.autograd.grad(call(*others)[0].square().sum(), [leaf])
        assert torch.equal(alone, together[i])


def test_moments_of_numbers_far_from_zero(on_host: HostTemporalConv) -> None:
    """A sum of squares minus the square of the sum would leave nothing."""
    torch.manual_seed(0)
    weight, bias = torch.zeros(3, 2, 1), torch.full((3,), 1e4)
    weight[:, 0] = 1
    x = torch.randn(8, 2, 40, 25)
    y, moments = on_host(x, weight, bias, moments=True)
    assert torch.equal(y, on_host(x, weight, bias))
    torch.testing.assert_close(moments[1], y.double().var((0, 2, 3), correction=0).float(), rtol=1e-3, atol=0)


def test_what_is_not_a_number_stays_behind_the_norm(on_host: HostTemporalConv) -> None:
    given = normed(arguments(1, 3, 4, 9, 2, 3))
    given["x"][0, 1, 4, 1] = torch.nan
    y = on_host(
        given["x"], given["weight"], norm=(given["norm_weight"], given["norm_bias"], torch.ones(2, 3), 1e-5), padding=1
    )
    assert torch.equal(y.isnan().any(1)[0], torch.arange(9)[:, None].sub(4).abs().le(1) & torch.tensor([False, True]))


def test_formula_under_the_sanitizers(compile_for_host: Callable[..., Path]) -> None:
    program = compile_for_host("sanitized", *SANITIZE, HERE / "temporal_conv_cuda_sanitized.cpp")
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

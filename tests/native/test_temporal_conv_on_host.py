"""The CUDA kernels of the temporal convolution, compiled for the host and run without a GPU."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from on_host import SANITIZE, address, empty_like_x, pointer
from operation_checks import DTYPES, assert_as_accurate, non_contiguous
from test_temporal_conv import arguments
from torch import Tensor

from ikem_ext import reference

HERE = Path(__file__).parent
OPTIONS = ("stride", "padding", "dilation")
NAMES = ("x", "weight", "bias")

Given = dict[str, Any]


class Arguments(ctypes.Structure):
    """The structure of the same name in temporal_conv_on_host.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in "clips in_channels out_channels frames out_frames joints taps".split()),
        *((name, ctypes.c_int64) for name in "stride dilation padding allow_tf32".split()),
        *((name, ctypes.c_void_p) for name in "x weight bias x_strides weight_strides".split()),
    )


class HostTemporalConv:
    """`temporal_conv` and its gradients by the CUDA kernels on the host."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.temporal_conv_forward.restype = ctypes.c_char_p
        self._library.temporal_conv_backward.restype = ctypes.c_char_p

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        allow_tf32: bool = False,
    ) -> Tensor:
        """The output, differentiable in all inputs."""
        settings = stride, padding, dilation, allow_tf32

        class OnHost(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *values: Tensor | None) -> Tensor:
                ctx.save_for_backward(*values)
                return self.forward(values, *settings)

            @staticmethod
            def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
                return self.backward(grad_y, ctx.saved_tensors, ctx.needs_input_grad, *settings)

        return OnHost.apply(x, weight, bias)

    def forward(self, values: tuple[Tensor | None, ...], *settings: int) -> Tensor:
        arguments, _strides = self._arguments(values, *settings)
        x = values[0]
        y = empty_like_x(x, (arguments.clips, arguments.out_channels, arguments.out_frames, arguments.joints))
        self._call("temporal_conv_forward", arguments, y)
        return y

    def backward(
        self, grad_y: Tensor, values: tuple[Tensor | None, ...], wanted: tuple[bool, ...], *settings: int
    ) -> tuple[Tensor | None, ...]:
        arguments, _strides = self._arguments(values, *settings)
        gradients = [
            torch.full_like(value, torch.nan, memory_format=torch.contiguous_format) if asked else None
            for value, asked in zip(values, wanted, strict=True)
        ]
        if wanted[0]:
            x = values[0]
            gradients[0] = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype).fill_(torch.nan)
        self._call("temporal_conv_backward", arguments, grad_y, *gradients)
        return tuple(gradients)

    def _arguments(
        self, values: tuple[Tensor | None, ...], stride: int, padding: int, dilation: int, allow_tf32: bool
    ) -> tuple[Arguments, Any]:
        x, weight, bias = values
        clips, in_channels, frames, joints = x.shape
        out_channels, _, taps = weight.shape
        out_frames = (frames + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
        strides = torch.tensor(x.stride()), torch.tensor(weight.stride())
        sizes = (
            clips, in_channels, out_channels, frames, out_frames, joints, taps, stride, dilation, padding, allow_tf32,
        )  # fmt: skip
        return Arguments(*sizes, *map(address, (x, weight, bias, *strides))), strides

    def _call(self, function: str, arguments: Arguments, y: Tensor, *gradients: Tensor | None) -> None:
        strides = torch.tensor(y.stride())
        error = getattr(self._library, function)(
            DTYPES.index(y.dtype), ctypes.byref(arguments), pointer(y), pointer(strides), *map(pointer, gradients)
        )
        assert error is None, error


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
        gradients = on_host.backward(y, tuple(given.values()), (True, True, True), 1, 0, 1, False)
        for value, gradient in zip(given.values(), gradients, strict=True):
            assert gradient.shape == value.shape
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


def test_formula_under_the_sanitizers(compile_for_host: Callable[..., Path]) -> None:
    program = compile_for_host("sanitized", "-O1", "-g1", *SANITIZE, HERE / "temporal_conv_cuda_sanitized.cpp")
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operation_checks import (
    DTYPES,
    Arguments,
    OperationChecks,
    assert_as_accurate,
    by_threads,
    cotangent,
    non_contiguous,
)
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import ikem_ext
from ikem_ext import reference
from ikem_ext.reference.batch_norm import moments_of

NAMES = ("x", "weight", "bias", "adjacency")
PER = ("shared", "clip", "channel")

Golden = Callable[[str], dict[str, np.ndarray]]


def written_out(x: Tensor, weight: Tensor, bias: Tensor | None, adjacency: Tensor) -> Tensor:
    """The formula for one clip, loop by loop: x (C_in, T, V), adjacency (K, V, W) or (K, C_out, V, W)."""
    parts, channels = weight.shape[:2]
    y = x.new_zeros(channels, x.shape[1], adjacency.shape[-1])
    for k in range(parts):
        for o in range(channels):
            transformed = torch.tensordot(weight[k, o], x, dims=1) + (0 if bias is None else bias[k, o])
            y[o] += transformed @ (adjacency[k] if adjacency.dim() == 3 else adjacency[k, o])
    return y


def arguments(
    n: int, c_in: int, c_out: int, t: int, v: int, w: int, k: int, per: str, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, ...]:
    adjacency = {"shared": (k, v, w), "clip": (n, k, v, w), "channel": (n, k, c_out, v, w)}[per]
    shapes = (n, c_in, t, v), (k, c_out, c_in), (k, c_out), adjacency
    return tuple(torch.randn(shape, dtype=dtype) for shape in shapes)


@pytest.fixture(autouse=True)
def no_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA the twin, which multiplies matrices, computes in float32 by default; convolutions do not."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


class TestSharedAdjacency(OperationChecks):
    operation = staticmethod(ikem_ext.graph_conv)
    reference = staticmethod(reference.graph_conv)
    differentiable = NAMES
    autocast_dtype = torch.bfloat16
    ulps = 4  # sums of other orders: of few numbers, either may be lucky
    batch_axes: ClassVar[dict[str, int]] = {"x": 0}
    per: ClassVar[str] = "shared"
    groups: ClassVar[tuple[int, ...]] = ()

    def inputs(self, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> dict[str, Tensor]:
        """Channels that fill no vector, and then some; both orders of summing; zeros in the adjacency."""
        torch.manual_seed(seed)
        c_in, c_out = ((3, 18), (18, 3), (16, 16))[seed % 3]
        groups = [arguments(3, c_in, c_out, 5, 6, 7, 3, self.per) for _ in range(sum(self.groups) or 1)]
        values = [torch.stack(each).view(self.groups + each[0].shape) for each in zip(*groups, strict=True)]
        values[-1] *= torch.rand(values[-1].shape[-3:]) < 0.5
        return {name: value.to(device, dtype) for name, value in zip(NAMES, values, strict=True)}

    def native_calls(self, arguments: Arguments) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        operations = torch.ops.ikem_ext
        yield operations.graph_conv.default, (*arguments.values(), False)
        plain = [value.detach() for value in arguments.values()]
        gradient = torch.ones_like(ikem_ext.graph_conv(*plain))
        last = non_contiguous(gradient)
        for wanted in ((True, True, True, True), (False, True, False, True), (True, False, False, False)):
            yield operations.graph_conv_backward.default, (gradient, *plain, *wanted, False)
            yield operations.graph_conv_backward.default, (last, non_contiguous(plain[0]), *plain[1:], *wanted, False)


class TestAdjacencyPerClip(TestSharedAdjacency):
    per = "clip"
    batch_axes: ClassVar[dict[str, int]] = {"x": 0, "adjacency": 0}


class TestAdjacencyPerChannel(TestAdjacencyPerClip):
    per = "channel"


class TestGroups(TestSharedAdjacency):
    per = "clip"
    batch_axes: ClassVar[dict[str, int]] = {"x": 1, "adjacency": 1}
    groups = (2,)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("per", [*PER, "groups"])
@pytest.mark.parametrize("channels", [(3, 18), (18, 3), (64, 64)])
def test_moments_are_those_of_the_result(
    channels: tuple[int, int], per: str, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    """And they change nothing: neither the result nor its gradients."""
    torch.manual_seed(0)
    sets = [arguments(3, *channels, 20, 6, 7, 3, "shared" if per == "groups" else per) for _ in range(2)]
    values = [torch.stack(both) if per == "groups" else both[0] for both in zip(*sets, strict=True)]
    values[0] = values[0].flatten(0, -4).to(memory_format=layout).view(values[0].shape)
    values[2] += 10  # so that a difference of squares would be seen
    leaves = [value.to(dtype).requires_grad_() for value in values]
    y, moments = ikem_ext.graph_conv(*leaves, moments=True)
    plain = ikem_ext.graph_conv(*leaves)
    assert torch.equal(y, plain)
    assert not moments.requires_grad and moments.dtype == torch.promote_types(dtype, torch.float32)
    for both in zip(*(torch.autograd.grad(each, leaves, cotangent(y)) for each in (y, plain)), strict=True):
        assert torch.equal(*both)
    truth = reference.graph_conv(*(each.detach().double() for each in leaves), moments=True)[1]
    if per == "channel":  # by a pass of their own
        truth = moments_of(y.detach().double())
    # In bfloat16 what is multiplied may be rounded on the way.
    tolerance = {torch.float64: 1e-12, torch.bfloat16: 1e-3}.get(dtype, 1e-5)
    torch.testing.assert_close(moments.double(), truth, rtol=tolerance, atol=tolerance * truth.max().item())


@pytest.mark.parametrize("groups", [(), (2,)])
def test_moments_under_the_checks_of_operations(groups: tuple[int, ...]) -> None:
    values = [torch.randn(*groups, *each.shape, dtype=each.dtype) for each in arguments(2, 3, 5, 6, 4, 4, 2, "shared")]
    torch.library.opcheck(
        torch.ops.ikem_ext.graph_conv_moments.default, (*(each.requires_grad_() for each in values), False)
    )
    detached = [each.detach() for each in values]
    made = by_threads(lambda: ikem_ext.graph_conv(*detached, moments=True)[1])
    assert all(torch.equal(each, made[0]) for each in made)
    compiled = torch.compile(ikem_ext.graph_conv, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*detached, moments=True)[1], made[0])
    mapped = torch.func.vmap(lambda x: ikem_ext.graph_conv(x, *detached[1:], moments=True)[1])
    torch.testing.assert_close(mapped(torch.stack([detached[0]] * 2)), torch.stack([made[0]] * 2))


def check_against_twin(values: tuple[Tensor | None, ...]) -> None:
    """Output and gradients in float64."""
    results = []
    for function in (ikem_ext.graph_conv, reference.graph_conv):
        leaves = [None if value is None else value.detach().requires_grad_() for value in values]
        y = function(*leaves)
        results.append((y, *torch.autograd.grad(y, [leaf for leaf in leaves if leaf is not None], cotangent(y))))
    for ours, plain in zip(*results, strict=True):
        largest = plain.detach().abs().max().item() if plain.numel() else 0
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9 * max(1, largest))


sizes = st.tuples(
    st.integers(0, 3),
    *(st.integers(1, 7) for _ in range(5)),
    st.integers(1, 4),
    st.sampled_from(("shared", "clip", "channel")),
)


@settings(max_examples=50)
@given(sizes, st.booleans())
def test_formula_written_out(sizes: tuple, biased: bool) -> None:
    x, weight, bias, adjacency = arguments(*sizes)
    y = ikem_ext.graph_conv(x, weight, bias if biased else None, adjacency)
    assert y.shape == (x.shape[0], weight.shape[1], x.shape[2], adjacency.shape[-1])
    for n in range(len(x)):
        own = adjacency if sizes[-1] == "shared" else adjacency[n]
        torch.testing.assert_close(y[n], written_out(x[n], weight, bias if biased else None, own))


@pytest.mark.parametrize("per", ["shared", "clip", "channel"])
def test_groups_are_independent(per: str) -> None:
    groups = [arguments(2, 3, 4, 5, 6, 7, 3, per) for _ in range(3)]
    together = ikem_ext.graph_conv(*(torch.stack(each) for each in zip(*groups, strict=True)))
    for y, each in zip(together, groups, strict=True):
        torch.testing.assert_close(y, ikem_ext.graph_conv(*each))


def check_golden_layer_of_st_gcn(graph_conv: Callable[..., Tensor], golden: Golden) -> None:
    """The published graph convolution: its 1x1 convolution holds the parts of the graph as channels."""
    arrays = {name: torch.from_numpy(array) for name, array in golden("layer_st_gcn_conv_temporal_graphical").items()}
    x = arrays["input"].requires_grad_()
    weight, bias = (arrays[f"param/conv.{name}"].requires_grad_() for name in ("weight", "bias"))
    y = graph_conv(x, weight.view(3, 16, 6), bias.view(3, 16), arrays["adjacency"])
    torch.testing.assert_close(y, arrays["output"], rtol=1e-9, atol=1e-9)
    y.backward(arrays["cotangent"])
    torch.testing.assert_close(x.grad, arrays["grad_input"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(weight.grad, arrays["grad/conv.weight"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(bias.grad, arrays["grad/conv.bias"], rtol=1e-9, atol=1e-9)


def test_golden_layer_of_st_gcn(golden: Golden) -> None:
    check_golden_layer_of_st_gcn(ikem_ext.graph_conv, golden)


@pytest.mark.gpu
@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("sizes", [(37, 16, 16, 50, 25, 25, 3), (5, 64, 256, 13, 25, 25, 3), (3, 3, 5, 7, 131, 2, 1)])
def test_larger_sizes_on_cuda(per: str, sizes: tuple[int, ...]) -> None:
    check_against_twin(tuple(value.cuda() for value in arguments(*sizes, per)))


@pytest.mark.gpu
def test_tf32_where_convolutions_may_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [value.cuda() for value in arguments(2, 32, 32, 5, 25, 25, 3, "shared", torch.float32)]
    exact = ikem_ext.graph_conv(*values)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    rounded = ikem_ext.graph_conv(*values)
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0, atol=2e-3 * exact.abs().max().item())
    assert torch.equal(torch.compile(ikem_ext.graph_conv, fullgraph=True, backend="eager")(*values), rounded)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("channels", [(3, 16), (16, 16), (256, 64)])
def test_moments_on_cuda(channels: tuple[int, int], per: str, layout: torch.memory_format, dtype: torch.dtype) -> None:
    """In either order, of several tiles to a clip; and they change nothing."""
    torch.manual_seed(0)
    values = [value.to("cuda", dtype) for value in arguments(9, *channels, 50, 25, 25, 3, per)]
    values[0], values[2] = values[0].to(memory_format=layout), values[2] + 10
    y, moments = ikem_ext.graph_conv(*values, moments=True)
    assert torch.equal(y, ikem_ext.graph_conv(*values))
    assert torch.equal(moments, ikem_ext.graph_conv(*values, moments=True)[1])
    plain = reference.graph_conv(*values, moments=True)[1]
    truth = reference.graph_conv(*(value.double() for value in values), moments=True)[1]
    assert_as_accurate(moments.to(dtype), plain.to(dtype), truth, "moments", ulps=4)


@pytest.mark.gpu
def test_runs_in_a_cuda_graph_on_a_stream_of_its_own() -> None:
    values = [value.cuda() for value in arguments(4, 16, 16, 9, 25, 25, 3, "clip", torch.float32)]

    def run() -> tuple[Tensor, ...]:
        # New leaves each time: what autograd keeps of a leaf belongs to the stream of its first use.
        leaves = [value.detach().requires_grad_() for value in values]
        y = ikem_ext.graph_conv(*leaves)
        return y.detach(), *torch.autograd.grad(y, leaves, torch.ones_like(y))

    eager = run()
    with torch.cuda.stream(torch.cuda.Stream()):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(eager, captured, strict=True))


any_size = st.tuples(
    st.integers(0, 4),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 30),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 4),
    st.sampled_from(PER),
)


@settings(max_examples=100)
@given(
    any_size, st.booleans(), st.sampled_from(("contiguous", "channels last", "strided")), st.sampled_from((0, 0.9, 1))
)
def test_any_size_and_layout(sizes: tuple, biased: bool, layout: str, zeros: float) -> None:
    x, weight, bias, adjacency = arguments(*sizes)
    adjacency *= torch.rand(adjacency.shape) >= zeros
    if layout == "channels last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        x, weight, bias, adjacency = map(non_contiguous, (x, weight, bias, adjacency))
    check_against_twin((x, weight, bias if biased else None, adjacency))


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize(("clips", "frames"), [(37, 50), (2, 700)], ids=["many clips", "long clips"])
def test_same_bits_for_any_number_of_threads_of_a_large_problem(per: str, clips: int, frames: int) -> None:
    """Tiles, chunks and their partial sums: enough work to be given to several threads."""
    torch.manual_seed(0)  # of some draws, plain PyTorch errs less than half as much
    values = arguments(clips, 16, 20, frames, 25, 25, 3, per, torch.float32)
    leaves = [value.requires_grad_() for value in values]
    cotangent = torch.randn(clips, 20, frames, 25)

    def run() -> list[Tensor]:
        y = ikem_ext.graph_conv(*leaves)
        return [y, *torch.autograd.grad(y, leaves, cotangent)]

    results = by_threads(run, (1, 2, 4, 3))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    truth = reference.graph_conv(*wide)
    plain = reference.graph_conv(*leaves)
    truths = (truth, *torch.autograd.grad(truth, wide, cotangent.double()))
    plains = (plain, *torch.autograd.grad(plain, leaves, cotangent))
    for name, *each in zip(("output", *NAMES), results[0], plains, truths, strict=True):
        assert_as_accurate(*(value.detach() for value in each), name)


@pytest.mark.parametrize("shape", [(2, 16, 5, 25), (2, 2, 16, 5, 25)], ids=["plain", "grouped"])
def test_channels_last_stays_channels_last(shape: tuple[int, ...]) -> None:
    group = shape[:-4]
    weight, bias, adjacency = torch.randn(*group, 3, 8, 16), torch.randn(*group, 3, 8), torch.randn(*group, 3, 25, 25)
    x = torch.randn(shape)
    last = x.movedim(-3, -1).contiguous().movedim(-1, -3).requires_grad_()
    y, y_last = (ikem_ext.graph_conv(each, weight, bias, adjacency) for each in (x, last))
    assert y.is_contiguous() and y_last.movedim(-3, -1).is_contiguous()
    assert torch.equal(y, y_last)
    (gradient,) = torch.autograd.grad(y_last, last, torch.ones_like(y_last))
    assert gradient.movedim(-3, -1).is_contiguous()


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize(("clips", "frames"), [(0, 5), (2, 0)], ids=["no clips", "no frames"])
def test_empty_batch_has_gradients_of_zero(per: str, clips: int, frames: int) -> None:
    leaves = [value.requires_grad_() for value in arguments(clips, 3, 4, frames, 6, 7, 3, per)]
    y = ikem_ext.graph_conv(*leaves)
    assert y.shape == (clips, 4, frames, 7)
    for leaf, gradient in zip(leaves, torch.autograd.grad(y.sum(), leaves), strict=True):
        assert gradient.shape == leaf.shape
        assert not gradient.any()


@pytest.mark.parametrize(("channels", "dtype"), [(18, torch.float64), (16, torch.bfloat16)])
def test_infinity_stays_in_its_part_of_the_graph(channels: int, dtype: torch.dtype) -> None:
    """The parts' channels lie side by side in vectors and tiles; none may reach the gradient of another part."""
    x, weight, bias, adjacency = arguments(2, 3, channels, 5, 6, 7, 3, "shared", dtype)
    weight[1] = float("inf")
    adjacency.requires_grad_()
    (gradient,) = torch.autograd.grad(ikem_ext.graph_conv(x, weight, bias, adjacency).sum(), adjacency)
    assert gradient[0].isfinite().all() and gradient[2].isfinite().all()
    assert not gradient[1].isfinite().any()


@pytest.mark.parametrize("level", torch.ops.ikem_ext.available_simd_levels().split()[:-1])
def test_lower_simd_levels(level: str) -> None:
    """The comparisons above once more, in a process that runs at the level."""
    tests = "in_use or matches_the_plain_twin or any_size_and_layout or infinity"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__, "-k", tests],
        env={**os.environ, "IKEM_SIMD": level},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout


def test_simd_level_in_use() -> None:
    assert torch.ops.ikem_ext.simd_level() == os.environ.get(
        "IKEM_SIMD", torch.ops.ikem_ext.available_simd_levels().split()[-1]
    )


def test_autocast_computes_in_its_dtype() -> None:
    values = arguments(2, 3, 4, 5, 6, 6, 3, "shared", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = ikem_ext.graph_conv(*values)
    assert torch.equal(y, ikem_ext.graph_conv(*(value.bfloat16() for value in values)))


@pytest.mark.parametrize("grouped", [False, True])
def test_vmap_is_one_more_group(grouped: bool) -> None:
    x, weight, bias, adjacency = (
        torch.stack([value] * 2) if grouped else value for value in arguments(2, 3, 4, 5, 6, 7, 3, "clip")
    )
    many = torch.stack([x, 2 * x, -x], 1)
    y = torch.vmap(ikem_ext.graph_conv, in_dims=(1, None, None, None))(many, weight, bias, adjacency)
    each = [ikem_ext.graph_conv(one, weight, bias, adjacency) for one in many.unbind(1)]
    torch.testing.assert_close(y, torch.stack(each))
    y = torch.vmap(ikem_ext.graph_conv)(many.movedim(1, 0), *(torch.stack([v] * 3) for v in (weight, bias, adjacency)))
    torch.testing.assert_close(y, torch.stack(each))


def test_compiles_with_dynamic_sizes() -> None:
    compiled = torch.compile(ikem_ext.graph_conv, fullgraph=True, dynamic=True, backend="aot_eager")
    for clips, frames in ((2, 5), (3, 8), (5, 2)):
        values = arguments(clips, 3, 4, frames, 6, 7, 3, "clip")
        torch.testing.assert_close(compiled(*values), ikem_ext.graph_conv(*values))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(2, 3, 5)}, ValueError, r"x: expected shape \(N, C_in, T, V\) or \(G, N, C_in, T, V\)"),
        ({"weight": torch.zeros(3, 4, 2)}, ValueError, r"weight: expected shape .* C_in=3, got \(3, 4, 2\)"),
        ({"bias": torch.zeros(3, 5)}, ValueError, r"bias: expected shape \(K, C_out\) with C_out=4, K=3, got \(3, 5\)"),
        ({"adjacency": torch.zeros(3, 5, 6)}, ValueError, r"adjacency: .* V=6, got \(3, 5, 6\)"),
        ({"adjacency": torch.zeros(3, 6, 6).double()}, TypeError, "adjacency: expected torch.float32 as x has"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Tensor], error: type[Exception], message: str) -> None:
    good = dict(zip(NAMES, arguments(2, 3, 4, 5, 6, 6, 3, "shared", torch.float32), strict=True))
    with pytest.raises(error, match=message):
        ikem_ext.graph_conv(**{**good, **change})


def on_device(device: str) -> list[Tensor]:
    with FakeTensorMode():
        return [torch.empty(value.shape, device=device) for value in arguments(2, 3, 4, 5, 6, 6, 3, "shared")]


def test_mixed_devices_are_refused() -> None:
    x, _, bias, adjacency = on_device("cpu")
    for device in ("cuda:0", "cuda:1"):
        with pytest.raises(ValueError, match=f"weight: expected to be on cpu as x is, got {device}"):
            ikem_ext.graph_conv(x, on_device(device)[1], bias, adjacency)


def test_other_devices_are_refused_and_the_plain_twin_named() -> None:
    with pytest.raises(ValueError, match=r"x: expected to be on cpu or cuda, got mps:0 \(ikem_ext.reference has"):
        ikem_ext.graph_conv(*on_device("mps"))


def test_missing_cuda_operations_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ikem_ext._library, "cuda_missing", "this ikem_ext was built without CUDA. Rebuild")
    with pytest.raises(RuntimeError, match=r"x: on cuda:0, but this ikem_ext was built without CUDA\. Rebuild"):
        ikem_ext.graph_conv(*on_device("cuda"))

"""The CUDA kernels of the graph convolution, compiled for the host and run without a GPU."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from on_host import SANITIZE
from on_host.graph_conv import NAMES, ORDERS, HostGraphConv
from operation_checks import DTYPES, assert_as_accurate, non_contiguous
from test_graph_conv import PER, Golden, arguments, check_golden_layer_of_st_gcn
from torch import Tensor

from ikem_ext import reference

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def on_host(compile_for_host: Callable[..., Path]) -> HostGraphConv:
    source = HERE / "graph_conv_on_host.cpp"
    return HostGraphConv(compile_for_host("graph_conv.so", "-O1", "-fPIC", "-shared", source))


def check(
    on_host: HostGraphConv, values: tuple[Tensor | None, ...], order: str, allow_tf32: bool = False, ulps: float = 4
) -> None:
    """Output and gradients as accurate as the twin's."""

    def run(function: Callable[..., Tensor], values: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
        leaves = [None if value is None else value.detach().requires_grad_() for value in values]
        y = function(*leaves)
        return y.detach(), *torch.autograd.grad(y, [leaf for leaf in leaves if leaf is not None], cotangent.to(y.dtype))

    def ours(*leaves: Tensor | None) -> Tensor:
        return on_host(*leaves, order=order, allow_tf32=allow_tf32)

    wide = tuple(None if value is None else value.double() for value in values)
    shape = reference.graph_conv(*wide).shape
    cotangent = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cotangent = cotangent.to(values[0].dtype).double()
    names = ("output", *(name for name, value in zip(NAMES, values, strict=True) if value is not None))
    results = zip(
        names, run(ours, values), run(reference.graph_conv, values), run(reference.graph_conv, wide), strict=True
    )
    for name, *each in results:
        assert_as_accurate(*each, f"{order}, {name}", ulps)


def check_moments(on_host: HostGraphConv, values: tuple[Tensor | None, ...], order: str) -> None:
    """As accurate as the twin's, in the dtype of what is multiplied; and the output is what it is without them."""
    found: list[Tensor] = []
    y = on_host(*values, order=order, found=found)
    assert torch.equal(y, on_host(*values, order=order))
    wide = [None if value is None else value.double() for value in values]
    plain, truth = (reference.graph_conv(*each, moments=True)[1] for each in (values, wide))
    dtype = values[0].dtype
    assert_as_accurate(found[0].to(dtype), plain.to(dtype), truth, f"{order}, moments", ulps=4)


def sparse(values: tuple[Tensor, ...], seed: int = 0) -> tuple[Tensor, ...]:
    """With an adjacency of which half is zero."""
    kept = torch.rand(values[-1].shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    return *values[:-1], values[-1] * kept


@pytest.mark.parametrize("order", ORDERS)
def test_golden_layer_of_st_gcn(on_host: HostGraphConv, golden: Golden, order: str) -> None:
    check_golden_layer_of_st_gcn(partial(on_host, order=order), golden)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("per", PER)
def test_matches_the_plain_twin(on_host: HostGraphConv, per: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for order in ORDERS[per == "channel" :]:
        for c_in, c_out in ((3, 18), (18, 3), (16, 16)):
            values = sparse(arguments(3, c_in, c_out, 5, 6, 7, 3, per))
            check(on_host, tuple(value.to(dtype) for value in values), order)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("per", PER)
def test_moments(on_host: HostGraphConv, per: str, dtype: torch.dtype) -> None:
    """Several tiles to a clip, more columns than a block has, and numbers far from zero."""
    torch.manual_seed(0)
    for order in ORDERS[per == "channel" :]:
        for sizes in ((3, 3, 18, 5, 6, 7, 3), (2, 18, 70, 40, 5, 5, 1), (1, 5, 3, 1, 2, 1, 2)):
            x, weight, bias, adjacency = (value.to(dtype) for value in sparse(arguments(*sizes, per)))
            check_moments(on_host, (x, weight, bias + 10, adjacency), order)
            check_moments(on_host, (x.to(memory_format=torch.channels_last), weight, None, adjacency), order)


def test_moments_of_groups_and_of_more_joints_than_rows_of_a_block(on_host: HostGraphConv) -> None:
    torch.manual_seed(0)
    groups = [arguments(2, 3, 20, 5, 6, 7, 3, "shared") for _ in range(3)]
    for order in ORDERS:
        check_moments(on_host, tuple(torch.stack(each) for each in zip(*groups, strict=True)), order)
        check_moments(on_host, arguments(1, 3, 2, 2, 2, 150, 2, "shared", torch.float32), order)


@pytest.mark.parametrize("order", ORDERS)
def test_many_channels_take_several_rounds(on_host: HostGraphConv, order: str) -> None:
    torch.manual_seed(0)
    check(on_host, sparse(arguments(2, 70, 100, 2, 5, 4, 2, "shared", torch.float32)), order)
    check(on_host, tuple(value.bfloat16() for value in arguments(1, 100, 70, 2, 5, 4, 1, "clip")), order)


@pytest.mark.parametrize("order", ORDERS)
def test_tf32_only_where_allowed(on_host: HostGraphConv, order: str) -> None:
    torch.manual_seed(0)
    values = sparse(arguments(2, 20, 40, 3, 25, 25, 3, "shared", torch.float32))
    check(on_host, values, order, allow_tf32=True, ulps=2e-3 / torch.finfo(torch.float32).eps)
    exact, rounded = (on_host(*values, order=order, allow_tf32=allowed) for allowed in (False, True))
    assert not torch.equal(exact, rounded)


@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1, 1, 1, 1), (2, 2, 3, 1, 1, 31, 1), (1, 5, 2, 67, 2, 3, 5), (2, 3, 2, 3, 33, 1, 4)]
)
@pytest.mark.parametrize("per", PER)
def test_odd_sizes(on_host: HostGraphConv, per: str, sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    for order in ORDERS[per == "channel" :]:
        x, weight, bias, adjacency = arguments(*sizes, per)
        check(on_host, (x, weight, bias, adjacency), order)
        check(on_host, (x, weight, None, adjacency), order)


@pytest.mark.parametrize(("joints", "out_joints"), [(150, 2), (2, 150), (70, 70)])
def test_more_joints_than_rows_of_a_block(on_host: HostGraphConv, joints: int, out_joints: int) -> None:
    """Also more than of whose adjacency a block keeps a copy."""
    torch.manual_seed(0)
    for order in ORDERS:
        values = arguments(1, 3, 2, 2, joints, out_joints, 2, "shared", torch.float32)
        check(on_host, sparse(values), order)


@pytest.mark.parametrize("layout", ["channels last", "strided"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_layouts(on_host: HostGraphConv, layout: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for order in ORDERS:
        values = tuple(value.to(dtype) for value in arguments(2, 16, 24, 6, 5, 5, 2, "clip"))
        if layout == "strided":
            values = tuple(map(non_contiguous, values))
        else:
            values = (values[0].contiguous(memory_format=torch.channels_last), *values[1:])
        check(on_host, values, order)


@pytest.mark.parametrize("per", PER)
def test_groups(on_host: HostGraphConv, per: str) -> None:
    torch.manual_seed(0)
    groups = [arguments(2, 3, 4, 5, 6, 7, 3, per) for _ in range(3)]
    for order in ORDERS[per == "channel" :]:
        check(on_host, tuple(torch.stack(each) for each in zip(*groups, strict=True)), order)


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("order", ORDERS)
def test_gradients_for_some_inputs_alone(on_host: HostGraphConv, per: str, order: str) -> None:
    if per == "channel" and order == ORDERS[0]:
        return
    torch.manual_seed(0)
    leaves = [value.requires_grad_() for value in arguments(2, 3, 4, 5, 6, 7, 3, per)]
    together = torch.autograd.grad(on_host(*leaves, order=order).square().sum(), leaves)
    for i, leaf in enumerate(leaves):
        others = [other.detach() if other is not leaf else leaf for other in leaves]
        (alone,) = torch.autograd.grad(on_host(*others, order=order).square().sum(), [leaf])
        assert torch.equal(alone, together[i])


@pytest.mark.parametrize("per", PER)
def test_empty_batch_has_gradients_of_zero(on_host: HostGraphConv, per: str) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        leaves = [value.to(dtype).requires_grad_() for value in arguments(0, 3, 4, 5, 6, 7, 3, per)]
        zero = torch.zeros(0, 4, 5, 7, dtype=dtype)
        gradients = on_host.backward(zero, tuple(leaves), (False, True, True, True), ORDERS[1], False)
        for leaf, gradient in zip(leaves[1:], gradients[1:], strict=True):
            assert gradient.shape == leaf.shape
            assert not gradient.any()


def test_many_clips_are_summed_up_in_chunks(on_host: HostGraphConv) -> None:
    """More tiles than a gradient's sums are spread over blocks."""
    torch.manual_seed(0)
    for order in ORDERS:
        check(on_host, arguments(700, 2, 3, 1, 2, 2, 1, "shared", torch.float32), order)


def test_too_many_joints_for_a_block_are_refused(on_host: HostGraphConv) -> None:
    with pytest.raises(AssertionError, match=r"more bodies, joints, .* than this GPU's shared memory has room for"):
        on_host(*arguments(1, 1, 1, 1, 3000, 1, 1, "shared"), order=ORDERS[1])


def test_infinity_stays_in_its_part_of_the_graph(on_host: HostGraphConv) -> None:
    x, weight, bias, adjacency = arguments(2, 3, 18, 5, 6, 7, 3, "shared")
    weight[1] = float("inf")
    adjacency.requires_grad_()
    y = on_host(x, weight, bias, adjacency, order=ORDERS[0])
    (gradient,) = torch.autograd.grad(y.sum(), adjacency)
    assert gradient[0].isfinite().all() and gradient[2].isfinite().all()
    assert not gradient[1].isfinite().any()


def test_both_orders_agree_under_the_sanitizers(compile_for_host: Callable[..., Path]) -> None:
    program = compile_for_host("sanitized", *SANITIZE, HERE / "graph_conv_cuda_sanitized.cpp")
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

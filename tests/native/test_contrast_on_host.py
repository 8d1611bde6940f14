"""The CUDA kernels of the losses, on the host and in place of those for the CPU: all of a loss runs on them."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import test_contrast
import torch
from on_host import SANITIZE
from operation_checks import DTYPES, in_dtype, non_contiguous
from test_contrast import (
    ALL_LOSSES,
    LossChecks,
    exchange,  # noqa: F401 -- a fixture
)
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:Warning only once for all operators")

HERE = Path(__file__).parent


class VectorSet(ctypes.Structure):
    """`Set` in contrast_on_host.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "queue")),
        *((name, ctypes.c_int64) for name in ("groups", "parts", "keys", "part_width")),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
    )

    @classmethod
    def of(cls, q: Tensor, queue: Tensor) -> VectorSet:
        assert q.is_contiguous()
        strides = (ctypes.c_int64 * 4)(*queue.stride())
        return cls(q.data_ptr(), queue.data_ptr(), *queue.shape, strides)


class QueueArguments(ctypes.Structure):
    _fields_ = (
        ("set", VectorSet),
        ("queries", ctypes.c_int64),
        ("scale", ctypes.c_double),
        ("allow_tf32", ctypes.c_int64),
    )


class ExchangeArguments(ctypes.Structure):
    _fields_ = (
        ("learners", VectorSet),
        ("guides", VectorSet),
        *((name, ctypes.c_int64) for name in ("queries", "topk", "within", "context")),
        ("scale", ctypes.c_double),
        ("allow_tf32", ctypes.c_int64),
    )


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Null for an empty tensor, as the operations have it."""
    return ctypes.c_void_p(tensor.data_ptr() if tensor is not None and tensor.numel() > 0 else None)


def unset(like: Tensor, *shape: int) -> Tensor:
    return like.new_full(shape, torch.nan)


class HostOperations:
    """The four operations, as csrc/contrast/op.cpp has them for CUDA."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        for name in ("sum_queue", "differentiate_queue", "sum_exchange", "differentiate_exchange"):
            getattr(self._library, name).restype = ctypes.c_char_p
        self.allow_tf32 = False

    def _call(self, name: str, queue: Tensor, *arguments: Any) -> None:
        error = getattr(self._library, name)(DTYPES.index(queue.dtype), *arguments)
        assert error is None, error

    def queue_logsumexp(
        self, q: Tensor, queue: Tensor, scale: float, with_means: bool, _: bool = False
    ) -> tuple[Tensor, Tensor]:
        q = q.contiguous()
        log_sums, means = unset(q, *q.shape[:2]), unset(q, *(q.shape if with_means else (0,)))
        arguments = QueueArguments(VectorSet.of(q, queue), q.shape[1], scale, self.allow_tf32)
        self._call("sum_queue", queue, ctypes.byref(arguments), address(log_sums), address(means))
        return log_sums, means

    def queue_logsumexp_backward(
        self, weights: Tensor, log_sums: Tensor, q: Tensor, queue: Tensor, scale: float, _: bool = False
    ) -> Tensor:
        q, weights, log_sums = q.contiguous(), weights.contiguous(), log_sums.contiguous()
        grad = unset(q, *queue.shape)
        arguments = QueueArguments(VectorSet.of(q, queue), q.shape[1], scale, self.allow_tf32)
        self._call(
            "differentiate_queue", queue, ctypes.byref(arguments), address(log_sums), address(weights), address(grad)
        )
        return grad

    def _exchange_arguments(
        self, q: Tensor, queue: Tensor, guide: Tensor, guide_queue: Tensor, topk: int, context: bool, scale: float
    ) -> ExchangeArguments:
        learners, guides = VectorSet.of(q, queue), VectorSet.of(guide, guide_queue)
        within = guide.data_ptr() == q.data_ptr()
        return ExchangeArguments(learners, guides, q.shape[1], topk, within, context, scale, self.allow_tf32)

    def exchange_logsumexp(
        self,
        q: Tensor,
        queue: Tensor,
        guide: Tensor | None,
        guide_queue: Tensor | None,
        scale: float,
        topk: int,
        context: bool,
        _: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        q = q.contiguous()
        guide = q if guide is None else guide.contiguous()
        guide_queue = queue if guide_queue is None else guide_queue
        single = unset(q, *q.shape[:2])
        product = q.new_zeros(len(q) if context else 0, *guide.shape[:2])
        nearest = torch.full((*guide.shape[:2], topk), -1)
        arguments = self._exchange_arguments(q, queue, guide, guide_queue, topk, context, scale)
        self._call("sum_exchange", queue, ctypes.byref(arguments), address(single), address(product), address(nearest))
        return single, product, nearest

    def exchange_logsumexp_backward(
        self,
        grad_single: Tensor,
        grad_product: Tensor,
        single: Tensor,
        product: Tensor,
        q: Tensor,
        queue: Tensor,
        guide: Tensor | None,
        guide_queue: Tensor | None,
        scale: float,
        needs_q: bool,
        needs_queue: bool,
        _: bool = False,
    ) -> tuple[Tensor, Tensor]:
        q = q.contiguous()
        guide = q if guide is None else guide.contiguous()
        guide_queue = queue if guide_queue is None else guide_queue
        grad_q = unset(q, len(q) if needs_q else 0, *q.shape[1:])
        grad_queue = unset(q, len(q) if needs_queue else 0, *queue.shape[1:])
        sums = [x.contiguous() for x in (single, product, grad_single, grad_product)]
        pointers = (ctypes.c_void_p * 4)(*(address(x).value for x in sums))
        context = product.numel() > 0
        arguments = self._exchange_arguments(q, queue, guide, guide_queue, 0, context, scale)
        self._call(
            "differentiate_exchange", queue, ctypes.byref(arguments), pointers, address(grad_q), address(grad_queue)
        )
        return grad_q, grad_queue


@pytest.fixture(scope="module")
def library(compile_for_host: Callable[..., Path]) -> Path:
    """With room for so few similarities that a few hundred keys make several chunks."""
    options = "-O2", "-fPIC", "-shared", "-DIKEM_MAX_SIMILARITIES=40000"
    return compile_for_host("contrast.so", *options, HERE / "contrast_on_host.cpp")


@pytest.fixture
def host(library: Path) -> Iterator[HostOperations]:
    """While it lasts, the operations on the CPU are the CUDA kernels on the host."""
    operations = HostOperations(library)
    override = torch.library.Library("ikem_ext", "IMPL")
    for name in "queue_logsumexp", "queue_logsumexp_backward", "exchange_logsumexp", "exchange_logsumexp_backward":
        override.impl(name, getattr(operations, name), "CPU", allow_override=True)
    yield operations
    override._destroy()


def sized(checks: type[LossChecks], groups: int, queries: int, keys: int, width: int) -> LossChecks:
    check = checks()
    check.groups, check.queries, check.keys, check.width = groups, queries, keys, width
    return check


@pytest.mark.parametrize("loss", ["info_nce", "exchange", "distillation"])
def test_golden_numbers(host: HostOperations, request: pytest.FixtureRequest, loss: str) -> None:
    """Those of the operations on the CPU, whose place the kernels have taken."""
    golden_test = getattr(test_contrast, f"test_{loss}_golden")
    golden_test(request.getfixturevalue("exchange"))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("checks", ALL_LOSSES)
def test_matches_the_plain_twin(host: HostOperations, checks: type[LossChecks], dtype: torch.dtype, seed: int) -> None:
    """Beyond one tile of queries, of keys and of their width, and multiples of none."""
    check = sized(checks, 2, *((67, 301, 70) if seed == 0 else (131, 211, 19)))
    check.assert_matches_reference(check.inputs(dtype, seed=seed))


@pytest.mark.parametrize("sizes", [(2, 1, 1, 1), (2, 0, 3, 4), (3, 2, 129, 40), (2, 3, 2061, 16)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("checks", ALL_LOSSES)
def test_sizes(host: HostOperations, checks: type[LossChecks], sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    check = sized(checks, *sizes)
    # With one coordinate all similarities are alike, and so are their rounding errors, which then add up.
    arguments = check.inputs(torch.float64 if check.width == 1 else dtype)
    if "topk" in arguments:
        arguments["topk"] = min(arguments["topk"], check.keys)
    check.assert_matches_reference(arguments)


@pytest.mark.parametrize("checks", ALL_LOSSES)
def test_tf32(host: HostOperations, checks: type[LossChecks]) -> None:
    """Factors of ten bits: close to the twin, but not as close as float32 itself."""
    check = sized(checks, 2, 67, 301, 64)
    arguments = check.inputs()
    host.allow_tf32 = True
    loss, gradients = check.run(check.operation, arguments)
    truth, true_gradients = check.run(check.reference, in_dtype(arguments, torch.float64))
    pairs = [(loss, truth), *((gradients[name], true_gradients[name]) for name in gradients)]
    errors = [((ours - true).abs().max() / true.abs().max()).item() for ours, true in pairs]
    assert 1e-5 < max(errors) < 4e-3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_strides_give_the_same_bits(host: HostOperations, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    queue = torch.randn(2, 3, 150, 16, generator=generator).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    q = torch.randn(2, 5, 48, generator=generator).to(wide)

    def run(queue: Tensor) -> list[Tensor]:
        log_sums, means = host.queue_logsumexp(q, queue, 0.5, True)
        grad_queue = host.queue_logsumexp_backward(log_sums, log_sums, q, queue, 0.5)
        one, first = q[..., :16], queue[:, :1]
        single, product, nearest = host.exchange_logsumexp(one, first, None, None, 0.5, 3, True)
        sums = single, product, single, product
        gradients = host.exchange_logsumexp_backward(*sums, one, first, None, None, 0.5, True, True)
        return [log_sums, means, grad_queue, single, product, nearest, *gradients]

    for ours, expected in zip(run(non_contiguous(queue)), run(queue), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("topk", [0, 1, 3, 40, 2500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_nearest_entries(host: HostOperations, topk: int, dtype: torch.dtype) -> None:
    """Small integers: all similarities are exact and most are met many times, where the lowest index comes first."""
    generator = torch.Generator().manual_seed(topk)
    q = torch.randint(-2, 3, (2, 3, 4), generator=generator).float()
    queue = torch.randint(-2, 3, (2, 1, 2500, 4), generator=generator).to(dtype)
    _, _, nearest = host.exchange_logsumexp(q, queue, None, None, 0.1, topk, True)
    expected = (q @ queue[:, 0].float().mT).sort(dim=-1, descending=True, stable=True).indices[..., :topk]
    assert torch.equal(nearest, expected)


def test_an_empty_queue(host: HostOperations) -> None:
    q, queue = torch.ones(2, 3, 4), torch.ones(2, 1, 0, 4)
    log_sums, means = host.queue_logsumexp(q, queue, 1.0, True)
    assert (log_sums == -torch.inf).all() and (means == 0).all()
    single, product, nearest = host.exchange_logsumexp(q, queue, None, None, 1.0, 0, True)
    assert (single == -torch.inf).all() and product[0, 1, 0] == -torch.inf and nearest.numel() == 0
    grad_q, grad_queue = host.exchange_logsumexp_backward(
        single, product, single, product, q, queue, None, None, 1.0, True, True
    )
    assert (grad_q == 0).all() and grad_queue.numel() == 0


def test_nothing_is_read_or_written_astray(compile_for_host: Callable[..., Path]) -> None:
    sources = HERE / "contrast_on_host.cpp", HERE / "contrast_sanitized.cpp"
    several_chunks = "-DIKEM_MAX_SIMILARITIES=2000"
    program = compile_for_host("sanitized", *SANITIZE, several_chunks, *sources)
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

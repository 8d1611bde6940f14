from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operation_checks import OperationChecks, assert_as_accurate, in_dtype
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

import ikem_ext
from ikem_ext import MODALITIES, reference

STUDENTS = ("joint", "motion", "bone")


@pytest.fixture(scope="module")
def exchange(golden) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in golden("exchange_small").items()}


def stacked(arrays: dict[str, Tensor], prefix: str, names: tuple[str, ...] = MODALITIES) -> Tensor:
    return torch.stack([arrays[prefix + name] for name in names])


def embeddings(arrays: dict[str, Tensor], prefix: str, names: tuple[str, ...] = MODALITIES) -> Tensor:
    """Head outputs before normalisation, as leaves."""
    return stacked(arrays, prefix, names).requires_grad_()


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_info_nce_golden(exchange: dict[str, Tensor]) -> None:
    q, k = embeddings(exchange, "q_"), stacked(exchange, "k_")
    queue = stacked(exchange, "queue_")
    loss = ikem_ext.info_nce(normalize(q, dim=-1), normalize(k, dim=-1), queue, float(exchange["temperature"]))
    close(loss, stacked(exchange, "moco_loss_"))
    loss.sum().backward()
    close(q.grad, stacked(exchange, "moco_grad_q_"))


def test_exchange_golden(exchange: dict[str, Tensor]) -> None:
    q, h, k = embeddings(exchange, "q_"), embeddings(exchange, "h_"), stacked(exchange, "k_")
    q_unit, h_unit, k_unit = (normalize(x, dim=-1) for x in (q, h, k))
    queue, temperature = stacked(exchange, "queue_"), float(exchange["temperature"])
    explicit = ikem_ext.cross_modal_nce(q_unit, k_unit, queue, temperature)
    implicit = ikem_ext.implicit_exchange(h_unit, k_unit, queue, temperature)
    close(explicit, stacked(exchange, "explicit_loss_"))
    close(implicit, stacked(exchange, "implicit_loss_"))
    (explicit.sum() + implicit.sum()).backward()
    close(q.grad, stacked(exchange, "exchange_grad_q_"))
    close(h.grad, stacked(exchange, "exchange_grad_h_"))


def test_distillation_golden(exchange: dict[str, Tensor]) -> None:
    student = embeddings(exchange, "student_", STUDENTS)
    guide = normalize(stacked(exchange, "teacher_q_"), dim=-1)
    teacher = normalize(guide.transpose(0, 1).flatten(1), dim=-1)
    loss = ikem_ext.relational_distillation(
        normalize(student, dim=-1),
        teacher,
        exchange["queue_teacher"],
        guide,
        stacked(exchange, "queue_"),
        float(exchange["temperature"]),
    )
    close(loss, stacked(exchange, "distill_loss_", STUDENTS))
    loss.sum().backward()
    close(student.grad, stacked(exchange, "distill_grad_student_", STUDENTS))


def unit(*shape: int) -> Tensor:
    return normalize(torch.randn(shape, dtype=torch.float64), dim=-1)


def losses(n: int, c: int = 8, k: int = 11, g: int = 3, **others) -> dict[str, Tensor]:
    """Every loss once, on random unit vectors."""
    q, keys, queue = unit(g, n, c), unit(g, n, c), unit(k, g, c).transpose(0, 1)
    h, t, t_queue = unit(g, n, g * c), unit(n, g * c), unit(k, g * c)
    return {
        "info_nce": ikem_ext.info_nce(q, keys, queue, 0.07),
        "cross_modal_nce": ikem_ext.cross_modal_nce(q, keys, queue, 0.07, **others),
        "implicit_exchange": ikem_ext.implicit_exchange(h, keys, queue, 0.07),
        "relational_distillation": ikem_ext.relational_distillation(h, t, t_queue, q, queue, 0.07, **others),
    }


@pytest.mark.parametrize("name", ["info_nce", "cross_modal_nce", "implicit_exchange", "relational_distillation"])
class TestEveryLoss:
    def test_one_value_per_modality(self, name: str) -> None:
        loss = losses(5)[name]
        assert loss.shape == (3,)
        assert (loss > 0).all()

    def test_empty_batch_is_zero(self, name: str) -> None:
        assert torch.equal(losses(0)[name], torch.zeros(3, dtype=torch.float64))

    def test_large_embeddings_stay_finite(self, name: str) -> None:
        q, queue = 1e4 * unit(2, 3, 4).float(), 1e4 * unit(2, 9, 4).float()
        h, h_queue = 1e4 * unit(2, 3, 8).float(), 1e4 * unit(9, 8).float()
        loss = {
            "info_nce": lambda: ikem_ext.info_nce(q, -q, queue, 0.07),
            "cross_modal_nce": lambda: ikem_ext.cross_modal_nce(q, -q, queue, 0.07),
            "implicit_exchange": lambda: ikem_ext.implicit_exchange(h, -q, queue, 0.07),
            "relational_distillation": lambda: ikem_ext.relational_distillation(h, -h[0], h_queue, q, queue, 0.07),
        }[name]()
        assert loss.isfinite().all()


def test_one_modality_alone_equals_its_entry_among_all() -> None:
    q, k, queue = unit(3, 5, 8), unit(3, 5, 8), unit(3, 11, 8)
    together = ikem_ext.info_nce(q, k, queue, 0.1)
    alone = ikem_ext.info_nce(q[1], k[1], queue[1], 0.1)
    assert alone.shape == ()
    torch.testing.assert_close(alone, together[1])


def test_ties_are_mined_by_the_lowest_index() -> None:
    """Two entries of v's queue are equally near; only the first of them is a positive of u."""
    c = 4
    q = unit(2, 1, c)
    queue = unit(2, 3, c)
    queue[1] = torch.stack((-q[1, 0], q[1, 0], q[1, 0]))
    tau = 0.5
    s_u, s_v = queue[0] @ q[0, 0], queue[1] @ q[1, 0]
    p_u = q[0, 0] @ q[0, 0]
    columns = torch.cat((p_u[None], s_u, s_u * s_v)) / tau
    expected = columns.logsumexp(0) - (p_u + s_u[1] + (s_u * s_v)[1]) / (3 * tau)
    torch.testing.assert_close(ikem_ext.cross_modal_nce(q, q, queue, tau)[0], expected)


@pytest.mark.parametrize("topk", [1, 2, 5])
@pytest.mark.parametrize("length", [7, 300, 5000])
def test_of_many_equally_near_entries_those_of_the_lowest_indices_are_mined_in_their_order(
    topk: int, length: int
) -> None:
    """Vectors of small integers: similarities are exact, and each is met many times."""
    draw = torch.Generator().manual_seed(0)
    q, queue = (torch.randint(-1, 2, size, generator=draw).float() for size in ((2, 9, 4), (2, length, 4)))
    *_, nearest = torch.ops.ikem_ext.exchange_logsumexp(q, queue[:, None], None, None, 1.0, topk, True, False)
    ordered = (q @ queue.mT).sort(dim=-1, descending=True, stable=True).indices
    assert torch.equal(nearest, ordered[..., :topk])


@pytest.mark.parametrize("topk", [0, 1, 3, 11])
@pytest.mark.parametrize("context", [True, False])
def test_cross_modal_nce_written_out(topk: int, context: bool) -> None:
    g, n, c, k, tau = 3, 4, 5, 11, 0.2
    q, keys, queue = unit(g, n, c), unit(g, n, c), unit(g, k, c)
    loss = ikem_ext.cross_modal_nce(q, keys, queue, tau, topk=topk, context=context)
    for u in range(g):
        total = 0.0
        for v in (v for v in range(g) if v != u):
            for i in range(n):
                p, s_u, s_v = q[u, i] @ keys[u, i], queue[u] @ q[u, i], queue[v] @ q[v, i]
                blocks = [s_u, s_u * s_v] if context else [s_u]
                nearest = sorted(range(k), key=lambda j: -float(s_v[j]))[:topk]
                positives = [float(p), *(float(block[j]) for block in blocks for j in nearest)]
                partition = math.log(sum(math.exp(float(x) / tau) for x in (p, *torch.cat(blocks))))
                total += (partition - sum(positives) / len(positives) / tau) / n / (g - 1)
        assert float(loss[u]) == pytest.approx(total, rel=1e-12)


def test_implicit_exchange_is_info_nce_with_all_keys_joined() -> None:
    g, n, c, k = 3, 4, 5, 11
    h, keys, queue = unit(g, n, g * c), unit(g, n, c), unit(g, k, c)
    joined, joined_queue = (normalize(torch.cat(list(x), dim=-1), dim=-1) for x in (keys, queue))
    for u, loss in enumerate(ikem_ext.implicit_exchange(h, keys, queue, 0.07)):
        torch.testing.assert_close(loss, ikem_ext.info_nce(h[u], joined, joined_queue, 0.07))


def test_only_the_student_learns_in_distillation() -> None:
    h, t, t_queue, q, queue = (unit(*s).requires_grad_() for s in ((2, 3, 8), (3, 8), (5, 8), (2, 3, 4), (2, 5, 4)))
    ikem_ext.relational_distillation(h, t, t_queue, q, queue, 0.07).sum().backward()
    assert h.grad is not None
    assert [x.grad for x in (t, t_queue, q, queue)] == [None] * 4


def test_autocast_computes_in_float32() -> None:
    q, k, queue = (unit(2, n, 64).float() for n in (6, 6, 500))
    expected = ikem_ext.info_nce(q, k, queue, 0.07)
    with torch.autocast("cpu", torch.bfloat16):
        loss = ikem_ext.info_nce(q, k, queue, 0.07)
        mixed = ikem_ext.info_nce(q.bfloat16(), k, queue, 0.07)
    assert torch.equal(loss, expected)
    assert mixed.dtype == torch.float32


class LossChecks(OperationChecks):
    """Sizes beyond one block of queries, one tile of keys and one chunk of the queue, and multiples of none."""

    groups, queries, keys, width, temperature = 3, 67, 1301, 5, 0.2
    ulps = 1 + 1 / temperature  # what the rounding of exponents as large as 1 / temperature comes to

    def vectors(self, dtype: torch.dtype, device: str, seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [normalize(torch.randn(s, generator=generator), dim=-1).to(device, dtype) for s in shapes]


class TestInfoNCE(LossChecks):
    operation = staticmethod(ikem_ext.info_nce)
    reference = staticmethod(reference.info_nce)
    differentiable = ("q", "k", "queue")
    batch_axes: ClassVar[dict[str, int]] = {"q": 1, "k": 1}

    def inputs(self, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
        g, n, k, c = self.groups, self.queries, self.keys, self.width
        vectors = self.vectors(dtype, device, seed, (g, n, c), (g, n, c), (g, k, c))
        return dict(zip(("q", "k", "queue"), vectors, strict=True), temperature=self.temperature)

    def native_calls(self, arguments: dict[str, Any]) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        q, queue = arguments["q"], arguments["queue"][:, None]
        yield torch.ops.ikem_ext.queue_logsumexp.default, (q, queue, 5.0, True, False)
        yield torch.ops.ikem_ext.queue_logsumexp.default, (q.detach(), queue.detach(), 5.0, False, False)
        sums, _ = torch.ops.ikem_ext.queue_logsumexp(q.detach(), queue.detach(), 5.0, True, False)
        weights = torch.ones_like(sums)
        native = torch.ops.ikem_ext.queue_logsumexp_backward.default
        yield native, (weights, sums, q.detach(), queue.detach(), 5.0, False)
        native = torch.ops.ikem_ext.queue_logsumexp_backward_of_q.default
        yield native, (weights, torch.zeros_like(q).detach(), q.detach(), queue.detach(), 5.0)


class TestQueueLogsumexp(LossChecks):
    operation = staticmethod(ikem_ext.queue_logsumexp)
    reference = staticmethod(reference.queue_logsumexp)
    differentiable = ("q", "queue")
    changeable = None
    batch_axes: ClassVar[dict[str, int]] = {"q": 1}

    def inputs(self, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
        g, n, k, c = self.groups, self.queries, self.keys, self.width
        q, queue = self.vectors(dtype, device, seed, (g, n, c), (g, k, c))
        return {"q": q, "queue": queue, "temperature": self.temperature}


class TestCrossModalNCE(TestInfoNCE):
    operation = staticmethod(ikem_ext.cross_modal_nce)
    reference = staticmethod(reference.cross_modal_nce)

    def inputs(self, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
        return {**super().inputs(dtype, device, seed), "topk": 2, "context": seed != 1}

    def native_calls(self, arguments: dict[str, Any]) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        q, queue = arguments["q"], arguments["queue"][:, None]
        yield torch.ops.ikem_ext.exchange_logsumexp.default, (q, queue, None, None, 5.0, 2, True, False)
        q, queue = q.detach(), queue.detach()
        single, product, _ = torch.ops.ikem_ext.exchange_logsumexp(q, queue, None, None, 5.0, 2, True, False)
        native = torch.ops.ikem_ext.exchange_logsumexp_backward.default
        yield native, (single, product, single, product, q, queue, None, None, 5.0, True, True, False)


class TestImplicitExchange(LossChecks):
    operation = staticmethod(ikem_ext.implicit_exchange)
    reference = staticmethod(reference.implicit_exchange)
    differentiable = ("h", "k", "queue")
    batch_axes: ClassVar[dict[str, int]] = {"h": 1, "k": 1}

    def inputs(self, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
        g, n, k, c = self.groups, self.queries, self.keys, self.width
        vectors = self.vectors(dtype, device, seed, (g, n, g * c), (g, n, c), (k, g, c))
        h, keys, queue = vectors
        # Once as KeyQueue stores it, where the parts of a vector follow each other, and once not.
        queue = queue.transpose(0, 1) if seed != 1 else queue.transpose(0, 1).contiguous()
        return {"h": h, "k": keys, "queue": queue, "temperature": self.temperature}


class TestRelationalDistillation(LossChecks):
    operation = staticmethod(ikem_ext.relational_distillation)
    reference = staticmethod(reference.relational_distillation)
    differentiable = ("student",)
    batch_axes: ClassVar[dict[str, int]] = {"student": 1, "teacher": 0, "guide": 1}

    def inputs(self, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
        g, n, k, c = self.groups, self.queries, self.keys, self.width
        shapes = (2, n, g * c), (n, g * c), (k, g * c), (g, n, c), (g, k, c)
        names = "student", "teacher", "teacher_queue", "guide", "guide_queue"
        vectors = self.vectors(dtype, device, seed, *shapes)
        return dict(zip(names, vectors, strict=True), temperature=self.temperature, topk=1 + seed)


ALL_LOSSES = TestInfoNCE, TestQueueLogsumexp, TestCrossModalNCE, TestImplicitExchange, TestRelationalDistillation


@settings(max_examples=40)
@given(
    st.sampled_from(ALL_LOSSES),
    st.tuples(*(st.sampled_from(sizes) for sizes in ((2, 3), (0, 1, 64, 65), (1, 3, 511, 513, 4099), (1, 3, 17)))),
    st.sampled_from((torch.float32, torch.float64, torch.bfloat16)),
)
def test_sizes(checks: type[LossChecks], sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    check = checks()
    check.groups, check.queries, check.keys, check.width = sizes
    # With one coordinate all similarities are alike, and so are their rounding errors, which then add up.
    arguments = check.inputs(torch.float64 if check.width == 1 else dtype)
    if "topk" in arguments:
        arguments["topk"] = min(arguments["topk"], check.keys)
    check.assert_matches_reference(arguments)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("checks", ALL_LOSSES)
def test_vectors_of_any_length(checks: type[LossChecks], scale: float) -> None:
    """Embeddings that are not normalized: finite losses and gradients, and the twin's."""
    check = checks()
    arguments = {name: value * scale if isinstance(value, Tensor) else value for name, value in check.inputs().items()}
    loss, gradients = check.run(check.operation, arguments)
    plain, _ = check.run(check.reference, arguments)
    truth, _ = check.run(check.reference, in_dtype(arguments, torch.float64))
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert_as_accurate(loss, plain, truth, ulps=check.ulps)


def test_the_queue_may_change_once_the_loss_is_known() -> None:
    """Where the queue itself needs no gradient, InfoNCE keeps nothing of it for the backward pass."""
    q, k, queue = unit(2, 3, 4).requires_grad_(), unit(2, 3, 4), unit(2, 5, 4)
    (expected,) = torch.autograd.grad(ikem_ext.info_nce(q, k, queue, 0.07).sum(), q)
    loss = ikem_ext.info_nce(q, k, queue, 0.07)
    queue.zero_()
    (gradient,) = torch.autograd.grad(loss.sum(), q)
    assert torch.equal(gradient, expected)


def test_other_devices_are_refused() -> None:
    with FakeTensorMode():
        q, queue = torch.empty(3, 4, device="mps"), torch.empty(5, 4, device="mps")
        with pytest.raises(ValueError, match=r"q: expected to be on cpu or cuda, got mps.* \(ikem_ext.reference"):
            ikem_ext.info_nce(q, q, queue, 0.07)


@pytest.mark.parametrize("name", ["info_nce", "cross_modal_nce", "implicit_exchange", "relational_distillation"])
def test_an_empty_queue(name: str) -> None:
    """The positive alone is left: nothing to lose."""
    assert torch.equal(losses(5, k=0, topk=0)[name], torch.zeros(3, dtype=torch.float64))


def test_the_sum_over_an_empty_queue_is_none() -> None:
    q, queue = unit(2, 3, 4), unit(2, 0, 4)
    assert torch.equal(ikem_ext.queue_logsumexp(q, queue, 0.07), torch.full((2, 3), -math.inf, dtype=torch.float64))


def test_the_sums_of_one_modality_alone_equal_those_among_all() -> None:
    q, queue = unit(3, 5, 8), unit(3, 11, 8)
    alone = ikem_ext.queue_logsumexp(q[1], queue[1], 0.1)
    assert alone.shape == (5,)
    torch.testing.assert_close(alone, ikem_ext.queue_logsumexp(q, queue, 0.1)[1])


@pytest.mark.parametrize("which", ["q", "queue"])
def test_what_is_not_a_number_shows(which: str) -> None:
    arguments = {"q": unit(2, 3, 4).float(), "k": unit(2, 3, 4).float(), "queue": unit(2, 300, 4).float()}
    arguments[which][0, 2, 1] = math.nan
    for loss in (ikem_ext.info_nce, ikem_ext.cross_modal_nce):
        assert loss(**arguments, temperature=0.07)[0].isnan()


class Means(TorchDispatchMode):
    """Sees which calls of `queue_logsumexp` compute the means."""

    def __init__(self) -> None:
        super().__init__()
        self.computed: list[bool] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.ikem_ext.queue_logsumexp.default:
            self.computed.append(args[3])
        return function(*args, **(kwargs or {}))


def test_means_are_computed_where_a_gradient_for_the_queries_is_wanted() -> None:
    q, k, queue = unit(2, 3, 4), unit(2, 3, 4), unit(2, 5, 4)
    with Means() as means:
        ikem_ext.info_nce(q, k, queue, 0.07)
        ikem_ext.info_nce(q, k, queue.requires_grad_(), 0.07)
        q.requires_grad_()
        ikem_ext.info_nce(q, k, queue, 0.07)
        with torch.no_grad():
            ikem_ext.info_nce(q, k, queue, 0.07)
    assert means.computed == [False, False, True, False]


def test_a_guide_that_wants_a_gradient_is_refused() -> None:
    q, queue, guide, guide_queue = unit(2, 3, 4), unit(2, 1, 5, 4), unit(2, 3, 4), unit(2, 1, 5, 4)
    for wanting in (guide, guide_queue):
        wanting.requires_grad_()
        with pytest.raises(NotImplementedError, match="no derivatives with respect to guide and guide_queue"):
            torch.ops.ikem_ext.exchange_logsumexp(q, queue, guide, guide_queue, 5.0, 1, True, False)
        wanting.requires_grad_(False)


_SIMD_PROGRAM = """
import torch, ikem_ext
torch.manual_seed(0)
q, k, queue = (torch.nn.functional.normalize(torch.randn(3, n, 8), dim=-1) for n in (5, 5, 1301))
for function in (ikem_ext.info_nce, ikem_ext.cross_modal_nce):
    results = []
    for library in (ikem_ext, ikem_ext.reference):
        leaf = q.clone().requires_grad_()
        loss = getattr(library, function.__name__)(leaf, k, queue, 0.07)
        results.append((loss, torch.autograd.grad(loss.sum(), leaf)))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
print(torch.ops.ikem_ext.simd_level())
"""


@pytest.mark.parametrize("level", torch.ops.ikem_ext.available_simd_levels().split())
def test_every_simd_level(level: str) -> None:
    environment = {**os.environ, "IKEM_SIMD": level}
    command = [sys.executable, "-c", _SIMD_PROGRAM]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == level


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda q, k, b: ikem_ext.info_nce(q, k[:, :2], b, 0.1),
            ValueError,
            r"k: expected shape \(G, N, C\)",
        ),
        (
            lambda q, k, b: ikem_ext.info_nce(q, k, b[..., :3], 0.1),
            ValueError,
            r"queue: .* C=4.* got \(2, 5, 3\)",
        ),
        (
            lambda q, k, b: ikem_ext.info_nce(q, k, b, 0.0),
            ValueError,
            "temperature: expected .* above 0, got 0.0",
        ),
        (
            lambda q, k, b: ikem_ext.queue_logsumexp(q, b[0], 0.1),
            ValueError,
            r"queue: expected shape \(G, K, C\) with C=4, G=2, got \(5, 4\)",
        ),
        (
            lambda q, k, b: ikem_ext.queue_logsumexp(q, b, -1.0),
            ValueError,
            "temperature: expected .* above 0, got -1.0",
        ),
        (lambda q, k, b: ikem_ext.info_nce(q, k, b.float(), 0.1), TypeError, "queue: expected torch.float64"),
        (
            lambda q, k, b: ikem_ext.info_nce(q.int(), k, b, 0.1),
            TypeError,
            r"q: expected one of .* got torch.int32",
        ),
        (
            lambda q, k, b: ikem_ext.cross_modal_nce(q, k, b, 0.1, topk=6),
            ValueError,
            "topk: expected 0 to 5.*got 6",
        ),
        (
            lambda q, k, b: ikem_ext.cross_modal_nce(q[:1], k[:1], b[:1], 0.1),
            ValueError,
            "q: .* two modalities",
        ),
        (
            lambda q, k, b: ikem_ext.implicit_exchange(q, k, b, 0.1),
            ValueError,
            r"h: expected shape \(H, N, 8\)",
        ),
        (
            lambda q, k, b: ikem_ext.relational_distillation(q, k[0], b[0], q, b[:1], 0.1),
            ValueError,
            r"guide_queue: expected shape \(G, K, C\) with C=4, G=2, K=5, got \(1, 5, 4\)",
        ),
    ],
)
def test_bad_arguments_are_named(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(unit(2, 3, 4), unit(2, 3, 4), unit(2, 5, 4))

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import ikem_ext
from ikem_ext import MODALITIES

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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_in_float32(dtype: torch.dtype) -> None:
    q, k, queue = (unit(2, n, 64).to(dtype) for n in (6, 6, 500))
    loss = ikem_ext.info_nce(q, k, queue, 0.07)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), ikem_ext.info_nce(*(x.double() for x in (q, k, queue)), 0.07))


def test_autocast_computes_in_float32() -> None:
    q, k, queue = (unit(2, n, 64).float() for n in (6, 6, 500))
    expected = ikem_ext.info_nce(q, k, queue, 0.07)
    with torch.autocast("cpu", torch.bfloat16):
        loss = ikem_ext.info_nce(q, k, queue, 0.07)
        mixed = ikem_ext.info_nce(q.bfloat16(), k, queue, 0.07)
    assert torch.equal(loss, expected)
    assert mixed.dtype == torch.float32


def test_compiles_without_graph_breaks() -> None:
    def step(q: Tensor, k: Tensor, queue: Tensor) -> Tensor:
        return ikem_ext.info_nce(q, k, queue, 0.07) + ikem_ext.cross_modal_nce(q, k, queue, 0.07)

    arguments = unit(2, 3, 4), unit(2, 3, 4), unit(2, 5, 4)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), step(*arguments))


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

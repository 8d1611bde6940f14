"""Contrastive losses over queues of keys, from one modality's InfoNCE to the exchange between modalities.

All take the temperature as a float and give losses in float32 (float64 for float64 inputs): one number per
modality, the mean over the batch, zero for an empty batch. What losses of your own can be made of,
:func:`queue_logsumexp`, gives one number per query. The inputs are meant to be L2-normalised on the
last axis by the caller; any finite input gives a finite loss. Under autocast they compute in float32.

N is the batch, C the width of an embedding, K the length of the queue, G the number of modalities.

Two native operations, for the CPU and CUDA, stream over the queue and keep no array of queries times queue: the
log-sum-exp of a query's similarities, and that of the exchange between sets of queues, which finds the nearest entries
in the same pass. What is written here is the algebra around them, on arrays no larger than the batch. The gradient of
the first is the mean of the queue under the softmax, which falls out of the forward pass; that of the second makes the
similarities again. The losses can be differentiated once, in reverse or in forward mode, with autograd and
``torch.func`` alike, and mapped by ``torch.vmap``; a second derivative is a NotImplementedError. For that, and on other
devices, there are the plain twins in :mod:`ikem_ext.reference`, which do hold these arrays.

On CUDA float32 is rounded to TF32 for products where ``torch.backends.cuda.matmul.allow_tf32`` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor

from . import _library  # loads the operations that are registered here
from ._checks import Shapes, check_same, not_for_torchscript
from ._transforms import (
    SECOND_DERIVATIVES,
    mapped_first,
    one_by_one,
    refuse,
    register_derivatives,
    register_vmap,
    save,
    transforms_are_active,
    wants_gradient,
)

__all__ = ["cross_modal_nce", "implicit_exchange", "info_nce", "queue_logsumexp", "relational_distillation"]


@not_for_torchscript
def queue_logsumexp(q: Tensor, queue: Tensor, temperature: float) -> Tensor:
    r"""Log-sum-exp of each query's similarities to a queue, which losses over queues are made of.

    .. math:: \log \sum_i e^{q_n \cdot Q_i/\tau}

    The similarities are summed where they are made: no array of queries times queue is kept, in either direction.

    Args:
        q: queries, (N, C), or (G, N, C) for G modalities at once.
        queue: the queue Q, (K, C) or (G, K, C); any strides, so a queue stored as (K, G, C) serves.
        temperature: the temperature tau, above 0.

    Returns:
        One number for each query, (N,) or (G, N), minus infinity for an empty queue. Differentiable in ``q`` and
        ``queue``.

    Raises:
        ValueError: the shapes do not fit together, or the temperature is not above 0.
        TypeError: the dtypes differ or are not floating, or an input is sparse or nested.
        RuntimeError: the inputs are on a CUDA device, and this build has no CUDA operations.

    Example:
        >>> import torch, ikem_ext
        >>> q, queue = torch.eye(4)[:2], torch.eye(4)[2:]
        >>> ikem_ext.queue_logsumexp(q, queue, temperature=1.0)  # log(1 + 1)
        tensor([0.6931, 0.6931])
    """
    shapes = Shapes()
    shapes.check("q", q, "N C", "G N C")
    shapes.check("queue", queue, "K C" if q.dim() == 2 else "G K C")
    q, queue = _autocast_to_float32(q, queue)
    check_same(("q", q), queue=queue)
    _library.require_device("q", q)
    _check_temperature(temperature)
    with _no_autocast(q):
        grouped = q.dim() == 3
        q, queue = (x if grouped else x[None] for x in (q, queue))
        log_sums = _streamed_logsumexp(_widen(q), queue[:, None], temperature)
        return log_sums if grouped else log_sums[0]


@not_for_torchscript
def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    r"""InfoNCE of each query with its own key against a queue of other keys.

    .. math:: \frac1N \sum_n \log\Big(e^{q_n \cdot k_n/\tau} + \sum_i e^{q_n \cdot Q_i/\tau}\Big)
              - \frac{q_n \cdot k_n}\tau

    Args:
        q: queries, (N, C), or (G, N, C) for G modalities at once.
        k: the positive keys, the same shape.
        queue: the negative keys Q, (K, C) or (G, K, C); any strides, so a queue stored as (K, G, C) serves.
        temperature: the temperature tau, above 0.

    Returns:
        The loss, a scalar, or (G,). Differentiable in ``q``, ``k`` and ``queue``.

    Raises:
        ValueError: the shapes do not fit together, or the temperature is not above 0.
        TypeError: the dtypes differ or are not floating, or an input is sparse or nested.
        RuntimeError: the inputs are on a CUDA device, and this build has no CUDA operations.

    Source: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, eq. 1.

    Example:
        >>> import torch, ikem_ext
        >>> q, k, queue = (torch.eye(4)[rows] for rows in ([0, 1], [0, 1], [2, 3]))
        >>> ikem_ext.info_nce(q, k, queue, temperature=1.0)  # log(e + 2) - 1
        tensor(0.5514)
    """
    shapes = Shapes()
    shapes.check("q", q, "N C", "G N C")
    shapes.check("k", k, "N C" if q.dim() == 2 else "G N C")
    shapes.check("queue", queue, "K C" if q.dim() == 2 else "G K C")
    q, k, queue = _autocast_to_float32(q, k, queue)
    check_same(("q", q), k=k, queue=queue)
    _library.require_device("q", q)
    _check_temperature(temperature)
    with _no_autocast(q):
        grouped = q.dim() == 3
        q, k, queue = (x if grouped else x[None] for x in (q, k, queue))
        loss = _streamed_info_nce(q, k, queue[:, None], temperature)
        return loss if grouped else loss[0]


@not_for_torchscript
def cross_modal_nce(
    q: Tensor, k: Tensor, queue: Tensor, temperature: float, *, topk: int = 1, context: bool = True
) -> Tensor:
    r"""The explicit exchange: each modality learns from what every other modality finds near.

    With similarities :math:`s_u[n,i] = q_u[n] \cdot Q_u[i]` and positives :math:`p_u[n] = q_u[n] \cdot k_u[n]`,
    each ordered pair of modalities u, v contrasts the columns
    :math:`[\,p_u \mid s_u \mid s_u s_v\,] / \tau`. Positives are the first column and, in both blocks, the
    ``topk`` entries of the queue that are nearest to the query in modality v (of equally near ones those of
    the lowest index):

    .. math:: \ell_{uv} = \frac1N \sum_n \Big(\log \sum_c e^{c_n} - \operatorname{mean}_{c \in P_n} c_n\Big),
              \qquad \ell_u = \frac1{G-1} \sum_{v \ne u} \ell_{uv}

    Args:
        q: queries, (G, N, C) with G >= 2.
        k: the positive keys, (G, N, C).
        queue: the queues, (G, K, C); index i is the same clip in every modality.
        temperature: the temperature tau, above 0.
        topk: how many entries are mined per query, 0 to K.
        context: whether the block of products, the last K columns, takes part.

    Returns:
        (G,), the loss of each modality. Differentiable in ``q``, ``k`` and ``queue``, through both factors of
        the products; the choice of the nearest entries is not differentiated.

    Raises:
        ValueError: the shapes do not fit together, or ``temperature`` or ``topk`` is out of range.
        TypeError: the dtypes differ or are not floating, or an input is sparse or nested.
        RuntimeError: the inputs are on a CUDA device, and this build has no CUDA operations.

    Source: Li et al., "3D Human Action Representation Learning via Cross-View Consistency Pursuit", CVPR 2021,
    eqs. 3 to 8, summed over all ordered pairs as in Wei et al., arXiv 2309.12009, section 2.

    Example:
        >>> import torch, ikem_ext
        >>> q, k, queue = (torch.nn.functional.normalize(torch.ones(2, n, 4), dim=-1) for n in (3, 3, 5))
        >>> ikem_ext.cross_modal_nce(q, k, queue, temperature=1.0)  # all similar: log(1 + 2 * 5)
        tensor([2.3979, 2.3979])
    """
    shapes = Shapes()
    shapes.check("q", q, "G N C")
    shapes.check("k", k, "G N C")
    shapes.check("queue", queue, "G K C")
    q, k, queue = _autocast_to_float32(q, k, queue)
    check_same(("q", q), k=k, queue=queue)
    _library.require_device("q", q)
    if q.shape[0] < 2:
        raise ValueError(f"q: expected at least two modalities to exchange between, got {q.shape[0]}")
    _check_temperature(temperature)
    _check_topk(topk, queue.shape[1])
    with _no_autocast(q):
        losses = _streamed_exchange(q, k, queue, q, queue, temperature, topk, context, within=True)
        return (losses - losses.diagonal().diag()).sum(1) / (len(q) - 1)


@not_for_torchscript
def implicit_exchange(h: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    r"""The Implicit Knowledge Exchange Module: each modality is contrasted with all modalities together.

    InfoNCE of :math:`h_u` with the concatenated keys :math:`[k_1 \dots k_G] / \sqrt G` against the concatenated
    queues :math:`[Q_1 \dots Q_G] / \sqrt G` of the same index. The division makes the concatenation of unit
    vectors a unit vector.

    Args:
        h: queries from the exchange heads, (H, N, G * C); usually H = G.
        k: the keys of all modalities, (G, N, C).
        queue: the queues, (G, K, C).
        temperature: the temperature tau, above 0.

    Returns:
        (H,), the loss of each query modality. Differentiable in ``h``, ``k`` and ``queue``.

    Raises:
        ValueError: the shapes do not fit together, or the temperature is not above 0.
        TypeError: the dtypes differ or are not floating, or an input is sparse or nested.
        RuntimeError: the inputs are on a CUDA device, and this build has no CUDA operations.

    Source: Wei et al., "Elevating Skeleton-Based Action Recognition with Efficient Multi-Modality
    Self-Supervision", arXiv 2309.12009, section 2.

    Example:
        >>> import torch, ikem_ext
        >>> h = torch.nn.functional.normalize(torch.ones(2, 3, 8), dim=-1)
        >>> k, queue = (torch.nn.functional.normalize(torch.ones(2, n, 4), dim=-1) for n in (3, 5))
        >>> ikem_ext.implicit_exchange(h, k, queue, temperature=1.0)  # all similar: log(1 + 5)
        tensor([1.7918, 1.7918])
    """
    shapes = Shapes()
    shapes.check("k", k, "G N C")
    shapes.check("queue", queue, "G K C")
    shapes.check("h", h, f"H N {k.shape[0] * k.shape[2]}")
    h, k, queue = _autocast_to_float32(h, k, queue)
    check_same(("h", h), k=k, queue=queue)
    _library.require_device("h", h)
    _check_temperature(temperature)
    with _no_autocast(h):
        # One queue of concatenated keys serves all H modalities: their queries are one batch of H * N. The
        # concatenation itself is never made: the queue is handed over as G parts.
        joined = k.transpose(0, 1).flatten(1).expand(len(h), -1, -1)
        scaled = temperature * len(k) ** 0.5
        losses = _streamed_info_nce_terms(h.flatten(0, 1)[None], joined.flatten(0, 1)[None], queue[None], scaled)
        return _batch_mean(losses.unflatten(1, h.shape[:2])[0])


@not_for_torchscript
def relational_distillation(
    student: Tensor,
    teacher: Tensor,
    teacher_queue: Tensor,
    guide: Tensor,
    guide_queue: Tensor,
    temperature: float,
    *,
    topk: int = 1,
) -> Tensor:
    r"""Relational cross-modality distillation: students learn the relations that each teacher modality sees.

    For student s and teacher modality m the columns are
    :math:`[\,h_s \cdot t \mid h_s \cdot Q_t \mid (h_s \cdot Q_t)(q_m \cdot Q_m)\,] / \tau`; positives are the
    first and, in both blocks, the ``topk`` largest of :math:`q_m \cdot Q_m` (of equal ones those of the lowest
    index). The loss has the form of :func:`cross_modal_nce` and is averaged over the teacher's modalities.

    Args:
        student: the students' embeddings h, (S, N, D).
        teacher: the teacher's concatenated embeddings t, (N, D).
        teacher_queue: the queue of teacher embeddings, (K, D).
        guide: the teacher's embeddings per modality q_m, (G, N, C).
        guide_queue: the queues per modality, (G, K, C); index i is the same clip in every queue.
        temperature: the temperature tau, above 0.
        topk: how many entries are mined per query, 0 to K.

    Returns:
        (S,), the loss of each student. Differentiable in ``student`` only: the teacher is frozen.

    Raises:
        ValueError: the shapes do not fit together, or ``temperature`` or ``topk`` is out of range.
        TypeError: the dtypes differ or are not floating, or an input is sparse or nested.
        RuntimeError: the inputs are on a CUDA device, and this build has no CUDA operations.

    Source: Wei et al., arXiv 2309.12009, section 2.

    Example:
        >>> import torch, ikem_ext
        >>> ones = lambda *shape: torch.nn.functional.normalize(torch.ones(shape), dim=-1)
        >>> ikem_ext.relational_distillation(
        ...     ones(1, 3, 8), ones(3, 8), ones(5, 8), ones(2, 3, 4), ones(2, 5, 4), temperature=1.0
        ... )  # all similar: log(1 + 2 * 5)
        tensor([2.3979])
    """
    shapes = Shapes()
    shapes.check("student", student, "S N D")
    shapes.check("teacher", teacher, "N D")
    shapes.check("teacher_queue", teacher_queue, "K D")
    shapes.check("guide", guide, "G N C")
    shapes.check("guide_queue", guide_queue, "G K C")
    student, teacher, teacher_queue, guide, guide_queue = _autocast_to_float32(
        student, teacher, teacher_queue, guide, guide_queue
    )
    check_same(
        ("student", student),
        teacher=teacher,
        teacher_queue=teacher_queue,
        guide=guide,
        guide_queue=guide_queue,
    )
    _library.require_device("student", student)
    if guide.shape[0] < 1:
        raise ValueError("guide: expected at least one modality, got none")
    _check_temperature(temperature)
    _check_topk(topk, teacher_queue.shape[0])
    with _no_autocast(student):
        teacher, teacher_queue, guide, guide_queue = (x.detach() for x in (teacher, teacher_queue, guide, guide_queue))
        keys, queue = (x.expand(len(student), -1, -1) for x in (teacher, teacher_queue))
        losses = _streamed_exchange(student, keys, queue, guide, guide_queue, temperature, topk, context=True)
        return losses.mean(1)


def _streamed_info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """(G,) from q, k (G, N, P * C) and queue (G, P, K, C), the queue's vectors in P parts."""
    return _batch_mean(_streamed_info_nce_terms(q, k, queue, temperature))


def _streamed_info_nce_terms(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """The loss of each query, (G, N)."""
    q, k = _widen(q), _widen(k)
    positive = (q * k).sum(-1) / temperature
    return torch.logaddexp(positive, _streamed_logsumexp(q, queue, temperature)) - positive


def _streamed_logsumexp(q: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """(G, N) from wide q (G, N, P * C) and queue (G, P, K, C)."""
    log_sums, _ = torch.ops.ikem_ext.queue_logsumexp(q, queue, 1 / temperature, False, _allows_tf32(q))
    return log_sums


def _streamed_exchange(
    q: Tensor,
    k: Tensor,
    queue: Tensor,
    guide: Tensor,
    guide_queue: Tensor,
    temperature: float,
    topk: int,
    context: bool,
    within: bool = False,
) -> Tensor:
    """The loss of each learner with each guide, (A, B).

    Learners q (A, N, C) with their own keys and queue contrast the columns [p | s | s * t] / temperature; s are
    their similarities, t (B, N, K) those of the guides, whose ``topk`` largest name the positives of both blocks.
    ``within`` one set, the learners are the guides, and the losses on the diagonal mean nothing.
    """
    q, k, guide = _widen(q), _widen(k), _widen(guide)
    positive = (q * k).sum(-1)
    others = (None, None) if within else (guide, guide_queue[:, None])
    single, product, nearest = torch.ops.ikem_ext.exchange_logsumexp(
        q, queue[:, None], *others, 1 / temperature, topk, context, _allows_tf32(q)
    )
    partition = torch.logaddexp(single, positive / temperature)[:, None]
    s = (q[:, None, :, None] * _widen(queue[:, nearest])).sum(-1)  # (A, B, N, topk)
    mined = positive[:, None] + s.sum(-1)
    if context:
        partition = torch.logaddexp(partition, product)
        sets = torch.arange(len(guide), device=guide.device)[:, None, None]
        t = (guide[:, :, None] * _widen(guide_queue[sets, nearest])).sum(-1)  # (B, N, topk)
        mined = mined + (s * t).sum(-1)
    num_positives = 1 + (2 if context else 1) * topk
    return _batch_mean(partition - mined / (num_positives * temperature))


@torch.library.register_fake("ikem_ext::queue_logsumexp")
def _(q: Tensor, queue: Tensor, scale: float, with_means: bool, allow_tf32: bool) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape[:2]), q.new_empty(q.shape if with_means else 0)


@torch.library.register_fake("ikem_ext::queue_logsumexp_backward")
def _(weights: Tensor, log_sums: Tensor, q: Tensor, queue: Tensor, scale: float, allow_tf32: bool) -> Tensor:
    return q.new_empty(queue.shape)


@torch.library.register_fake("ikem_ext::exchange_logsumexp")
def _(
    q: Tensor,
    queue: Tensor,
    guide: Tensor | None,
    guide_queue: Tensor | None,
    scale: float,
    topk: int,
    context: bool,
    allow_tf32: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    learners, queries = q.shape[:2]
    guides = learners if guide is None else guide.shape[0]
    return (
        q.new_empty(learners, queries),
        q.new_empty(learners if context else 0, guides, queries),
        q.new_empty(guides, queries, topk, dtype=torch.int64),
    )


@torch.library.register_fake("ikem_ext::exchange_logsumexp_backward")
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    q, queue, *_, needs_q, needs_queue, _ = arguments[4:]
    learners, queries, width = q.shape
    return (
        q.new_empty(learners if needs_q else 0, queries, width),
        q.new_empty(learners if needs_queue else 0, 1, queue.shape[2], width),
    )


def _with_means(q: Tensor, queue: Tensor, scale: float, with_means: bool, allow_tf32: bool) -> tuple[Any, ...]:
    """The means are the gradient."""
    return q, queue, scale, with_means or wants_gradient(q), allow_tf32


def _save_queue_logsumexp(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, queue, ctx.scale, _, ctx.allow_tf32 = inputs
    log_sums, means = output
    ctx.mark_non_differentiable(means)
    # The queue is saved only where its own gradient is wanted, so that otherwise it may change before the backward.
    keeps_queue = ctx.needs_input_grad[1] or transforms_are_active()
    ctx.save_for_backward(means, log_sums, q, queue if keeps_queue else None)
    ctx.save_for_forward(q, queue)


def _queue_logsumexp_backward(ctx: Any, weights: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    means, log_sums, q, queue = ctx.saved_tensors
    for_q, for_queue, *_ = ctx.needs_input_grad
    operations = torch.ops.ikem_ext
    grad_q = operations.queue_logsumexp_backward_of_q(weights, means, q, queue, ctx.scale) if for_q else None
    grad_queue = None
    if for_queue:
        grad_queue = operations.queue_logsumexp_backward(weights, log_sums, q, queue, ctx.scale, ctx.allow_tf32)
        grad_queue = grad_queue.to(queue.dtype)
    return grad_q, grad_queue, *(None,) * 3


def _queue_logsumexp_jvp(
    ctx: Any, saved: Sequence[Tensor], by_q: Tensor | None, by_queue: Tensor | None, *_: None
) -> tuple[Tensor, None]:
    q, queue = saved
    q, queue, along = _with_tangents(q, queue, by_q, by_queue, parts_axis=1)
    operations = torch.ops.ikem_ext
    log_sums, means = operations.queue_logsumexp(q, queue, ctx.scale, True, ctx.allow_tf32)
    gradient = operations.queue_logsumexp_backward_of_q(torch.ones_like(log_sums), means, q, queue, ctx.scale)
    return (gradient * along).sum(-1), None


def _with_tangents(
    q: Tensor, queue: Tensor, by_q: Tensor | None, by_queue: Tensor | None, parts_axis: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, a queue, and the direction in which their gradient for the queries is the tangent of the sums.

    The queue's tangent stands beside the queue, where zeros in the queries keep it out of the similarities; the
    gradient for these zeros is the tangent's mean, and meets the queries.
    """
    by_q = torch.zeros_like(q) if by_q is None else by_q
    if by_queue is None:
        return q, queue, by_q
    wide_q, along = torch.cat((q, torch.zeros_like(q)), -1), torch.cat((by_q, q), -1)
    return wide_q, torch.cat((queue, by_queue), parts_axis), along


register_derivatives(
    "queue_logsumexp",
    prepare=_with_means,
    setup_context=_save_queue_logsumexp,
    backward=_queue_logsumexp_backward,
    jvp=_queue_logsumexp_jvp,
)

# An operation although it is one line, because what it takes on top shows what it depends on to whom differentiates it.
torch.library.define(
    "ikem_ext::queue_logsumexp_backward_of_q",
    "(Tensor weights, Tensor means, Tensor q, Tensor? queue, float scale) -> Tensor",
)


@torch.library.impl("ikem_ext::queue_logsumexp_backward_of_q", "CompositeExplicitAutograd")
def _(weights: Tensor, means: Tensor, q: Tensor, queue: Tensor | None, scale: float) -> Tensor:
    return scale * weights[..., None] * means


def _check_guide_is_constant(*arguments: Any) -> tuple[Any, ...]:
    if wants_gradient(arguments[2]) or wants_gradient(arguments[3]):
        refuse("exchange_logsumexp", "derivatives with respect to guide and guide_queue")
    return arguments


def _save_exchange_logsumexp(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, queue, guide, guide_queue, ctx.scale, _, _, ctx.allow_tf32 = inputs
    single, product, nearest = output
    ctx.mark_non_differentiable(nearest)
    save(ctx, single, product, q, queue, guide, guide_queue)


def _exchange_logsumexp_backward(
    ctx: Any, grad_single: Tensor | None, grad_product: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    single, product, _, queue, *_ = ctx.saved_tensors
    needs_q, needs_queue = ctx.needs_input_grad[:2]
    grad_q, grad_queue = torch.ops.ikem_ext.exchange_logsumexp_backward(
        torch.zeros_like(single) if grad_single is None else grad_single,
        torch.zeros_like(product) if grad_product is None else grad_product,
        *ctx.saved_tensors,
        ctx.scale,
        needs_q,
        needs_queue,
        ctx.allow_tf32,
    )
    return grad_q if needs_q else None, grad_queue.to(queue.dtype) if needs_queue else None, *(None,) * 6


def _exchange_logsumexp_jvp(
    ctx: Any, saved: Sequence[Any], by_q: Tensor | None, by_queue: Tensor | None, *others: Tensor | None
) -> tuple[Tensor, Tensor, None]:
    """By the gradients of some sums at a time: one backward pass for the single ones, and one for each guide."""
    if any(tangent is not None for tangent in others):
        refuse("exchange_logsumexp", "derivatives with respect to guide and guide_queue")
    single, product, q, queue, guide, guide_queue = saved
    q, queue, along = _with_tangents(q, queue, by_q, by_queue, parts_axis=-1)

    def tangent(grad_single: Tensor, grad_product: Tensor) -> Tensor:
        """Of each learner's queries, (A, N): what they have to do with the sums that the gradients choose."""
        sums = grad_single, grad_product, single, product
        gradient, _ = torch.ops.ikem_ext.exchange_logsumexp_backward(
            *sums, q, queue, guide, guide_queue, ctx.scale, True, False, ctx.allow_tf32
        )
        return (gradient * along).sum(-1)

    by_single = tangent(torch.ones_like(single), torch.zeros_like(product))
    if len(product) == 0:
        return by_single, torch.zeros_like(product), None
    nothing, guides = torch.zeros_like(single), torch.eye(product.shape[1], device=q.device, dtype=q.dtype)
    by_product = torch.stack([tangent(nothing, one[:, None].expand_as(product)) for one in guides], 1)
    if guide is None:  # within one set, a learner's queries are a guide's as well; the diagonal means nothing
        by_product = by_product * (1 - guides)[..., None]
        by_product = by_product + by_product.transpose(0, 1)
    return by_single, by_product, None


register_derivatives(
    "exchange_logsumexp",
    prepare=_check_guide_is_constant,
    setup_context=_save_exchange_logsumexp,
    backward=_exchange_logsumexp_backward,
    jvp=_exchange_logsumexp_jvp,
)


def _no_derivatives(name: str, losses: str) -> None:
    """Gradients are where differentiation ends."""

    def refuse_second(*_: Any) -> NoReturn:
        refuse(losses, SECOND_DERIVATIVES)

    register_derivatives(name, setup_context=lambda *_: None, backward=refuse_second, jvp=refuse_second)


_no_derivatives("queue_logsumexp_backward", "info_nce, implicit_exchange (queue_logsumexp)")
_no_derivatives("queue_logsumexp_backward_of_q", "info_nce, implicit_exchange (queue_logsumexp)")
_no_derivatives("exchange_logsumexp_backward", "cross_modal_nce, relational_distillation (exchange_logsumexp)")


def _mapped_as_queries(info: Any, tensor: Tensor, axis: int | None, queries: int) -> Tensor:
    """The mapped axis and that of the queries, ``queries``, as one."""
    return mapped_first(tensor, axis, info.batch_size).movedim(0, queries).flatten(queries, queries + 1)


def _mapped_as_groups(info: Any, in_dims: Sequence[int | None], *tensors: Tensor) -> list[Tensor]:
    return [
        mapped_first(each, axis, info.batch_size).flatten(0, 1) for each, axis in zip(tensors, in_dims, strict=False)
    ]


@register_vmap("queue_logsumexp")
def _(info: Any, in_dims: Sequence[int | None], q: Tensor, queue: Tensor, *settings: Any) -> Any:
    with_means = settings[1]
    if in_dims[1] is None:  # the same queue for all: more queries
        axis = 1
        q = _mapped_as_queries(info, q, in_dims[0], axis)
    else:
        axis = 0
        q, queue = _mapped_as_groups(info, in_dims, q, queue)
    log_sums, means = torch.ops.ikem_ext.queue_logsumexp(q, queue, *settings)
    parts = (info.batch_size, -1)
    return (log_sums.unflatten(axis, parts), means.unflatten(axis, parts) if with_means else means), (
        axis,
        axis if with_means else None,
    )


@register_vmap("queue_logsumexp_backward")
def _(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Tensor, int]:
    *tensors, scale, allow_tf32 = arguments
    grouped = _mapped_as_groups(info, in_dims, *tensors)
    gradient = torch.ops.ikem_ext.queue_logsumexp_backward(*grouped, scale, allow_tf32)
    return gradient.unflatten(0, (info.batch_size, -1)), 0


@register_vmap("queue_logsumexp_backward_of_q")
def _(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Tensor, int]:
    *tensors, scale = arguments
    mapped = (
        each if each is None else mapped_first(each, axis, info.batch_size)
        for each, axis in zip(tensors, in_dims, strict=False)
    )
    return torch.ops.ikem_ext.queue_logsumexp_backward_of_q(*mapped, scale), 0


@register_vmap("exchange_logsumexp")
def _(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> Any:
    operation = torch.ops.ikem_ext.exchange_logsumexp
    if in_dims[1] is not None or in_dims[3] is not None:
        return one_by_one(operation, info, in_dims, *arguments)
    q, queue, guide, guide_queue, *settings = arguments
    q = _mapped_as_queries(info, q, in_dims[0], 1)
    guide = None if guide is None else _mapped_as_queries(info, guide, in_dims[2], 1)
    results = operation(q, queue, guide, guide_queue, *settings)
    axes = 1, 2, 1
    return tuple(each.unflatten(axis, (info.batch_size, -1)) for each, axis in zip(results, axes, strict=True)), axes


@register_vmap("exchange_logsumexp_backward")
def _(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> Any:
    operation = torch.ops.ikem_ext.exchange_logsumexp_backward
    if arguments[-2] or in_dims[5] is not None or in_dims[7] is not None:
        return one_by_one(operation, info, in_dims, *arguments)
    tensors = list(arguments)
    for index, axis in ((0, 1), (1, 2), (2, 1), (3, 2), (4, 1), (6, 1)):
        if tensors[index] is not None:
            tensors[index] = _mapped_as_queries(info, tensors[index], in_dims[index], axis)
    grad_q, grad_queue = operation(*tensors)
    return (grad_q.unflatten(1, (info.batch_size, -1)), grad_queue), (1, None)


def _allows_tf32(q: Tensor) -> bool:
    """Whether products may round float32 to TF32: what PyTorch is told of its own products."""
    return q.is_cuda and torch.backends.cuda.matmul.allow_tf32


def _widen(x: Tensor) -> Tensor:
    """At least float32, so that sums of many terms keep their digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _batch_mean(losses: Tensor) -> Tensor:
    """Mean over the last axis; zero for an empty batch."""
    return losses.sum(-1) / max(losses.shape[-1], 1)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")


def _check_topk(topk: int, length: int) -> None:
    if not 0 <= topk <= length:
        raise ValueError(f"topk: expected 0 to {length}, the length of the queue, got {topk}")


def _autocast_to_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Casts the half-precision inputs of a loss as autocast does for the losses of PyTorch."""
    if _library.autocast_dtype(tensors[0].device) is None:
        return tensors
    return tuple(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for x in tensors)


def _no_autocast(like: Tensor) -> AbstractContextManager[Any]:
    if _library.autocast_dtype(like.device) is None:
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)

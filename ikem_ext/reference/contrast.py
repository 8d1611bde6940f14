"""Plain-PyTorch twins of the contrastive losses in :mod:`ikem_ext.contrast`.

They hold every matrix of similarities, as the published code does.
"""

from __future__ import annotations

import torch
from torch import Tensor


def queue_logsumexp(q: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """See :func:`ikem_ext.queue_logsumexp`; the same arguments, values and gradients, on any device."""
    return (_similarities(*_widen(q, queue)) / temperature).logsumexp(-1)


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """See :func:`ikem_ext.info_nce`; the same arguments, values and gradients, on any device."""
    q, k, queue = _widen(q, k, queue)
    columns = torch.cat((_positives(q, k), _similarities(q, queue)), dim=-1) / temperature
    return _batch_mean(columns.logsumexp(-1) - columns[..., 0])


def cross_modal_nce(
    q: Tensor, k: Tensor, queue: Tensor, temperature: float, *, topk: int = 1, context: bool = True
) -> Tensor:
    """See :func:`ikem_ext.cross_modal_nce`; the same arguments, values and gradients, on any device."""
    q, k, queue = _widen(q, k, queue)
    p, s = _positives(q, k), _similarities(q, queue)
    nearest = _nearest(s, topk)
    modalities = range(len(q))
    return torch.stack(
        [
            torch.stack(
                [
                    _mined_nce(p[u], [s[u], s[u] * s[v]] if context else [s[u]], nearest[v], temperature)
                    for v in modalities
                    if v != u
                ]
            ).mean(0)
            for u in modalities
        ]
    )


def implicit_exchange(h: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """See :func:`ikem_ext.implicit_exchange`; the same arguments, values and gradients, on any device."""
    h, k, queue = _widen(h, k, queue)
    joined, joined_queue = (_concatenated(keys).expand(len(h), -1, -1) for keys in (k, queue))
    return info_nce(h, joined, joined_queue, temperature)


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
    """See :func:`ikem_ext.relational_distillation`; the same arguments, values and gradients, on any device."""
    student = _widen(student)[0]
    teacher, teacher_queue, guide, guide_queue = _widen(
        *(x.detach() for x in (teacher, teacher_queue, guide, guide_queue))
    )
    p, s = _positives(student, teacher), student @ teacher_queue.mT
    relations = _similarities(guide, guide_queue)
    nearest = _nearest(relations, topk)
    return torch.stack(
        [
            torch.stack(
                [
                    _mined_nce(p_s, [s_s, s_s * relation], index, temperature)
                    for relation, index in zip(relations, nearest, strict=True)
                ]
            ).mean(0)
            for p_s, s_s in zip(p, s, strict=True)
        ]
    )


def _mined_nce(positive: Tensor, blocks: list[Tensor], nearest: Tensor, temperature: float) -> Tensor:
    """Log-sum-exp of all columns less the mean over the positive and the mined columns of each block."""
    columns = torch.cat((positive, *blocks), dim=-1) / temperature
    mined = torch.cat((positive, *(block.gather(-1, nearest) for block in blocks)), dim=-1) / temperature
    return _batch_mean(columns.logsumexp(-1) - mined.mean(-1))


def _nearest(similarities: Tensor, topk: int) -> Tensor:
    """Indices of the ``topk`` largest entries of each row; of equal ones those of the lowest index."""
    rest = similarities.detach().clone()
    indices = [torch.empty_like(rest[..., :0], dtype=torch.int64)]
    for _ in range(topk):
        indices.append(rest.argmax(-1, keepdim=True))  # of equal ones the first
        rest.scatter_(-1, indices[-1], -torch.inf)
    return torch.cat(indices, dim=-1)


def _positives(q: Tensor, k: Tensor) -> Tensor:
    return (q * k).sum(-1, keepdim=True)


def _similarities(q: Tensor, queue: Tensor) -> Tensor:
    return q @ queue.mT


def _concatenated(keys: Tensor) -> Tensor:
    """(G, N, C) unit vectors to (N, G * C) unit vectors."""
    return keys.transpose(0, 1).flatten(1) / len(keys) ** 0.5


def _batch_mean(losses: Tensor) -> Tensor:
    """Mean over the last axis; zero for an empty batch."""
    return losses.sum(-1) / max(losses.shape[-1], 1)


def _widen(*tensors: Tensor) -> tuple[Tensor, ...]:
    """At least float32, so that sums of many terms keep their digits."""
    return tuple(x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors)

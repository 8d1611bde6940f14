"""The losses in plain PyTorch as who watches the memory writes them by hand: logits for a slice of the queue at a time.

What is made of a slice is checkpointed: the backward pass makes its logits again. Nothing of queries times queue is
kept, and the products of two modalities' similarities, which are symmetric, are made once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .compiling import Compiler, eager
from .published_losses import TEMPERATURE

#: Keys in a slice.
SLICE = 2048


def info_nce(q: Tensor, k: Tensor, queue: Tensor, compiler: Compiler = eager) -> Tensor:
    """Of queries and keys (G, N, C) and queues (G, K, C)."""
    (log_sums,) = _over_slices(compiler(_info_nce_of_slice), (q,), queue)
    return _contrasted((q * k).sum(-1) / TEMPERATURE, torch.stack(log_sums).logsumexp(0))


def exchange(q: Tensor, h: Tensor, k: Tensor, queue: Tensor, compiler: Compiler = eager) -> Tensor:
    """Explicit and implicit, the latter of queries (G, N, G * C)."""
    modalities = len(q)
    u, v = _pairs(q)
    log_sums, largest, places = _over_slices(compiler(_exchange_of_slice), (q, h), queue)
    own, products, joined = torch.stack(log_sums).logsumexp(0).split((modalities, len(u), modalities))
    mined = torch.einsum("unc,uvnc->uvn", q, queue[:, _nearest(largest, places)])  # of u, where v is nearest
    u, v = torch.cat((u, v)), torch.cat((v, u))
    positive = (q * k).sum(-1)[u] / TEMPERATURE
    entry = mined[u, v] / TEMPERATURE
    explicit = _mined_loss(positive, own[u], torch.cat((products, products)), entry, entry * mined[v, v])
    return explicit / (modalities - 1) + _contrasted((h * _joined(k)).sum(-1) / TEMPERATURE, joined)


def distillation(
    student: Tensor, teacher: Tensor, teacher_queue: Tensor, guide: Tensor, queue: Tensor, compiler: Compiler = eager
) -> Tensor:
    """Of students (S, N, G * C), a teacher (N, G * C) with its queue (K, G * C), and guides (G, N, C) and (G, K, C)."""
    function = compiler(_distillation_of_slice)
    own, products, largest, places = _over_slices(function, (student, guide), teacher_queue, queue)
    nearest = _nearest(largest, places)
    entry = torch.einsum("snc,gnc->sgn", student, teacher_queue[nearest]) / TEMPERATURE
    relation = (guide * queue[torch.arange(len(queue), device=queue.device)[:, None], nearest]).sum(-1)
    loss = _mined_loss(
        (student * teacher).sum(-1)[:, None] / TEMPERATURE,
        torch.stack(own).logsumexp(0)[:, None],
        torch.stack(products).logsumexp(0),
        entry,
        entry * relation,
    )
    return loss / len(guide)


def _over_slices(function: Callable[..., tuple[Tensor, ...]], queries: tuple[Tensor, ...], *queues: Tensor) -> Any:
    """What the function gives for the queries and each slice of the queues, result by result."""
    slices = zip(*(queue.split(SLICE, dim=-2) for queue in queues), strict=True)
    return zip(*(checkpoint(function, *queries, *keys, use_reentrant=False) for keys in slices), strict=True)


def _info_nce_of_slice(q: Tensor, keys: Tensor) -> tuple[Tensor, ...]:
    return (_log_sum(q @ keys.mT),)


def _exchange_of_slice(q: Tensor, h: Tensor, keys: Tensor) -> tuple[Tensor, ...]:
    s, (u, v) = q @ keys.mT, _pairs(q)
    log_sums = torch.cat((_log_sum(s), _log_sum(s[u] * s[v]), _log_sum(h @ _joined(keys).mT)))
    return log_sums, *s.detach().max(-1)


def _distillation_of_slice(student: Tensor, guide: Tensor, teacher_keys: Tensor, keys: Tensor) -> tuple[Tensor, ...]:
    s, relations = student @ teacher_keys.mT, guide @ keys.mT
    return _log_sum(s), _log_sum(s[:, None] * relations), *relations.max(-1)


def _pairs(q: Tensor) -> Tensor:
    """Each two modalities once, (2, pairs)."""
    return torch.triu_indices(len(q), len(q), 1, device=q.device)


def _log_sum(similarities: Tensor) -> Tensor:
    return (similarities / TEMPERATURE).logsumexp(-1)


def _nearest(largest: tuple[Tensor, ...], places: tuple[Tensor, ...]) -> Tensor:
    """Which entry of the queue each query is nearest to, of the nearest in each slice and their places there."""
    entries = torch.stack([place + number * SLICE for number, place in enumerate(places)])
    return entries.gather(0, torch.stack(largest).argmax(0, keepdim=True))[0]


def _contrasted(positive: Tensor, log_sum: Tensor) -> Tensor:
    return (torch.logaddexp(positive, log_sum) - positive).mean(-1).sum()


def _mined_loss(positive: Tensor, own: Tensor, products: Tensor, entry: Tensor, product: Tensor) -> Tensor:
    """Of the positive's logits, the log-sums of both blocks and the mined logits of both; summed over pairs."""
    log_sum = torch.logaddexp(torch.logaddexp(positive, own), products)
    return (log_sum - (positive + entry + product) / 3).mean(-1).sum()


def _joined(keys: Tensor) -> Tensor:
    """Unit vectors (G, K, C) to unit vectors (K, G * C)."""
    return keys.transpose(0, 1).flatten(1) / len(keys) ** 0.5

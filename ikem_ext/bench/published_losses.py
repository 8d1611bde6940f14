"""The losses in plain PyTorch as the published code writes them: a matrix of logits for each pair of modalities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

TEMPERATURE = 0.07


def info_nce(q: Tensor, k: Tensor, queue: Tensor) -> Tensor:
    """Logits of all keys, and cross entropy with the first of them."""
    losses = []
    for q_u, k_u, queue_u in zip(q, k, queue, strict=True):
        positive = torch.einsum("nc,nc->n", q_u, k_u).unsqueeze(-1)
        logits = torch.cat((positive, torch.einsum("nc,kc->nk", q_u, queue_u)), dim=1) / TEMPERATURE
        labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        losses.append(torch.nn.functional.cross_entropy(logits, labels))
    return torch.stack(losses).sum()


def exchange(q: Tensor, h: Tensor, k: Tensor, queue: Tensor) -> Tensor:
    """Logits and a mask of the positives for each of the 30 ordered pairs, and InfoNCE over concatenated queues."""
    positives = [torch.einsum("nc,nc->n", q_u, k_u).unsqueeze(-1) for q_u, k_u in zip(q, k, strict=True)]
    similarities = [torch.einsum("nc,kc->nk", q_u, queue_u) for q_u, queue_u in zip(q, queue, strict=True)]
    total = q.new_zeros(())
    for u, s_u in enumerate(similarities):
        others = [s_v for v, s_v in enumerate(similarities) if v != u]
        total = total + torch.stack([_masked_loss(positives[u], s_u, s_v) for s_v in others]).mean()
    keys, keys_queue = (normalize(torch.cat(list(x), dim=1), dim=1) for x in (k, queue))
    return total + info_nce(h, keys.expand(len(h), -1, -1), keys_queue.expand(len(h), -1, -1))


def distillation(student: Tensor, teacher: Tensor, teacher_queue: Tensor, guide: Tensor, queue: Tensor) -> Tensor:
    """Logits and a mask for each student and modality of the teacher."""
    relations = [torch.einsum("nc,kc->nk", q, queue_u) for q, queue_u in zip(guide, queue, strict=True)]
    total = student.new_zeros(())
    for h in student:
        positive = torch.einsum("nc,nc->n", h, teacher).unsqueeze(-1)
        s = torch.einsum("nc,kc->nk", h, teacher_queue)
        total = total + torch.stack([_masked_loss(positive, s, relation) for relation in relations]).mean()
    return total


def _masked_loss(positive: Tensor, s: Tensor, guide: Tensor) -> Tensor:
    logits = torch.cat((positive, s, s * guide), dim=1) / TEMPERATURE
    nearest = torch.zeros_like(guide).scatter_(1, guide.topk(1, dim=1).indices, 1)
    mask = torch.cat((torch.ones_like(positive), nearest, nearest), dim=1)
    return -((logits.log_softmax(dim=1) * mask).sum(1) / mask.sum(1)).mean()

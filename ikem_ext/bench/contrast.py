"""The losses: streamed over the queue, against the published form (one matrix of logits per pair) and the twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

import ikem_ext
from ikem_ext import MODALITIES, reference

from .measure import OURS, Case

WIDTH, TEMPERATURE = 128, 0.07
STUDENTS = 3

Loss = Callable[..., Tensor]


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    """InfoNCE, the exchange (explicit and implicit) and the distillation, forward and backward."""
    keys = 2048 if quick else 32768
    for clips in (32,) if quick else (32, 128):
        yield from _cases(device, dtype, clips, keys, compiles=not quick)


def _cases(device: torch.device, dtype: torch.dtype, clips: int, keys: int, compiles: bool) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)
    modalities = len(MODALITIES)

    def unit(*shape: int) -> Tensor:
        return normalize(torch.randn(shape, generator=generator), dim=-1).to(device, dtype)

    q, h, k = (unit(modalities, clips, width) for width in (WIDTH, modalities * WIDTH, WIDTH))
    queue = unit(keys, modalities, WIDTH).transpose(0, 1)  # as KeyQueue stores it
    student, teacher = unit(STUDENTS, clips, modalities * WIDTH), unit(clips, modalities * WIDTH)
    teacher_queue = unit(keys, modalities * WIDTH)
    parameters = {"clips": clips, "keys": keys, "width": WIDTH, "modalities": modalities, "dtype": str(dtype)}

    def case(name: str, leaves: Sequence[Tensor], products: int, losses: dict[str, Loss]) -> Case:
        """``products``: multiplications and additions, in the form that needs the fewest."""
        functions = dict(losses)
        if compiles:
            functions |= {f"{name}, compiled": torch.compile(loss) for name, loss in list(losses.items())[1:]}
        variants = {
            variant: partial(_forward_and_backward, function, leaves) for variant, function in functions.items()
        }
        return Case(
            "contrast",
            f"{name}, forward and backward, N={clips}, K={keys}",
            variants,
            bytes_moved=2 * queue.nbytes,
            operations=2 * clips * keys * products,
            parameters=parameters,
        )

    def exchange(library: object, q: Tensor, h: Tensor) -> Tensor:
        explicit = library.cross_modal_nce(q, k, queue, TEMPERATURE)  # type: ignore[attr-defined]
        return explicit.sum() + library.implicit_exchange(h, k, queue, TEMPERATURE).sum()  # type: ignore[attr-defined]

    def distillation(library: object, student: Tensor) -> Tensor:
        return library.relational_distillation(  # type: ignore[attr-defined]
            student, teacher, teacher_queue, q, queue, TEMPERATURE
        ).sum()

    # The means of the queue come out of the forward pass; what mixes two similarities needs them made twice.
    one_pass, two_passes = 2 * modalities * WIDTH, 3 * modalities * WIDTH
    yield case(
        "info_nce",
        [q],
        one_pass,
        {
            OURS: lambda q: ikem_ext.info_nce(q, k, queue, TEMPERATURE).sum(),
            "one matrix a modality": lambda q: _published_info_nce(q, k, queue),
            "vectorized": lambda q: reference.info_nce(q, k, queue, TEMPERATURE).sum(),
        },
    )
    yield case(
        "explicit and implicit exchange",
        [q, h],
        two_passes + modalities * one_pass,
        {
            OURS: lambda q, h: exchange(ikem_ext, q, h),
            "one matrix a pair": lambda q, h: _published_exchange(q, h, k, queue),
            "vectorized": lambda q, h: exchange(reference, q, h),
        },
    )
    yield case(
        "relational distillation",
        [student],
        2 * modalities * WIDTH + STUDENTS * two_passes,
        {
            OURS: lambda student: distillation(ikem_ext, student),
            "one matrix a pair": lambda student: _published_distillation(student, teacher, teacher_queue, q, queue),
            "vectorized": lambda student: distillation(reference, student),
        },
    )


def _forward_and_backward(loss: Loss, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    fresh = [leaf.detach().requires_grad_() for leaf in leaves]
    return torch.autograd.grad(loss(*fresh), fresh)


def _published_info_nce(q: Tensor, k: Tensor, queue: Tensor) -> Tensor:
    """Logits of all keys, and cross entropy with the first of them."""
    losses = []
    for q_u, k_u, queue_u in zip(q, k, queue, strict=True):
        positive = torch.einsum("nc,nc->n", q_u, k_u).unsqueeze(-1)
        logits = torch.cat((positive, torch.einsum("nc,kc->nk", q_u, queue_u)), dim=1) / TEMPERATURE
        labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        losses.append(torch.nn.functional.cross_entropy(logits, labels))
    return torch.stack(losses).sum()


def _published_exchange(q: Tensor, h: Tensor, k: Tensor, queue: Tensor) -> Tensor:
    """Logits and a mask of the positives for each of the 30 ordered pairs, and InfoNCE over concatenated queues."""
    positives = [torch.einsum("nc,nc->n", q_u, k_u).unsqueeze(-1) for q_u, k_u in zip(q, k, strict=True)]
    similarities = [torch.einsum("nc,kc->nk", q_u, queue_u) for q_u, queue_u in zip(q, queue, strict=True)]
    total = q.new_zeros(())
    for u, s_u in enumerate(similarities):
        others = [s_v for v, s_v in enumerate(similarities) if v != u]
        total = total + torch.stack([_masked_loss(positives[u], s_u, s_v) for s_v in others]).mean()
    keys, keys_queue = (normalize(torch.cat(list(x), dim=1), dim=1) for x in (k, queue))
    return total + _published_info_nce(h, keys.expand(len(h), -1, -1), keys_queue.expand(len(h), -1, -1))


def _published_distillation(
    student: Tensor, teacher: Tensor, teacher_queue: Tensor, guide: Tensor, guide_queue: Tensor
) -> Tensor:
    """Logits and a mask for each student and modality of the teacher."""
    relations = [torch.einsum("nc,kc->nk", q, queue) for q, queue in zip(guide, guide_queue, strict=True)]
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

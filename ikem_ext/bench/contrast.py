"""The losses: streamed over the queue, against the published form (one matrix of logits per pair) and the twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

import ikem_ext
from ikem_ext import MODALITIES, reference

from .measure import OURS, Case, forward, forward_and_backward, with_compiled

WIDTH, TEMPERATURE = 128, 0.07
STUDENTS = 3
PEERS = ("published", "vectorized")


@dataclass(frozen=True)
class Loss:
    """A loss in its variants, with what it takes.

    Args:
        name: its name.
        functions: its variants.
        learners: the arguments that gradients are made for, by their names in `_inputs`; they come first.
        others: the other arguments.
        similarities: how many similarities of vectors of ``WIDTH`` each query and entry of the queue need, as a
            function of the number of modalities: forward, and forward and backward. The means of the queue, which
            are gradients, can come out of the forward pass; what mixes two similarities needs them made twice.
    """

    name: str
    functions: Mapping[str, Callable[..., Tensor]]
    learners: tuple[str, ...]
    others: tuple[str, ...]
    similarities: Callable[[int], tuple[int, int]]


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    """InfoNCE, the exchange (explicit and implicit) and the distillation."""
    keys = 1024 if quick else 32768
    losses = [INFO_NCE, EXCHANGE, DISTILLATION]
    if not quick:
        losses = [replace(loss, functions=with_compiled(loss.functions, PEERS)) for loss in losses]
    for clips in (32,) if quick else (32, 128) if device.type == "cpu" else (128,):
        for loss in losses:
            yield from _cases(f"{loss.name}, N={clips}, K={keys}", loss, device, dtype, clips, keys)


def scaling(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    """The exchange, forward and backward, over clips, keys and modalities; torch.compile would take minutes."""
    most, keys = len(MODALITIES), 1024 if quick else 8192
    sizes = [("clips", clips, keys, most) for clips in ((8, 16) if quick else (8, 16, 32, 64, 128))]
    sizes += [("keys", 32, length, most) for length in ((512, 1024) if quick else (2048, 4096, 8192, 16384, 32768))]
    sizes += [("modalities", 32, keys, modalities) for modalities in ((2, 3) if quick else (2, 3, 4, 5, 6))]
    for swept, clips, keys, modalities in sizes:
        held = {"clips": f"N={clips}", "keys": f"K={keys}", "modalities": f"G={modalities}"}
        del held[swept]
        name = ", ".join([EXCHANGE.name, *held.values()])
        *_, both_passes = _cases(name, EXCHANGE, device, dtype, clips, keys, modalities, swept)
        yield both_passes


def _cases(
    name: str,
    loss: Loss,
    device: torch.device,
    dtype: torch.dtype,
    clips: int,
    keys: int,
    modalities: int = len(MODALITIES),
    swept: str | None = None,
) -> Iterator[Case]:
    """Forward, and forward and backward."""
    inputs = _inputs(device, dtype, clips, keys, modalities)
    leaves = [inputs[name].requires_grad_() for name in loss.learners]
    others = [inputs[name] for name in loss.others]
    for tensor in (*leaves, *others):
        if tensor.shape[-2] == clips:
            # Otherwise the published form would be compiled again for each number of clips, half a minute each;
            # what comes out is as fast.
            torch._dynamo.maybe_mark_dynamic(tensor, tensor.dim() - 2)
    for passes, run, similarities in zip(
        ("forward", "forward and backward"),
        (forward, forward_and_backward),
        loss.similarities(modalities),
        strict=True,
    ):
        yield Case(
            "contrast",
            name,
            {variant: partial(run, function, leaves, *others) for variant, function in loss.functions.items()},
            bytes_moved=sum(tensor.nbytes for tensor in (*leaves, *others)),
            operations=2 * clips * keys * WIDTH * similarities,
            parameters={
                "clips": clips, "keys": keys, "width": WIDTH, "modalities": modalities, "dtype": str(dtype),
            },
            passes=passes,
            swept=swept,
        )  # fmt: skip


def _inputs(device: torch.device, dtype: torch.dtype, clips: int, keys: int, modalities: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def unit(*shape: int) -> Tensor:
        return normalize(torch.randn(shape, generator=generator), dim=-1).to(device, dtype)

    return {
        "q": unit(modalities, clips, WIDTH),
        "h": unit(modalities, clips, modalities * WIDTH),
        "k": unit(modalities, clips, WIDTH),
        "queue": unit(keys, modalities, WIDTH).transpose(0, 1),  # as KeyQueue stores it
        "student": unit(STUDENTS, clips, modalities * WIDTH),
        "teacher": unit(clips, modalities * WIDTH),
        "teacher_queue": unit(keys, modalities * WIDTH),
    }


def _info_nce(q: Tensor, k: Tensor, queue: Tensor) -> Tensor:
    return ikem_ext.info_nce(q, k, queue, TEMPERATURE).sum()


def _vectorized_info_nce(q: Tensor, k: Tensor, queue: Tensor) -> Tensor:
    return reference.info_nce(q, k, queue, TEMPERATURE).sum()


def _published_info_nce(q: Tensor, k: Tensor, queue: Tensor) -> Tensor:
    """Logits of all keys, and cross entropy with the first of them."""
    losses = []
    for q_u, k_u, queue_u in zip(q, k, queue, strict=True):
        positive = torch.einsum("nc,nc->n", q_u, k_u).unsqueeze(-1)
        logits = torch.cat((positive, torch.einsum("nc,kc->nk", q_u, queue_u)), dim=1) / TEMPERATURE
        labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        losses.append(torch.nn.functional.cross_entropy(logits, labels))
    return torch.stack(losses).sum()


def _exchange(q: Tensor, h: Tensor, k: Tensor, queue: Tensor) -> Tensor:
    explicit = ikem_ext.cross_modal_nce(q, k, queue, TEMPERATURE)
    return explicit.sum() + ikem_ext.implicit_exchange(h, k, queue, TEMPERATURE).sum()


def _vectorized_exchange(q: Tensor, h: Tensor, k: Tensor, queue: Tensor) -> Tensor:
    explicit = reference.cross_modal_nce(q, k, queue, TEMPERATURE)
    return explicit.sum() + reference.implicit_exchange(h, k, queue, TEMPERATURE).sum()


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


def _distillation(student: Tensor, teacher: Tensor, teacher_queue: Tensor, guide: Tensor, queue: Tensor) -> Tensor:
    return ikem_ext.relational_distillation(student, teacher, teacher_queue, guide, queue, TEMPERATURE).sum()


def _vectorized_distillation(
    student: Tensor, teacher: Tensor, teacher_queue: Tensor, guide: Tensor, queue: Tensor
) -> Tensor:
    return reference.relational_distillation(student, teacher, teacher_queue, guide, queue, TEMPERATURE).sum()


def _published_distillation(
    student: Tensor, teacher: Tensor, teacher_queue: Tensor, guide: Tensor, queue: Tensor
) -> Tensor:
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


INFO_NCE = Loss(
    "info_nce",
    {OURS: _info_nce, "published": _published_info_nce, "vectorized": _vectorized_info_nce},
    ("q",),
    ("k", "queue"),
    lambda modalities: (modalities, 2 * modalities),
)
EXCHANGE = Loss(
    "explicit and implicit exchange",
    {OURS: _exchange, "published": _published_exchange, "vectorized": _vectorized_exchange},
    ("q", "h"),
    ("k", "queue"),
    lambda modalities: (modalities + modalities**2, 3 * modalities + 2 * modalities**2),
)
DISTILLATION = Loss(
    "relational distillation",
    {OURS: _distillation, "published": _published_distillation, "vectorized": _vectorized_distillation},
    ("student",),
    ("teacher", "teacher_queue", "q", "queue"),
    lambda modalities: (modalities + STUDENTS * modalities, 2 * modalities + 3 * STUDENTS * modalities),
)


PARTS = (cases,)
SWEEPS = (scaling,)

"""The losses: streamed over the queue, against a matrix of logits for each pair, the twin, and slices of the queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

import ikem_ext
from ikem_ext import MODALITIES, reference

from . import chunked_losses, published_losses
from .compiling import compilers
from .measure import OURS, Case, forward, forward_and_backward, with_compiled
from .published_losses import TEMPERATURE

WIDTH = 128
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
    clips, keys = (32, 1024) if quick else (128, 32768)
    losses = [INFO_NCE, EXCHANGE, DISTILLATION]
    if not quick:
        losses = [replace(loss, functions=_with_compiled(loss.functions, device)) for loss in losses]
    for loss in losses:
        yield from _cases(f"{loss.name}, N={clips}, K={keys}", loss, device, dtype, clips, keys)


def _with_compiled(
    functions: Mapping[str, Callable[..., Tensor]], device: torch.device
) -> dict[str, Callable[..., Tensor]]:
    """All peers compiled too; of the chunked one what is done for a slice: a loop's many slices take minutes.

    On a CPU the twin is left out uncompiled: there it is no faster than the published form, and as long to measure.
    """
    variants = with_compiled(functions, PEERS)
    if device.type == "cpu":
        del variants["vectorized"]
    for how, compiler in compilers().items():
        variants[f"chunked, {how}"] = partial(functions["chunked"], compiler=cache(compiler))
    return variants


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


def _exchange(q: Tensor, h: Tensor, k: Tensor, queue: Tensor) -> Tensor:
    explicit = ikem_ext.cross_modal_nce(q, k, queue, TEMPERATURE)
    return explicit.sum() + ikem_ext.implicit_exchange(h, k, queue, TEMPERATURE).sum()


def _vectorized_exchange(q: Tensor, h: Tensor, k: Tensor, queue: Tensor) -> Tensor:
    explicit = reference.cross_modal_nce(q, k, queue, TEMPERATURE)
    return explicit.sum() + reference.implicit_exchange(h, k, queue, TEMPERATURE).sum()


def _distillation(student: Tensor, teacher: Tensor, teacher_queue: Tensor, guide: Tensor, queue: Tensor) -> Tensor:
    return ikem_ext.relational_distillation(student, teacher, teacher_queue, guide, queue, TEMPERATURE).sum()


def _vectorized_distillation(
    student: Tensor, teacher: Tensor, teacher_queue: Tensor, guide: Tensor, queue: Tensor
) -> Tensor:
    return reference.relational_distillation(student, teacher, teacher_queue, guide, queue, TEMPERATURE).sum()


INFO_NCE = Loss(
    "info_nce",
    {
        OURS: _info_nce,
        "published": published_losses.info_nce,
        "vectorized": _vectorized_info_nce,
        "chunked": chunked_losses.info_nce,
    },
    ("q",),
    ("k", "queue"),
    lambda modalities: (modalities, 2 * modalities),
)
EXCHANGE = Loss(
    "explicit and implicit exchange",
    {
        OURS: _exchange,
        "published": published_losses.exchange,
        "vectorized": _vectorized_exchange,
        "chunked": chunked_losses.exchange,
    },
    ("q", "h"),
    ("k", "queue"),
    lambda modalities: (modalities + modalities**2, 3 * modalities + 2 * modalities**2),
)
DISTILLATION = Loss(
    "relational distillation",
    {
        OURS: _distillation,
        "published": published_losses.distillation,
        "vectorized": _vectorized_distillation,
        "chunked": chunked_losses.distillation,
    },
    ("student",),
    ("teacher", "teacher_queue", "q", "queue"),
    lambda modalities: (modalities + STUDENTS * modalities, 2 * modalities + 3 * STUDENTS * modalities),
)


PARTS = (cases,)
SWEEPS = (scaling,)

"""The steps that are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch

from ikem.training import ContrastiveModule
from ikem_ext import MODALITIES

from ..compiling import compilers
from ..contrast import DISTILLATION, EXCHANGE, INFO_NCE, STUDENTS, WIDTH, Loss
from ..measure import OURS, Case
from .batch import Sizes, random_batch
from .ours import Ours, distillation, pretraining
from .published import PublishedDistillation, PublishedStage1, PublishedStage2, PublishedStep
from .published_encoder import encoder_operations
from .run import Run, Step

#: Training clips of NTU RGB+D 60, cross-subject: what is resident on a GPU.
RESIDENT = 40091


class Work(NamedTuple):
    """A step, ours and published."""

    name: str
    ours: Callable[[Sizes], ContrastiveModule]
    published: Callable[..., PublishedStep]
    loss: Loss
    encoders: int  # forward passes of an encoder that take as long as the step's; a backward pass is two


def cases(
    device: torch.device, dtype: torch.dtype, quick: bool, *, work: Work, cuda_graphs: bool = False
) -> Iterator[Case]:
    """A step; half precisions are those of autocast. With ``cuda_graphs`` nothing on a CPU, nor what is compiled."""
    on_cpu = device.type == "cpu"
    if on_cpu and cuda_graphs:
        return
    clips, keys = (2, 256) if quick else (32 if on_cpu else 128, 32768)
    sizes = Sizes(clips, keys, cuda_graphs=cuda_graphs)
    variants: dict[str, Step] = {OURS: Ours(work.ours(sizes)), "published": work.published(sizes)}
    if not (quick or cuda_graphs):
        variants |= {f"published, {how}": work.published(sizes, compiler) for how, compiler in compilers().items()}
    batch = random_batch(clips, device, None if on_cpu else 256 if quick else RESIDENT)
    how = ", CUDA graphs" if cuda_graphs else ""
    similarities = 2 * clips * keys * WIDTH * work.loss.similarities(len(MODALITIES))[1]
    yield Case(
        "step",
        f"{work.name}{how}, N={clips}, K={keys}",
        {variant: Run(step, batch, device, dtype) for variant, step in variants.items()},
        bytes_moved=batch.joints[0].nbytes * clips,
        operations=similarities + work.encoders * encoder_operations(clips),
        parameters={"clips": clips, "keys": keys, "dtype": str(dtype)},
    )


WORKS = (
    Work("stage 1", pretraining(1), PublishedStage1, INFO_NCE, 4 * len(MODALITIES)),
    Work("stage 2", pretraining(2), PublishedStage2, EXCHANGE, 4 * len(MODALITIES)),
    Work("distillation", distillation, PublishedDistillation, DISTILLATION, len(MODALITIES) + 3 * STUDENTS),
)
# Those as CUDA graphs last: should the capture fail, all else is measured.
PARTS = tuple(partial(cases, work=work, cuda_graphs=cuda_graphs) for cuda_graphs in (False, True) for work in WORKS)

"""Whole models on clips as long as they were published with: 64 and 300 frames, batches of 8 and 64 clips.

A batch whose training would not fit into the memory that is free is halved until it does, and its case says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from .measure import Case, peak_extra_memory
from .models import MODELS, WIDTH, cases_of, random_clips, train, variants

FRAMES, CLIPS = (64, 300), (8, 64)
#: Of the free memory. The rest is for what other variants take more than the published one, and for gaps.
USED = 0.7


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    """Every model, length and batch."""
    for name in MODELS:
        for frames in (8, 16) if quick else FRAMES:
            width = 8 if quick else WIDTH
            each = memory_of_a_clip(variants(name, width, device, dtype)["published"], frames, device)
            models = variants(name, width, device, dtype)
            for clips, title in fitting((1, 2) if quick else CLIPS, each, free_memory(device)):
                compiled = () if quick else ("published",)
                yield from cases_of(
                    "large_models", f"{name}, {frames} frames, {title}", models, clips, frames, compiled
                )


def fitting(batches: Sequence[int], each: float, free: float) -> Iterator[tuple[int, str]]:
    """The batches, ascending, as far as they fit, and what to call them.

    Args:
        batches: numbers of clips.
        each: the GiB that training takes for a clip.
        free: the GiB that there are.
    """
    largest = 0
    for wanted in batches:
        clips = wanted
        while clips > 1 and clips * each > USED * free:
            clips //= 2
        reason = f"{wanted} need {wanted * each:.0f} GiB of the {free:.0f} that are free"
        if clips > largest:
            largest = clips
            yield clips, f"{clips} clips" if clips == wanted else f"{clips} clips ({reason})"
        else:
            print(f"\nno larger batch than {largest} clips: {reason}", flush=True)


def memory_of_a_clip(model: nn.Module, frames: int, device: torch.device) -> float:
    """The GiB that training takes for each clip of a batch; 0 where a process's memory cannot be told."""
    clips = 2
    x, labels = random_clips(model, clips, frames)
    train(model, model, x, labels)
    return (peak_extra_memory(lambda: train(model, model, x, labels), device) or 0.0) / 2**10 / clips


def free_memory(device: torch.device) -> float:
    """GiB."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**30
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    available = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    return available[0] / 2**20 if available else float("inf")


PARTS = (cases,)

"""The clock that calls are timed by."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


def seconds_per_call(run: Callable[[], Any], device: torch.device, in_a_row: int = 1) -> float:
    """The average of calls in a row. On a GPU the clock is read when all work has finished."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(in_a_row):
        run()
    synchronize(device)
    return (time.perf_counter() - start) / in_a_row


def synchronize(device: torch.device) -> None:
    """Waits for a GPU; a CPU has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

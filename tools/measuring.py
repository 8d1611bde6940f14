"""What the measurements at full size share: a part's time and memory, processes of their own, and sparse data sets."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ikem.data.dataset import Clip, DatasetWriter
from ikem_ext import get_layout

LAYOUT = get_layout("ntu25")
FRAMES, BODIES = 50, 2
Result = TypeVar("Result")


@dataclass
class Usage:
    """What a part took; memory is the highest, in GiB.

    Attributes:
        wall: seconds.
        processor: seconds of all threads.
        own: memory of the process's own.
        with_files: that, with the pages of mapped files that happened to be in memory.
    """

    wall: float = 0.0
    processor: float = 0.0
    own: float = 0.0
    with_files: float = 0.0

    def cells(self) -> str:
        """The end of a row of a table in Markdown; `COLUMNS` is its head."""
        return f"{self.wall:.0f} s | {self.processor:.0f} s | {self.own:.1f} GiB | {self.with_files:.1f} GiB |"


COLUMNS = "| part | wall clock | processor time | peak memory | with mapped files |\n|---|---:|---:|---:|---:|"


@contextmanager
def measured() -> Iterator[Usage]:
    """Measure what is done within; what is yielded is filled in at the end, and memory on the way."""
    usage, ended = Usage(), threading.Event()
    watch = threading.Thread(target=_watch, args=(usage, ended), daemon=True)
    watch.start()
    wall, processor = time.perf_counter(), time.process_time()
    try:
        yield usage
    finally:
        usage.wall, usage.processor = time.perf_counter() - wall, time.process_time() - processor
        ended.set()
        watch.join()


def _watch(usage: Usage, ended: threading.Event) -> None:
    while True:
        own, with_files = resident()
        usage.own, usage.with_files = max(usage.own, own), max(usage.with_files, with_files)
        if ended.wait(0.05):
            return


def resident() -> tuple[float, float]:
    """GiB of memory of the process: its own, and with the pages of mapped files that happen to be in memory."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    own, mapped = (int(status[name].split()[0]) / 2**20 for name in ("RssAnon", "RssFile"))
    return own, own + mapped


def machine(device: torch.device, threads: int) -> str:
    """What is measured on, in words."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
        name = "{model name} (family {cpu family}, model {model})".format_map(said)
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "ikem-ext"))
    return f"{name}, {threads} {'thread' if threads == 1 else 'threads'}; {versions}, {date.today()}"


def apart(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function of a module in a process of its own, so that it finds no memory that others have cut up."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as processes:
        return processes.submit(function, *arguments).result()


class SparseWriter(DatasetWriter):
    """Writes a data set whose coordinates are a hole in the file: zeros that take no room on the disk."""

    def append(self, joints: NDArray[np.floating], clip: Clip) -> None:
        """Adds a clip, and leaves out its joints."""
        self._file.seek(4 * joints.size, os.SEEK_CUR)
        self.clips.append(clip)

    def finish(self, **description: Any) -> None:
        """Writes everything else, as ever."""
        self._file.truncate()
        super().finish(**description)


def made_clip(number: int, classes: int) -> Clip:
    """A clip as NTU RGB+D has them, of 40 subjects and 3 cameras."""
    return Clip(f"{number:07d}", number % classes, number % 40, number % 3, None, None, 40 + number % 100)

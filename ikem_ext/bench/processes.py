"""Parts of a benchmark in processes of their own: none finds memory, caches or compiled code that another has left."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torch._dynamo

from . import report
from .compiling import AUTOTUNED, COMPILED, compiling
from .limits import Limits
from .measure import Case, Row, measure

#: Modules of this package with ``PARTS``: functions ``(device, dtype, quick)`` that yield cases. One that has
#: ``SWEEPS``, too, sweeps over sizes by functions of the same arguments.
FAMILIES = ("modalities", "graph_conv", "temporal_conv", "batch_norm", "contrast", "step", "layers", "models")
#: Those that take an hour or more, and are measured only when named.
LARGE_FAMILIES = ("large_models",)

INTERRUPTED = 130

Part = Callable[[torch.device, torch.dtype, bool], Iterator[Case]]


class Selection(NamedTuple):
    """What is measured of a family.

    Attributes:
        device: where.
        dtype: of what is measured.
        quick: small sizes, short, without torch.compile.
        scaling: sweeps too.
        cases: a regular expression that a case's title has to match somewhere.
        compiled: how peers are compiled (`compiling`); with `AUTOTUNED` among it all are compiled anew.
    """

    device: torch.device
    dtype: torch.dtype
    quick: bool
    scaling: bool
    cases: str = ""
    compiled: tuple[str, ...] = (COMPILED,)

    def parts(self, family: str) -> list[Part]:
        """The parts of a family."""
        module = importlib.import_module(f"ikem_ext.bench.{family}")
        return [*module.PARTS, *(getattr(module, "SWEEPS", ()) if self.scaling else ())]


def measured_apart(family: str, selection: Selection) -> Iterator[list[Row]]:
    """Measures a family, each part in a process of its own; yields the rows of a case when they are there.

    With `AUTOTUNED` torch.compile begins with an empty cache: first calls' seconds say how long compiling takes.

    Args:
        family: of `FAMILIES`.
        selection: what is measured of it.

    Raises:
        KeyboardInterrupt: a process was interrupted.
        RuntimeError: one failed; it has said why.
    """
    with TemporaryDirectory() as cache:
        for number in range(len(selection.parts(family))):
            yield from _part_apart(number, cache if AUTOTUNED in selection.compiled else None, family, selection)


def _part_apart(number: int, *arguments: Any) -> Iterator[list[Row]]:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])  # torch takes seconds to import
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_measure_part, args=(sender, number, *arguments), daemon=True)
    process.start()
    sender.close()
    try:
        while True:
            yield receiver.recv()
    except EOFError:
        process.join()
    if process.exitcode == INTERRUPTED:
        raise KeyboardInterrupt
    if process.exitcode:
        raise RuntimeError(f"a process that measured ended with status {process.exitcode}")


# torch.compile would rather run a function uncompiled, silently, than compile it for a ninth size.
@torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True)
def _measure_part(sender: Connection, number: int, cache: str | None, family: str, selection: Selection) -> None:
    try:
        if cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        with compiling(*selection.compiled):
            for rows in _measured(family, selection.parts(family)[number], selection):
                sender.send(rows)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _measured(family: str, part: Part, selection: Selection) -> Iterator[list[Row]]:
    grow_heap()
    limits = Limits.of(selection.device, selection.dtype, selection.quick, convolves=family != "contrast")
    for case in part(selection.device, selection.dtype, selection.quick):
        if not re.search(selection.cases, case.title):
            continue
        print(f"\n{case.family}: {case.title}\n  first calls:", end="", flush=True)
        seconds = 0.1 if selection.quick else 1 if case.swept else 2
        rows = measure(case, selection.device, limits, seconds, lambda text: print(f" {text};", end="", flush=True))
        print(f"\n{report.lines(rows)}", flush=True)
        yield rows


def grow_heap() -> None:
    """Frees a block of nearly 32 MiB, as any training has done: from then on glibc keeps freed memory for what comes.

    A block that is not larger raises the size up to which blocks are taken from the heap, and with it, twofold, how
    much free memory may stand at its end (malloc's M_MMAP_THRESHOLD and M_TRIM_THRESHOLD). In a small process calls
    would give their memory back each time, and pay for its pages each time, or not, as luck has it.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)

"""Fair measurement: the variants of a case run in turn, so that whatever else the machine does falls on all alike."""

from __future__ import annotations

import ctypes
import gc
import math
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

OURS = "ikem_ext"


@dataclass
class Case:
    """One piece of work in several variants that give the same result.

    Args:
        family: the family of operations, the name of its module in this package.
        name: what is worked on.
        variants: functions without arguments by name; the first is ours and is called "ikem_ext".
        bytes_moved: what has to be read and written at least, each once.
        operations: multiplications and additions of the matrix products, in the form that needs the fewest; 0 where
            there are none to speak of.
    """

    family: str
    name: str
    variants: Mapping[str, Callable[[], Any]]
    bytes_moved: int
    operations: int = 0
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass
class Row:
    """What was measured of one variant of a case."""

    family: str
    case: str
    variant: str
    median_ms: float
    quartiles_ms: tuple[float, float]
    runs: int
    extra_memory_mib: float | None
    share_of_limit: float  # the time that the machine's limits allow, over the median
    ours_is_faster: float
    parameters: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON holds it."""
        return asdict(self)


def measure(case: Case, device: torch.device, facts: Mapping[str, Any], seconds: float) -> list[Row]:
    """Rows of the case's variants, each run for about ``seconds`` (at least 5 times); ``facts`` as of `machine`."""
    floor = max(case.bytes_moved / (facts["copy_gb_per_s"] * 1e9), case.operations / (facts["sgemm_gflop_per_s"] * 1e9))
    memory = {name: peak_extra_memory(run, device) for name, run in case.variants.items()}  # compiles too
    first = {name: _seconds(run, device) for name, run in case.variants.items()}
    times: dict[str, list[float]] = {name: [] for name in case.variants}
    rounds = max(5, min(200, math.ceil(seconds / max(first.values()))))
    for _ in range(rounds):
        for name, run in case.variants.items():
            # Quick variants run several times a round, to fill their share of the time.
            for _ in range(max(1, min(20, int(seconds / rounds / first[name])))):
                times[name].append(_seconds(run, device))
    quartiles = {name: np.quantile(values, (0.25, 0.5, 0.75)) for name, values in times.items()}
    medians = {name: float(middle) for name, (_, middle, _) in quartiles.items()}
    return [
        Row(
            family=case.family,
            case=case.name,
            variant=name,
            median_ms=median * 1e3,
            quartiles_ms=(float(quartiles[name][0]) * 1e3, float(quartiles[name][2]) * 1e3),
            runs=len(times[name]),
            extra_memory_mib=memory[name],
            share_of_limit=floor / median,
            ours_is_faster=median / medians[OURS],
            parameters=case.parameters,
        )
        for name, median in medians.items()
    ]


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_extra_memory(run: Callable[[], Any], device: torch.device) -> float | None:
    """MiB that ``run`` takes at its peak beyond what was taken before, its result included; None if unknown."""
    run()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    if platform.system() != "Linux":
        return None
    ctypes.CDLL(None).malloc_trim(0)  # what is kept for reuse would hide what is taken
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
    before = _process_memory("VmRSS")
    run()
    return (_process_memory("VmHWM") - before) / 1024


def _process_memory(name: str) -> int:
    """A line of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def _best(run: Callable[[], Any], device: torch.device, runs: int = 10) -> float:
    run()
    return float(np.median([_seconds(run, device) for _ in range(runs)]))


def machine(device: torch.device, quick: bool) -> dict[str, Any]:
    """What the numbers were measured on, with its limits: copy bandwidth and matrix products in float32."""
    from ikem_ext import _library

    size = 2**24 if quick else 2**26
    source = torch.rand(size, device=device)
    target = torch.empty_like(source)
    side = 1024 if quick else 2048
    matrix, product = torch.rand(side, side, device=device), torch.empty(side, side, device=device)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "copy_gb_per_s": 2 * source.nbytes / _best(lambda: target.copy_(source), device) / 1e9,
        "sgemm_gflop_per_s": 2 * side**3 / _best(lambda: torch.mm(matrix, matrix, out=product), device) / 1e9,
        "simd_level": torch.ops.ikem_ext.simd_level(),
        "cuda_architectures": _library.build_info()["cuda_architectures"],
        "versions": {name: version(name) for name in ("ikem-ext", "torch", "numpy")}
        | {"python": platform.python_version()},
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the clone that this code runs from, with a star if it was changed; None outside a clone."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(
            ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (
            "*" if git("status", "--porcelain", "--", "..", "../../csrc") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None

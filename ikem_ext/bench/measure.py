"""Fair measurement: the variants of a case run in turn, so that whatever else the machine does falls on all alike."""

from __future__ import annotations

import ctypes
import gc
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

OURS = "ikem_ext"
FEWEST_CALLS, MOST_CALLS = 3, 100
QUICK = 0.1  # seconds

Function = Callable[..., Any]


@dataclass
class Case:
    """One piece of work in several variants that give the same result.

    Args:
        family: the family of operations, the name of its module in this package.
        name: what is worked on; of a sweep, what all its cases have in common.
        variants: functions without arguments by name; the first is ours and is called "ikem_ext".
        bytes_moved: what has to be read and written at least, each once.
        operations: multiplications and additions of the matrix products, in the form that needs the fewest; 0 where
            there are none to speak of.
        parameters: sizes and dtype.
        passes: which of `PASSES` is run, where a family has both of each piece of work.
        swept: the one of the parameters that a sweep varies.
    """

    family: str
    name: str
    variants: Mapping[str, Callable[[], Any]]
    bytes_moved: int
    operations: int = 0
    parameters: dict[str, Any] = field(default_factory=dict)
    passes: str = ""
    swept: str | None = None

    @property
    def title(self) -> str:
        """The case in words."""
        size = f"{self.parameters[self.swept]} {self.swept}" if self.swept else ""
        return ", ".join(part for part in (self.name, size, self.passes) if part)


@dataclass
class Row:
    """What was measured of one variant of a case."""

    family: str
    case: str
    passes: str
    swept: str | None
    variant: str
    median_ms: float
    quartiles_ms: tuple[float, float]
    runs: int
    first_call_s: float  # which compiles
    extra_memory_mib: float | None
    limit_ms: float  # the time that the machine's limits allow
    share_of_limit: float  # that over the median
    ours_is_faster: float
    parameters: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON holds it."""
        return asdict(self)


def forward(function: Function, leaves: Sequence[Tensor], *others: Any, **options: Any) -> Any:
    """Calls the function where nobody asks for gradients."""
    with torch.no_grad():
        return function(*leaves, *others, **options)


def forward_and_backward(
    function: Function,
    leaves: Sequence[Tensor],
    *others: Any,
    cotangent: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, ...]:
    """Gradients of the leaves."""
    return torch.autograd.grad(function(*leaves, *others, **options), leaves, cotangent)


def with_compiled(functions: Mapping[str, Function], compiled: Sequence[str]) -> dict[str, Function]:
    """The functions by variant, and torch.compile of those named.

    Forgets what was compiled before: its guards would be tried at each call, and torch.compile soon gives up on a
    function that it has compiled for many sizes.
    """
    torch.compiler.reset()
    variants: dict[str, Function] = {}
    for name, function in functions.items():
        variants[name] = function
        if name in compiled:
            variants[f"{name}, compiled"] = torch.compile(function, dynamic=False)
    return variants


def measure(
    case: Case,
    device: torch.device,
    facts: Mapping[str, Any],
    seconds: float,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Rows of the case's variants; ``facts`` as of `machine`.

    A first call of each compiles, a second is watched for its memory; ours come before the others have cut up the
    heap. Then every variant has the same share of ``seconds``, or the time of one call of the slowest, but at least 3
    and at most 100 calls; the calls of all are spread evenly over the whole time. Before a quick call there is another
    one whose time is not taken: it finds again in memory and caches what other variants have displaced.
    """
    limit = max(
        case.bytes_moved / (facts["copy_gb_per_s"] * 1e9), case.operations / (facts["matmul_gflop_per_s"] * 1e9)
    )
    first, watched = {}, {}
    for name, run in case.variants.items():
        first[name] = _seconds(run, device)
        progress(f"{name} {first[name]:.1f} s")
        gc.collect()
        watched[name] = _watched(run, device)
    share = max(seconds / len(watched), *(estimate for _, estimate in watched.values()))
    calls = {name: int(min(MOST_CALLS, max(FEWEST_CALLS, share / estimate))) for name, (_, estimate) in watched.items()}
    in_a_row = {name: _calls_in_a_row(estimate, device) for name, (_, estimate) in watched.items()}
    times: dict[str, list[float]] = {name: [] for name in case.variants}
    turns = [((turn + 0.5) / number, name) for name, number in calls.items() for turn in range(number)]
    for _, name in sorted(turns):
        run, (_, estimate) = case.variants[name], watched[name]
        if estimate < QUICK:
            run()
        times[name].append(_seconds(run, device, in_a_row[name]))
    quartiles = {name: [float(x) for x in np.quantile(times[name], (0.25, 0.5, 0.75))] for name in times}
    return [
        Row(
            family=case.family,
            case=case.name,
            passes=case.passes,
            swept=case.swept,
            variant=name,
            median_ms=median * 1e3,
            quartiles_ms=(lower * 1e3, upper * 1e3),
            runs=calls[name],
            first_call_s=first[name],
            extra_memory_mib=watched[name][0],
            limit_ms=limit * 1e3,
            share_of_limit=limit / median,
            ours_is_faster=median / quartiles[OURS][1],
            parameters=case.parameters,
        )
        for name, (lower, median, upper) in quartiles.items()
    ]


def _calls_in_a_row(seconds: float, device: torch.device) -> int:
    """On a GPU some 10 ms full: the launch of a call overlaps with the work of the one before, as in training."""
    return max(1, min(20, round(0.01 / seconds))) if device.type == "cuda" else 1


def _seconds(run: Callable[[], Any], device: torch.device, in_a_row: int = 1) -> float:
    """Seconds per call."""
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(in_a_row):
        run()
    _synchronize(device)
    return (time.perf_counter() - start) / in_a_row


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _watched(run: Callable[[], Any], device: torch.device) -> tuple[float | None, float]:
    """Peak extra memory of ``run``, and its seconds."""
    seconds: list[float] = []
    memory = peak_extra_memory(lambda: seconds.append(_seconds(run, device)), device)
    return memory, seconds[0]


def peak_extra_memory(run: Callable[[], Any], device: torch.device) -> float | None:
    """MiB that ``run`` takes at its peak beyond what was taken before, its result included; None if unknown.

    What ``run`` takes at its first call only, and keeps, counts: call it before.
    """
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
    return max(0, _process_memory("VmHWM") - before) / 1024


def _process_memory(name: str) -> int:
    """A line of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def _fewest_seconds(run: Callable[[], Any], device: torch.device, calls: int = 20) -> float:
    return min(_seconds(run, device) for _ in range(calls))


def machine(device: torch.device, quick: bool, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """What the numbers were measured on, with its limits: copy bandwidth, and products of matrices of ``dtype``."""
    from ikem_ext import _library

    on_gpu = device.type == "cuda"
    source = torch.rand(2**24 if quick else 2**28 if on_gpu else 2**26, device=device)
    target = torch.empty_like(source)
    side = 1024 if quick else 8192 if on_gpu else 2048
    matrix = torch.rand(side, side, device=device).to(dtype)
    product = torch.empty_like(matrix)
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "threads": torch.get_num_threads(),
        "copy_gb_per_s": 2e-9 * source.nbytes / _fewest_seconds(lambda: target.copy_(source), device),
        "matmul_gflop_per_s": 2e-9 * side**3 / _fewest_seconds(lambda: torch.mm(matrix, matrix, out=product), device),
        "dtype": str(dtype).removeprefix("torch."),
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

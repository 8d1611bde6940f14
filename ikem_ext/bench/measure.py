"""Fair measurement: the variants of a case run in turn, so that whatever else the machine does falls on all alike."""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .clock import seconds_per_call
from .compiling import compilers
from .limits import Limits

OURS = "ikem_ext"
FEWEST_CALLS, MOST_CALLS = 3, 100
QUICK = 0.1  # seconds
CALLS_OF_LIMITS = 5

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
            variants |= {f"{name}, {how}": compiler(function) for how, compiler in compilers().items()}
    return variants


def measure(
    case: Case,
    device: torch.device,
    limits: Limits,
    seconds: float,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Rows of the case's variants.

    A first call of each compiles, a second is watched for its memory; ours come before the others have cut up the
    heap. Then every variant has the same share of ``seconds``, or the time of one call of the slowest, but at least 3
    and at most 100 measurements; those of all are spread evenly over the whole time, and among them those of what the
    machine can do at most, which changes by the minute where it is shared. A measurement of quick calls is one of some
    in a row, after one that is not timed: that finds again in memory and caches what others have displaced.
    """
    first, watched = {}, {}
    for name, run in case.variants.items():
        first[name] = seconds_per_call(run, device)
        progress(f"{name} {first[name]:.1f} s")
        gc.collect()
        watched[name] = _watched(run, device)
    share = max(seconds / len(watched), *(estimate for _, estimate in watched.values()))
    calls = {name: int(min(MOST_CALLS, max(FEWEST_CALLS, share / estimate))) for name, (_, estimate) in watched.items()}
    times = _taken_in_turn(
        {**case.variants, **limits.runs},
        {**calls, **dict.fromkeys(limits.runs, CALLS_OF_LIMITS)},
        {**{name: estimate for name, (_, estimate) in watched.items()}, **dict.fromkeys(limits.runs, QUICK)},
        device,
    )
    quartiles = {name: [float(x) for x in np.quantile(taken, (0.25, 0.5, 0.75))] for name, taken in times.items()}
    medians = {name: median for name, (_, median, _) in quartiles.items()}
    limit = limits.seconds(case.bytes_moved, case.operations, medians)
    return [
        Row(
            family=case.family,
            case=case.name,
            passes=case.passes,
            swept=case.swept,
            variant=name,
            median_ms=medians[name] * 1e3,
            quartiles_ms=(quartiles[name][0] * 1e3, quartiles[name][2] * 1e3),
            runs=calls[name],
            first_call_s=first[name],
            extra_memory_mib=watched[name][0],
            limit_ms=limit * 1e3,
            share_of_limit=limit / medians[name],
            ours_is_faster=medians[name] / medians[OURS],
            parameters=case.parameters,
        )
        for name in case.variants
    ]


def _taken_in_turn(
    runs: Mapping[str, Callable[[], Any]],
    calls: Mapping[str, int],
    estimates: Mapping[str, float],
    device: torch.device,
) -> dict[str, list[float]]:
    """Seconds per call of each, as often as asked for, the measurements of all spread evenly over the same time."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    turns = [((turn + 0.5) / number, name) for name, number in calls.items() for turn in range(number)]
    for _, name in sorted(turns):
        if estimates[name] < QUICK:
            runs[name]()
        times[name].append(seconds_per_call(runs[name], device, _calls_in_a_row(estimates[name])))
    return times


def _calls_in_a_row(seconds: float) -> int:
    """Some 10 ms full: on a GPU the launch of a call overlaps with the work of the one before, as in training."""
    return max(1, min(20, round(0.01 / seconds)))


def _watched(run: Callable[[], Any], device: torch.device) -> tuple[float | None, float]:
    """Peak extra memory of ``run``, and its seconds."""
    seconds: list[float] = []
    memory = peak_extra_memory(lambda: seconds.append(seconds_per_call(run, device)), device)
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
    before = process_memory("VmRSS")
    run()
    return max(0, process_memory("VmHWM") - before) / 1024


def process_memory(name: str) -> int:
    """A line of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])

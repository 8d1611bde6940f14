"""Where a training step's time goes: its milliseconds, and the kernels that take the most, with how often each runs.

    python tools/step_profile.py --device cuda --dtype bfloat16 --cuda-graphs

makes the steps that `python -m ikem_ext.bench step` measures, ours or, with --published, those of plain PyTorch. On a
CPU the rows are PyTorch's operations, without what they call.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from torch.profiler import ProfilerActivity, profile

from ikem_ext.bench.clock import seconds_per_call, synchronize
from ikem_ext.bench.step.batch import Sizes, random_batch
from ikem_ext.bench.step.cases import WORKS
from ikem_ext.bench.step.ours import Ours
from ikem_ext.bench.step.run import Run

WARM_UP, TIMED, PROFILED = 3, 5, 2
WORK = {work.name: work for work in WORKS}
NAME_WIDTH = 110


def kernels(run: Callable[[], None], device: torch.device) -> list[tuple[float, int, str]]:
    """Return milliseconds and calls in one run, and the name, of each kernel: those that take the most come first."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as profiled:
        for _ in range(PROFILED):
            run()
        synchronize(device)
    rows = []
    for event in profiled.key_averages():
        if event.device_type.name == device.type.upper():
            microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            rows.append((microseconds / 1e3 / PROFILED, event.count // PROFILED, event.key))
    return sorted(rows, reverse=True)


def table(rows: Sequence[tuple[float, int, str]], most: int) -> str:
    """Return the first rows as lines, and what all of them are together.

    Example:
        >>> print(table([(2.5, 3, "mm"), (1.0, 1, "add")], 1))
        kernels: 3.50 ms, 4 launches
           2.500 ms     3x  mm
    """
    lines = [f"kernels: {sum(row[0] for row in rows):.2f} ms, {sum(row[1] for row in rows)} launches"]
    return "\n".join(
        [*lines, *(f"{time:8.3f} ms {count:5d}x  {name[:NAME_WIDTH]}" for time, count, name in rows[:most])]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the steps and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=WORK, default="stage 2")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--keys", type=int, default=32768)
    parser.add_argument("--rows", type=int, default=25, help="how many kernels are shown")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--published", action="store_true", help="the step of plain PyTorch")
    how.add_argument("--cuda-graphs", action="store_true", help="launched as CUDA graphs")
    options = parser.parse_args(arguments)

    sizes, work = Sizes(options.clips, options.keys, cuda_graphs=options.cuda_graphs), WORK[options.work]
    step = work.published(sizes) if options.published else Ours(work.ours(sizes))
    on_gpu = options.device.type == "cuda"
    batch = random_batch(options.clips, options.device, 8 * options.clips if on_gpu else None)
    run = Run(step, batch, options.device, getattr(torch, options.dtype))
    for _ in range(WARM_UP):
        run()
    print(f"a step: {1e3 * seconds_per_call(run, options.device, TIMED):.2f} ms")
    if on_gpu:
        print(f"peak memory: {torch.cuda.max_memory_allocated(options.device) / 2**20:.0f} MiB")
    print(table(kernels(run, options.device), options.rows))


if __name__ == "__main__":
    main()

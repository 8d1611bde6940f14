"""The native reader of NTU RGB+D ``.skeleton`` files against its twin in plain Python, on one core.

``python -m ikem_ext.bench.skeleton_file FILE...`` prints the median processor times per file and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ikem_ext._native import parse_skeleton
from ikem_ext.reference.skeleton_file import parse_skeleton as plain_parse_skeleton


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures reading, from opening the file to the arrays; other work on the machine does not count."""
    parser = argparse.ArgumentParser(prog="python -m ikem_ext.bench.skeleton_file", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to measure each reader on each file")
    options = parser.parse_args(arguments)
    print(f"{'file':36} {'KiB':>7} {'plain':>10} {'native':>10} {'ratio':>6}")
    for file in options.files:
        plain, native = (
            _median_seconds(partial(_read, parse, file), options.seconds)
            for parse in (plain_parse_skeleton, parse_skeleton)
        )
        size = file.stat().st_size / 1024
        print(f"{file.name:36} {size:7.0f} {plain * 1e3:7.3f} ms {native * 1e3:7.3f} ms {plain / native:6.1f}")


def _read(parse: Callable[[bytes, str], object], file: Path) -> None:
    parse(file.read_bytes(), str(file))


def _median_seconds(function: Callable[[], object], budget: float) -> float:
    times: list[float] = []
    while sum(times) < budget or len(times) < 5:
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()

"""Measures the operations against plain PyTorch and torch.compile, in one run."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from . import report
from .compiling import AUTOTUNED, COMPILED
from .machine import machine
from .measure import Row
from .processes import FAMILIES, LARGE_FAMILIES, Selection, measured_apart


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the families asked for and prints, stores and draws the rows."""
    parser = argparse.ArgumentParser(prog="python -m ikem_ext.bench", description=__doc__)
    parser.add_argument(
        "families", nargs="*", metavar="FAMILY",
        help=f"of {', '.join(FAMILIES)}; default: all of these; "
        f"{', '.join(LARGE_FAMILIES)}, which takes an hour, only when named",
    )  # fmt: skip
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64", "bfloat16", "float16"))
    parser.add_argument("--scaling", action="store_true", help="sweep over sizes too, for curves")
    parser.add_argument("--quick", action="store_true", help="small sizes, short, without torch.compile")
    parser.add_argument(
        "--cases", type=_pattern, default="", metavar="REGEX", help="only the cases whose titles match somewhere"
    )
    compiled = parser.add_mutually_exclusive_group()
    compiled.add_argument(
        "--eager", dest="compiled", action="store_const", const=(), default=(COMPILED,),
        help="leave torch.compile out: compiling takes most of the time, on a GPU above all",
    )  # fmt: skip
    compiled.add_argument(
        "--max-autotune", dest="compiled", action="store_const", const=(COMPILED, AUTOTUNED),
        help='measure torch.compile(mode="max-autotune") too, and how long compiling takes: its cache begins empty',
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="store machine and rows there, case by case")
    parser.add_argument(
        "--rows", type=Path, nargs="+", metavar="FILE", help="measure nothing, take what --json stored there"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE",
        help="draw the rows (png, svg, pdf), a file for each family: bench.png becomes bench-contrast.png, and "
        "bench-contrast-scaling.png for its sweeps",
    )  # fmt: skip
    parser.add_argument("--table", type=Path, metavar="FILE", help=f"put tables into this Markdown, at {report.BEGIN}")
    options = parser.parse_args(arguments)
    for family in options.families:
        if family not in (*FAMILIES, *LARGE_FAMILIES):
            parser.error(f"unknown family {family!r}: expected of {', '.join((*FAMILIES, *LARGE_FAMILIES))}")

    for file in (options.json, options.plot):
        if file and not file.parent.is_dir():
            parser.error(f"{file}: there is no folder {file.parent}")
    if options.table:
        try:
            report.split(options.table)
        except (OSError, ValueError) as error:
            parser.error(f"argument --table: {error}")

    if options.rows:
        runs = [report.read_json(file) for file in options.rows]
    else:
        try:
            runs = [_measured(options)]
        except KeyboardInterrupt:
            sys.exit("\ninterrupted" + (f": what was measured is in {options.json}" if options.json else ""))
        if not runs[0][1]:
            sys.exit(f"nothing was measured: no case matches {options.cases!r}")
    if options.plot:
        for file in report.plot(options.plot, runs):
            print(f"drew {file}")
    if options.table:
        report.refresh(options.table, report.markdown(runs))


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from error
    return text


def _measured(options: argparse.Namespace) -> tuple[dict[str, Any], list[Row]]:
    """Machine and rows."""
    selection = Selection(
        options.device,
        getattr(torch, options.dtype),
        options.quick,
        options.scaling,
        options.cases,
        options.compiled,
    )
    facts = machine(selection.device, selection.quick, selection.dtype)
    print(report.in_words(facts), flush=True)
    rows: list[Row] = []
    if options.json:
        report.write_json(options.json, facts, rows)
    for family in options.families or FAMILIES:
        for measured in measured_apart(family, selection):
            rows += measured
            if options.json:
                report.write_json(options.json, facts, rows)
    return facts, rows


if __name__ == "__main__":
    main()

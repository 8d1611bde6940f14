"""Measures the operations against plain PyTorch and torch.compile, in one run."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch._dynamo

from . import report
from .measure import Case, Row, machine, measure

#: Modules of this package with a function ``cases(device, dtype, quick)`` that yields its cases; one that has
#: ``scaling`` too, with the same arguments, has sweeps.
FAMILIES = ("modalities", "graph_conv", "contrast", "layers", "models", "step")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the families asked for and prints, stores and draws the rows."""
    parser = argparse.ArgumentParser(prog="python -m ikem_ext.bench", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(FAMILIES)}; default: all")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64", "bfloat16", "float16"))
    parser.add_argument("--scaling", action="store_true", help="sweep over sizes too, for curves")
    parser.add_argument("--quick", action="store_true", help="small sizes, short, without torch.compile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="store machine and rows there, case by case")
    parser.add_argument("--rows", type=Path, metavar="FILE", help="measure nothing, take what --json stored there")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE",
        help="draw the rows (png, svg, pdf), a file for each family: bench.png becomes bench-contrast.png, and "
        "bench-contrast-scaling.png for its sweeps",
    )  # fmt: skip
    parser.add_argument("--table", type=Path, metavar="FILE", help=f"put tables into this Markdown, at {report.BEGIN}")
    options = parser.parse_args(arguments)
    for family in options.families:
        if family not in FAMILIES:
            parser.error(f"unknown family {family!r}: expected of {', '.join(FAMILIES)}")

    for file in (options.json, options.plot):
        if file and not file.parent.is_dir():
            parser.error(f"{file}: there is no folder {file.parent}")
    if options.table:
        try:
            report.split(options.table)
        except (OSError, ValueError) as error:
            parser.error(f"argument --table: {error}")

    if options.rows:
        facts, rows = report.read_json(options.rows)
    else:
        try:
            facts, rows = _measured(options)
        except KeyboardInterrupt:
            sys.exit("\ninterrupted" + (f": what was measured is in {options.json}" if options.json else ""))
    if options.plot:
        for file in report.plot(options.plot, facts, rows):
            print(f"drew {file}")
    if options.table:
        report.refresh(options.table, report.markdown(facts, rows))


# torch.compile would rather run a function uncompiled, silently, than compile it for a ninth size.
@torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True)
def _measured(options: argparse.Namespace) -> tuple[dict[str, Any], list[Row]]:
    """Machine and rows."""
    dtype = getattr(torch, options.dtype)
    facts = machine(options.device, options.quick, dtype)
    print(report.in_words(facts))
    rows: list[Row] = []
    for family in options.families or FAMILIES:
        torch.compiler.reset()
        module = importlib.import_module(f"ikem_ext.bench.{family}")
        for case in _cases(module, options, dtype):
            rows += _measured_case(case, options, facts)
            if options.json:
                report.write_json(options.json, facts, rows)
    return facts, rows


def _cases(module: ModuleType, options: argparse.Namespace, dtype: torch.dtype) -> Iterator[Case]:
    yield from module.cases(options.device, dtype, options.quick)
    if options.scaling and hasattr(module, "scaling"):
        yield from module.scaling(options.device, dtype, options.quick)


def _measured_case(case: Case, options: argparse.Namespace, facts: dict[str, Any]) -> list[Row]:
    print(f"\n{case.family}: {case.title}\n  first calls:", end="", flush=True)
    seconds = 0.1 if options.quick else 1 if case.swept else 2
    rows = measure(case, options.device, facts, seconds, lambda text: print(f" {text};", end="", flush=True))
    print(f"\n{report.lines(rows)}", flush=True)
    return rows


if __name__ == "__main__":
    main()

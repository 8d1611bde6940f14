"""``python -m ikem_ext.bench``: one table, and on request JSON and a plot."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .measure import OURS, Row, machine, measure

#: Modules of this package with a function ``cases(device, dtype, quick)`` that yields its cases.
FAMILIES = ("modalities", "graph_conv", "contrast")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the families asked for and prints, stores and draws the rows."""
    parser = argparse.ArgumentParser(prog="python -m ikem_ext.bench", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(FAMILIES)}; default: all")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64", "bfloat16", "float16"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="store machine and rows there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the rows there (png, svg, pdf)")
    parser.add_argument("--quick", action="store_true", help="small sizes, short, without torch.compile")
    options = parser.parse_args(arguments)
    for family in options.families:
        if family not in FAMILIES:
            parser.error(f"unknown family {family!r}: expected of {', '.join(FAMILIES)}")

    facts = machine(options.device, options.quick)
    print(
        f"{facts['device']}, {facts['threads']} threads: copy {facts['copy_gb_per_s']:.1f} GB/s, "
        f"sgemm {facts['sgemm_gflop_per_s']:.0f} GFLOP/s, commit {facts['commit']}"
    )
    rows: list[Row] = []
    for family in options.families or FAMILIES:
        module = importlib.import_module(f"ikem_ext.bench.{family}")
        for case in module.cases(options.device, getattr(torch, options.dtype), options.quick):
            measured = measure(case, options.device, facts, 0.3 if options.quick else 2)
            print_case(measured)
            rows += measured
            torch.compiler.reset()
    if options.json:
        write_json(options.json, facts, rows)
    if options.plot:
        plot(options.plot, facts, rows)


def print_case(rows: list[Row]) -> None:
    """The rows of one case as a table."""
    print(f"\n{rows[0].family}: {rows[0].case}")
    print(f"  {'':28}{'median':>11}  {'quartiles':22}{'extra memory':>14}{'of limit':>9}  ours is")
    for row in rows:
        quartiles = " to ".join(f"{value:.3f}" for value in row.quartiles_ms)
        memory = "" if row.extra_memory_mib is None else f"{row.extra_memory_mib:.1f} MiB"
        faster = "" if row.variant == OURS else f"{row.ours_is_faster:.1f}x faster"
        times = f"{row.median_ms:8.3f} ms  {quartiles:22}"
        print(f"  {row.variant:28}{times}{memory:>14}{row.share_of_limit:9.1%}  {faster}", flush=True)


def write_json(file: Path, facts: dict[str, Any], rows: list[Row]) -> None:
    """Stores machine and rows, beside and then renamed."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps({"machine": facts, "rows": [row.to_dict() for row in rows]}, indent=1) + "\n")
    partial.replace(file)


def plot(file: Path, facts: dict[str, Any], rows: list[Row]) -> None:
    """Median times as bars, a panel for each case, with the quartiles as whiskers."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = list(dict.fromkeys((row.family, row.case) for row in rows))
    figure, axes = plt.subplots(len(panels), figsize=(9, 1 + 2.2 * len(panels)), squeeze=False, layout="constrained")
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        shown = [row for row in rows if (row.family, row.case) == panel][::-1]
        medians = [row.median_ms for row in shown]
        whiskers = [
            [row.median_ms - row.quartiles_ms[0] for row in shown],
            [row.quartiles_ms[1] - row.median_ms for row in shown],
        ]
        colors = ["tab:orange" if row.variant == OURS else "tab:gray" for row in shown]
        bars = axis.barh([row.variant for row in shown], medians, xerr=whiskers, color=colors)
        labels = [
            f"{row.median_ms:.3g} ms" + ("" if row.variant == OURS else f"  ({row.ours_is_faster:.1f}x ours)")
            for row in shown
        ]
        axis.bar_label(bars, labels, padding=6)
        axis.set(xscale="log", xlim=(min(medians) / 2, max(medians) * 8), title=f"{panel[0]}: {panel[1]}")
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("median time in ms (logarithmic); whiskers: quartiles")
    figure.suptitle(f"{facts['device']}, {facts['threads']} threads, torch {facts['versions']['torch']}", fontsize=10)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()

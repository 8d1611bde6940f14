"""What was measured, shown: stored as JSON, as Markdown tables, as bars and as curves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .compiling import AUTOTUNED, COMPILED
from .limits import CONVOLUTION, MATRIX, REGISTERS, registers_of, vector_bits
from .measure import OURS, Row

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"

# Okabe and Ito's palette, which people with any kind of color vision can tell apart; a variant looks the same anywhere.
COLORS = {
    OURS: "#D55E00",
    "published": "#999999",
    "published, compiled": "#222222",
    "vectorized": "#56B4E9",
    "vectorized, compiled": "#0072B2",
}
OTHER_COLORS = ("#009E73", "#CC79A7", "#E69F00", "#F0E442")

#: A machine and what was measured on it.
Run = tuple[dict[str, Any], Sequence[Row]]


def write_json(file: Path, facts: dict[str, Any], rows: Iterable[Row]) -> None:
    """Stores machine and rows, beside and then renamed."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps({"machine": facts, "rows": [row.to_dict() for row in rows]}, indent=1) + "\n")
    partial.replace(file)


def read_json(file: Path) -> tuple[dict[str, Any], list[Row]]:
    """Machine and rows as `write_json` stored them."""
    stored = json.loads(file.read_text())
    return stored["machine"], [Row(**row) for row in stored["rows"]]


def in_words(facts: dict[str, Any]) -> str:
    """The machine, its limits and the versions, in one line."""
    versions, threads = facts["versions"], facts["threads"]
    return (
        f"{facts['device']}{_processor(facts)}, {threads} {'thread' if threads == 1 else 'threads'}, {facts['dtype']}: "
        f"copy {facts['copy_gb_per_s']:.1f} GB/s; {_arithmetic(facts)}; "
        f"torch {versions['torch']}, ikem-ext {versions['ikem-ext']} (SIMD level {facts['simd_level']}), "
        f"commit {facts['commit']}, {facts['date']}"
    )


def _processor(facts: dict[str, Any]) -> str:
    bits = vector_bits(facts["gflop_per_s"])
    known = [facts["processor"], bits and f"vector units of {bits} bits"]
    return f" ({', '.join(filter(None, known))})" if any(known) else ""


def _arithmetic(facts: dict[str, Any]) -> str:
    """Rates of multiplications and additions; whose products PyTorch uses is said where PyTorch says it."""
    rates, versions = facts["gflop_per_s"], facts["versions"]
    on_cpu = any(registers_of(bits) in rates for bits in REGISTERS.values())
    libraries = {MATRIX: "MKL", CONVOLUTION: "oneDNN"} if on_cpu else {}
    shown = []
    for name, rate in rates.items():
        library = libraries.get(name)
        by = f" ({library} {versions[library]})" if library in versions else ""
        shown.append(f"{name}{by} {rate:.0f}")
    return f"GFLOP/s: {', '.join(shown)}"


def lines(rows: Sequence[Row]) -> str:
    """The rows of one case for a terminal."""
    shown = []
    for row in rows:
        quartiles = " to ".join(_digits(value) for value in row.quartiles_ms)
        memory = "" if row.extra_memory_mib is None else f"{row.extra_memory_mib:.1f} MiB"
        share = f"{row.share_of_limit:.1%}" if row.limit_ms else ""
        faster = "" if row.variant == OURS else f"{_digits(row.ours_is_faster)}x faster"
        times = f"{_digits(row.median_ms):>9} ms  {quartiles:20}{row.runs:5}"
        shown.append(f"  {row.variant:28}{times}{memory:>14}{share:>10}  {faster}")
    head = f"  {'':28}{'median':>12}  {'quartiles':20}{'runs':>5}{'extra memory':>14}{'of limit':>10}  ours is"
    return "\n".join([head, *shown])


def markdown(runs: Sequence[Run]) -> str:
    """The machines and, for each family, a table of its cases in the dtypes of all runs; sweeps are drawn only."""
    parts = ["\n".join(f"{'- ' if len(runs) > 1 else ''}Measured on {in_words(facts)}." for facts, _ in runs)]
    rows = [row for row in _joined_rows(runs) if not row.swept]
    for family in _unique(row.family for row in rows):
        parts.append(f"### {family}\n\n" + _family_table([row for row in rows if row.family == family]))
    return "\n\n".join(parts)


def _joined_rows(runs: Sequence[Run]) -> list[Row]:
    """The rows of all runs, those of a case one after the other, in the order of the first run that has it.

    Of what several runs have measured the rows of the last one count: variants of different runs are not compared.
    """
    rows: dict[tuple[Any, ...], list[Row]] = {}
    for _, measured in runs:
        again: dict[tuple[Any, ...], list[Row]] = {}
        for row in measured:
            size = row.parameters[row.swept] if row.swept else None
            again.setdefault((row.family, row.case, row.passes, row.swept, size, _dtype(row)), []).append(row)
        rows.update(again)  # which keeps the place of what was there
    order = {case: place for place, case in enumerate(_unique(key[:3] for key in rows))}
    return [row for key in sorted(rows, key=lambda key: order[key[:3]]) for row in rows[key]]


def _dtype(row: Row) -> str:
    dtype: str = row.parameters["dtype"]
    return dtype.removeprefix("torch.")


def _work(row: Row) -> str:
    """What was worked on, with the dtype where it is not what is meant anyway."""
    return row.case if _dtype(row) == "float32" else f"{row.case}, {_dtype(row)}"


def _family_table(rows: Sequence[Row]) -> str:
    variants = _unique(row.variant for row in rows)
    table = [f"| work | limit | {' | '.join(variants)} |", "|---|---:|" + "---:|" * len(variants)]
    for work in _unique((_work(row), row.passes) for row in rows):
        cells = {row.variant: row for row in rows if (_work(row), row.passes) == work}
        limit = cells[OURS].limit_ms
        compiled_anew = any(variant.endswith(AUTOTUNED) for variant in cells)
        shown = (_cell(cells[variant], compiled_anew) if variant in cells else "" for variant in variants)
        table.append(f"| {_joined(work)} | {f'{_digits(limit)} ms' if limit else ''} | {' | '.join(shown)} |")
    return "\n".join(table)


def _cell(row: Row, compiled_anew: bool) -> str:
    ours = row.variant == OURS
    median = f"{_digits(row.median_ms)} ms"
    parts = [
        f"**{median}**" if ours else f"{median}, {_digits(row.ours_is_faster)}x",
        f"{' to '.join(_digits(value) for value in row.quartiles_ms)} ({row.runs})",
    ]
    if row.extra_memory_mib is not None:
        parts.append(f"{_digits(row.extra_memory_mib)} MiB")
    if row.family == "step":
        parts.append(f"{_digits(1e3 * row.parameters['clips'] / row.median_ms)} clips/s")
    if compiled_anew and row.variant.endswith((COMPILED, AUTOTUNED)):
        parts.append(f"first call {_digits(row.first_call_s)} s")
    if ours and row.limit_ms:
        ahead = row.share_of_limit > 1
        parts.append(
            f"{row.share_of_limit:.2f}x ahead of the limit as counted"
            if ahead
            else f"{row.share_of_limit:.0%} of limit"
        )
    return "<br>".join(parts)


def _joined(work: Iterable[str]) -> str:
    return ", ".join(part for part in work if part)


def _digits(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def refresh(document: Path, table: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Puts the table into a Markdown file, between its marks; errors as of `split`."""
    before, _, after = split(document, marks)
    partial = document.with_name(document.name + ".partial")
    partial.write_text(f"{before}{marks[0]}\n\n{table}\n\n{marks[1]}{after}", encoding="utf-8")
    partial.replace(document)


def split(document: Path, marks: tuple[str, str] = (BEGIN, END)) -> tuple[str, str, str]:
    """The text of a Markdown file before, between and after the marks.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has no marks.
    """
    before, begin, rest = document.read_text(encoding="utf-8").partition(marks[0])
    between, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise ValueError(f"{document}: expected the marks {marks[0]} and {marks[1]}, to put the table between them")
    return before, between.strip("\n"), after


def plot(file: Path, runs: Sequence[Run]) -> list[Path]:
    """Draws each family into a file of its own: ``bench.png`` becomes ``bench-contrast.png``, sweeps another one."""
    written, rows = [], _joined_rows(runs)
    for family in _unique(row.family for row in rows):
        for swept, draw, ending in ((False, _bars, ""), (True, _curves, "-scaling")):
            shown = [row for row in rows if row.family == family and bool(row.swept) == swept]
            if shown:
                written.append(file.with_stem(f"{file.stem}-{family}{ending}"))
                figure = draw(shown)
                machines = "\n".join(in_words(facts) for facts, _ in runs)
                figure.suptitle(f"{family} on {machines}".replace("; ", "\n"), fontsize=9)
                figure.savefig(written[-1], dpi=110)
    return written


def _bars(rows: Sequence[Row]) -> Any:
    """Medians, a row of panels for each case and a column for each of the passes; quartiles as whiskers."""
    names, columns = _unique(_work(row) for row in rows), _unique(row.passes for row in rows)
    variants = _unique(row.variant for row in rows)
    height = 0.5 + 0.2 * len(variants)
    figure, axes = _figure(len(names), len(columns), height=height)
    for across, name in zip(axes, names, strict=True):
        for axis, passes in zip(across, columns, strict=True):
            shown = [row for row in rows if (_work(row), row.passes) == (name, passes)]
            heading = f"{passes}\n\n{name}" if axis in axes[0] else name
            axis.set_title(heading.lstrip(), fontsize=9, loc="left")
            axis.set(yticks=[], ylim=(len(variants) - 0.5, -0.5))
            axis.tick_params(labelsize=8)
            axis.spines[["top", "right", "left"]].set_visible(False)
            for row in shown:
                whiskers = [[row.median_ms - row.quartiles_ms[0]], [row.quartiles_ms[1] - row.median_ms]]
                color = _color(row.variant, variants)
                bar = axis.barh(
                    variants.index(row.variant), row.median_ms, xerr=whiskers, color=color, ecolor="#777777"
                )
                axis.bar_label(bar, [_label(row)], padding=4, fontsize=8)
            if shown:
                axis.set_xlim(0, 1.5 * max(row.quartiles_ms[1] for row in shown))  # room for the labels
            else:  # not measured
                axis.set_xticks([])
                axis.set_title(heading.split("\n")[0] if axis in axes[0] else "", fontsize=9, loc="left")
                axis.spines["bottom"].set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("median time in ms (times ours), extra memory", fontsize=8)
    _legend(figure, variants)
    return figure


def _label(row: Row) -> str:
    times = "" if row.variant == OURS else f" ({_digits(row.ours_is_faster)}x)"
    memory = "" if row.extra_memory_mib is None else f", {_digits(row.extra_memory_mib)} MiB"
    return f"{_digits(row.median_ms)} ms{times}{memory}"


def _curves(rows: Sequence[Row]) -> Any:
    """Medians over what is swept, a panel for each sweep; between the quartiles shaded."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    sweeps = _unique((row.case, row.passes, row.swept) for row in rows)
    variants = _unique(row.variant for row in rows)
    figure, axes = _figure(1, len(sweeps), height=4)
    for axis, sweep in zip(axes[0], sweeps, strict=True):
        name, passes, swept = sweep
        axis.set_title(f"{name}\n{passes}".rstrip(), fontsize=9, loc="left")
        for variant in variants:
            shown = [row for row in rows if (row.case, row.passes, row.swept) == sweep and row.variant == variant]
            if shown:
                sizes = [row.parameters[swept] for row in shown]
                color = _color(variant, variants)
                axis.plot(sizes, [row.median_ms for row in shown], marker="o", markersize=4, color=color)
                axis.fill_between(
                    sizes, *zip(*(row.quartiles_ms for row in shown), strict=True), color=color, alpha=0.2
                )
        sizes = _unique(row.parameters[swept] for row in rows if (row.case, row.passes, row.swept) == sweep)
        axis.set(xscale="log", yscale="log", xlabel=swept, ylabel="median time in ms")
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _digits(value)))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    _legend(figure, variants)
    return figure


def _figure(down: int, across: int, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(7, 5.5 * across), 1.3 + height * down), layout="constrained")
    return figure, figure.subplots(down, across, squeeze=False)


def _legend(figure: Any, variants: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=_color(variant, variants), label=variant) for variant in variants]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(variants), frameon=False, fontsize=9)


def _color(variant: str, variants: Sequence[str]) -> str:
    others = [name for name in variants if name not in COLORS]
    return COLORS[variant] if variant in COLORS else OTHER_COLORS[others.index(variant) % len(OTHER_COLORS)]


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))

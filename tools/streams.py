"""Tables of a study's accuracies, stream by stream: random weights, each stage and the student side by side.

    python tools/streams.py runs/utd-mhad-study --json results/streams/utd-mhad.json --table results/utd-mhad.md

reads the evaluations of the study's runs `whole`, `contrast-alone` and `student`, stores the values of all seeds, and
renews the tables of each part of the test clips between the marks in the page. Of runs in folds, `whole-fold1` and so
on, it is the mean over the folds; a seed without all of them is left out. What --json stored may be given instead of
the folder.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ikem.files import write_text
from ikem_ext.bench import report


class Column(NamedTuple):
    """Which rows of an evaluation a column shows: of one of the study's variants, of a stage or a control."""

    variant: str
    stage: str


COLUMNS = {
    "random weights": Column("whole", "random"),
    "after stage 1": Column("whole", "stage1"),
    "contrast alone": Column("contrast-alone", "stage1"),
    "after stage 2": Column("whole", "stage2"),
    "student": Column("student", "student"),
}
PROTOCOLS = {"linear": "linear", "retrieval": "1-NN", "logistic": "logistic"}
STREAMS = {
    "joint": "joint",
    "motion": "motion",
    "bone": "bone",
    "acceleration": "acceleration",
    "rotation_axis": "rotation axis",
    "angular_velocity": "angular velocity",
    "fused3": "**three, features joined**",
    "fused6": "**six, features joined**",
    "learned_fused3": "three, by learned weights",
    "learned_fused6": "six, by learned weights",
}

#: By part of the test clips, protocol, column and stream: the accuracies of the seeds in their order.
Values = dict[str, dict[str, dict[str, dict[str, list[float]]]]]


def collected(folder: Path) -> Values:
    """Return what the evaluations below a study's folder hold."""
    values: Values = {}
    for column, (variant, stage) in COLUMNS.items():
        for (part, protocol, stream), seeds in _accuracies(folder, variant, stage).items():
            values.setdefault(part, {}).setdefault(protocol, {}).setdefault(column, {})[stream] = seeds
    return values


def evaluated(folder: Path, variant: str) -> dict[int, list[Path]]:
    """Return the evaluated runs of a variant, by seed: one, or one for each fold; a seed without all is left out."""
    seeds: dict[int, list[Path]] = defaultdict(list)
    for path in sorted((folder / "runs").glob("*/evaluation.json")):
        if name := re.fullmatch(rf"{variant}(-fold\d+)?-seed(\d+)", path.parent.name):
            seeds[int(name[2])].append(path.parent)
    complete = max(map(len, seeds.values()), default=0)
    for seed, runs in sorted(seeds.items()):
        if len(runs) < complete:
            print(f"{variant}: seed {seed} is left out, which has {len(runs)} of {complete} folds")
    return {seed: runs for seed, runs in sorted(seeds.items()) if len(runs) == complete}


def _accuracies(folder: Path, variant: str, stage: str) -> dict[tuple[str, str, str], list[float]]:
    """The seeds' accuracies, means over folds, by part, protocol and stream."""
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for runs in evaluated(folder, variant).values():
        folds = [json.loads((run / "evaluation.json").read_text())["rows"] for run in runs]
        of_stage = [[row for row in rows if row["stage"] == stage and row["draw"] is None] for rows in folds]
        for key, top1 in _means(of_stage).items():
            found[key].append(top1)
    return found


def _means(folds: Sequence[Sequence[Mapping[str, Any]]]) -> dict[tuple[str, str, str], float]:
    top1: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for rows in folds:
        for row in rows:
            if row["protocol"] in PROTOCOLS and row["stream"] in STREAMS:
                top1[row["part"], row["protocol"], row["stream"]].append(row["top1"])
    return {key: statistics.mean(each) for key, each in top1.items()}


def tables(protocols: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> str:
    """Return a table for each protocol in percent; behind a column's title stands the number of its seeds.

    Example:
        >>> print(tables({"linear": {"student": {"joint": [0.5, 0.75]}}}))
        | linear | student (2) |
        | --- | ---: |
        | joint | 62.5 ± 17.7 |
    """
    found = []
    for protocol, title in PROTOCOLS.items():
        if columns := {name: protocols[protocol][name] for name in COLUMNS if name in protocols.get(protocol, {})}:
            heads = [f"{name} ({max(map(len, streams.values()))})" for name, streams in columns.items()]
            lines = [f"| {title} | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
            for stream, words in STREAMS.items():
                cells = [cell(streams.get(stream, [])) for streams in columns.values()]
                lines += [f"| {words} | {' | '.join(cells)} |"] if any(cells) else []
            found.append("\n".join(lines))
    return "\n\n".join(found)


def cell(seeds: Sequence[float]) -> str:
    """Return the mean of the seeds in percent, and their deviation; nothing where there is none."""
    if not seeds:
        return ""
    return f"{100 * statistics.mean(seeds):.1f}" + (f" ± {100 * statistics.stdev(seeds):.1f}" if len(seeds) > 1 else "")


def values_for(
    arguments: Sequence[str] | None, collect: Callable[[Path], Any], description: str | None, marks: str
) -> tuple[argparse.ArgumentParser, Path | None, Any]:
    """Read what the words of a command ask for: a study's runs, or what was stored of them; and store it if asked.

    Args:
        arguments: the words; by default those of this process.
        collect: maps a study's folder to values, which are empty where it has none.
        description: of the command.
        marks: between which marks the command puts its tables.

    Returns:
        The parser, which says what is wrong; the page that gets tables, if any; and the values.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a study's folder, or what --json stored")
    parser.add_argument("--json", type=Path, help="where to store the values")
    parser.add_argument("--table", type=Path, help=f"a page with marks, {marks}")
    options = parser.parse_args(arguments)
    values = collect(options.source) if options.source.is_dir() else json.loads(options.source.read_text())
    if not values:
        parser.error(f"source: expected evaluations in {options.source}/runs, got none")
    if options.json is not None:
        write_text(options.json, json.dumps(values, indent=1) + "\n")
    return parser, options.table, values


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the runs, or what was stored of them, store it, and renew the tables of each part that the page has."""
    parser, page, values = values_for(arguments, collected, __doc__, "<!-- streams PART: begin --> and end")
    for part in re.findall(r"<!-- streams (\w+): begin -->", page.read_text()) if page else ():
        if part not in values:
            parser.error(f"--table: {page} asks for the part {part}, and there is {', '.join(values)}")
        report.refresh(page, tables(values[part]), (f"<!-- streams {part}: begin -->", f"<!-- streams {part}: end -->"))


if __name__ == "__main__":
    main()

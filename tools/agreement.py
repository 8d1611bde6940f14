"""How far the modalities of a study's runs err on the same clips: what together they can gain over the best of them.

    python tools/agreement.py runs/utd-mhad-study --json results/agreement/utd-mhad.json --table results/utd-mhad.md

reads what each test clip was taken for (`evaluation.npz`) in the study's runs `whole` and `contrast-alone`, stores the
values of all seeds, and renews the table between the marks in the page. Of single modalities' linear probes it has

- the accuracy, averaged over the modalities;
- the correlation of their errors, averaged over all pairs: of two that are right (1) and wrong (0) on clip i,

      phi = sum_i (a_i - mean a) (b_i - mean b) / sqrt(sum_i (a_i - mean a)^2 sum_i (b_i - mean b)^2),

  which is 1 where they err on the same clips, and 0 where one's errors say nothing of the other's (Kuncheva and
  Whitaker, Machine Learning 51, 2003, equation 8);
- the clips that at least one of them gets right;

and the accuracy of their averaged probabilities. Of runs in folds it is the mean over the folds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from streams import COLUMNS, Column, cell, evaluated

from ikem.files import write_text
from ikem_ext import MODALITIES
from ikem_ext.bench import report

MARKS = "<!-- agreement: begin -->", "<!-- agreement: end -->"

#: By measure and column: the values of the seeds in their order.
Values = dict[str, dict[str, list[float]]]


def measures(right: NDArray[np.bool_], together: NDArray[np.bool_]) -> dict[str, float]:
    """Return what there is to say of the clips that modalities get right, (G, n), and all together, (n,).

    Modalities that err nowhere, or everywhere, have no correlation with others and are left out of its mean.

    Example:
        >>> measures(np.array([[True, True, False, False], [True, False, True, False]]), np.array([True] * 3 + [False]))
        {'one modality': 0.5, 'at least one is right': 0.75, 'probabilities averaged': 0.75, "errors' correlation": 0.0}
    """
    some = right[(right.mean(1) > 0) & (right.mean(1) < 1)]
    pairs = np.corrcoef(some)[np.triu_indices(len(some), 1)]
    return {
        "one modality": float(right.mean()),
        "at least one is right": float(right.any(0).mean()),
        "probabilities averaged": float(together.mean()),
        "errors' correlation": float(pairs.mean()),
    }


def of_run(run: Path, stage: str) -> dict[str, float]:
    """Return the measures of an evaluated run's stage, of all six modalities on its test clips."""
    with np.load(run / "evaluation.npz") as found:
        right = [found[f"classes_{stage}_{name}"][:, 0] == found["labels"] for name in (*MODALITIES, "late_fused6")]
    return measures(np.stack(right[:-1]), right[-1])


def collected(folder: Path) -> Values:
    """Return the measures of all seeds of the runs below a study's folder."""
    values: Values = {}
    for title, column in COLUMNS.items():
        if column.stage != "student":  # it has three of them
            for seed in _seeds(folder, column):
                for measure, value in seed.items():
                    values.setdefault(measure, {}).setdefault(title, []).append(value)
    return values


def _seeds(folder: Path, column: Column) -> list[dict[str, float]]:
    seeds = [[of_run(run, column.stage) for run in runs] for runs in evaluated(folder, column.variant).values()]
    return [{name: statistics.mean(fold[name] for fold in folds) for name in folds[0]} for folds in seeds]


def table(values: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Return the table in percent, correlations too; behind a column's title stands the number of its seeds."""
    columns = {title: len(seeds) for title, seeds in next(iter(values.values())).items()}
    lines = [
        f"| six modalities | {' | '.join(f'{title} ({count})' for title, count in columns.items())} |",
        "| --- |" + " ---: |" * len(columns),
    ]
    lines += [f"| {name} | {' | '.join(cell(seeds[title]) for title in columns)} |" for name, seeds in values.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the runs, store what was found, and renew the page's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a study's")
    parser.add_argument("--json", type=Path, help="where to store the values")
    parser.add_argument("--table", type=Path, help=f"a page with the marks {MARKS[0]} and {MARKS[1]}")
    options = parser.parse_args(arguments)
    values = collected(options.folder)
    if not values:
        parser.error(f"folder: expected evaluated runs in {options.folder}/runs, got none")
    if options.json is not None:
        write_text(options.json, json.dumps(values, indent=1) + "\n")
    if options.table is not None:
        report.refresh(options.table, table(values), MARKS)
    print(table(values))


if __name__ == "__main__":
    main()

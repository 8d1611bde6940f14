"""How far the modalities of a study's runs err on the same clips: what together they can gain over the best of them.

    python tools/agreement.py runs/utd-mhad-study --json results/agreement/utd-mhad.json --table results/utd-mhad.md

reads what each test clip was taken for (`evaluation.npz`) in the study's runs `whole`, `contrast-alone` and `student`,
stores the values of all seeds, and renews the tables between the marks in the page: of six modalities, and of joint,
motion and bone. Of single modalities' linear probes they have

- the accuracy, averaged over the modalities;
- the correlation of their errors, averaged over all pairs: of two that are right (1) and wrong (0) on clip i,

      phi = sum_i (a_i - mean a) (b_i - mean b) / sqrt(sum_i (a_i - mean a)^2 sum_i (b_i - mean b)^2),

  which is 1 where they err on the same clips, and 0 where one's errors say nothing of the other's (Kuncheva and
  Whitaker, Machine Learning 51, 2003);
- the clips that at least one of them gets right;

and the accuracy of their averaged probabilities. Of runs in folds it is the mean over the folds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from streams import COLUMNS, Column, cell, evaluated, values_for

from ikem.config import THREE_STREAMS
from ikem_ext import MODALITIES
from ikem_ext.bench import report

MARKS = "<!-- agreement: begin -->", "<!-- agreement: end -->"

#: By the stream that averages their probabilities.
GROUPS = {"late_fused6": MODALITIES, "late_fused3": THREE_STREAMS}
TITLES = {"late_fused6": "six modalities", "late_fused3": "three modalities"}

#: By stream, measure and column: the values of the seeds in their order.
Values = dict[str, dict[str, dict[str, list[float]]]]


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


def of_run(run: Path, stage: str, stream: str) -> dict[str, float] | None:
    """Return the measures of an evaluated run's stage on its test clips; None where it has not all modalities."""
    with np.load(run / "evaluation.npz") as found:
        names = [f"classes_{stage}_{name}" for name in (*GROUPS[stream], stream)]
        if not set(names) <= set(found.files):
            return None
        right = np.stack([found[name][:, 0] == found["labels"] for name in names])
    return measures(right[:-1], right[-1])


def collected(folder: Path) -> Values:
    """Return the measures of all seeds of the runs below a study's folder."""
    values: Values = {}
    for stream in GROUPS:
        for title, column in COLUMNS.items():
            for seed in _seeds(folder, column, stream):
                for measure, value in seed.items():
                    values.setdefault(stream, {}).setdefault(measure, {}).setdefault(title, []).append(value)
    return values


def _seeds(folder: Path, column: Column, stream: str) -> Iterator[dict[str, float]]:
    for runs in evaluated(folder, column.variant).values():
        folds = [found for run in runs if (found := of_run(run, column.stage, stream)) is not None]
        if folds:
            yield {name: statistics.mean(fold[name] for fold in folds) for name in folds[0]}


def tables(values: Values) -> str:
    """Return a table for each stream, in percent; behind a column's title stands the number of its seeds.

    Example:
        >>> print(tables({"late_fused6": {"one modality": {"after stage 2": [0.5, 0.6]}}}))
        | six modalities | after stage 2 (2) |
        | --- | ---: |
        | one modality | 55.0 ± 7.1 |
    """
    found = []
    for stream, by_measure in values.items():
        columns = {title: len(seeds) for title, seeds in next(iter(by_measure.values())).items()}
        lines = [
            f"| {TITLES[stream]} | {' | '.join(f'{title} ({count})' for title, count in columns.items())} |",
            "| --- |" + " ---: |" * len(columns),
        ]
        lines += [f"| {name} | {' | '.join(map(cell, seeds.values()))} |" for name, seeds in by_measure.items()]
        found.append("\n".join(lines))
    return "\n\n".join(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the runs, or what was stored of them, store it, and renew the page's tables."""
    _, page, values = values_for(arguments, collected, __doc__, " and ".join(MARKS))
    if page is not None:
        report.refresh(page, tables(values), MARKS)
    print(tables(values))


if __name__ == "__main__":
    main()

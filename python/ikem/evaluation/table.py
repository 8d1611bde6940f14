"""The table of an evaluation, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def results_table(result: Mapping[str, Any]) -> Table:
    """Return the table of an evaluation: one line per stage, stream and test part, accuracies in percent."""
    dataset = result["dataset"]
    name, clips = f"{dataset['name']}, {dataset['protocol']}", dataset["test_clips"]
    table = Table(title=f"{name}: accuracy in % on {clips} test clips")
    several = len({row["part"] for row in result["rows"]}) > 1
    with_logistic = any(row["logistic"] for row in result["rows"])
    for column in ("stage", "stream", *(["part"] if several else [])):
        table.add_column(column)
    for column in ("linear", "top-5", "best epoch", "1-NN", "20-NN", *(["logistic"] if with_logistic else [])):
        table.add_column(column, justify="right")
    stage = None
    for row in result["rows"]:
        if stage not in (None, row["stage"]):
            table.add_section()
        stage, linear = row["stage"], row["linear"]
        numbers = [linear["top1"], linear["top5"], linear["top1_best_epoch"], row["knn1"], row["knn20"]]
        if with_logistic:
            numbers.append(row["logistic"] and row["logistic"]["top1"])
        names = (row["stage"], row["stream"], *([row["part"]] if several else []))
        table.add_row(*names, *("" if number is None else f"{100 * number:.1f}" for number in numbers))
    return table

"""The tables of an evaluation, for the terminal: they fit into 80 columns, and no name is cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich import box
from rich.table import Table

from ikem.evaluation.scores import Spread, by_stream, number_of, origin, over_draws

#: What counts as labelled, by protocol.
LABELLED = {"semi": "a share of the training clips labelled", "fewshot": "so many clips of each class labelled"}
MOST_AMOUNTS = 5  # of labels, side by side in 80 columns


def results_tables(result: Mapping[str, Any]) -> list[Table]:
    """Return the tables of an evaluation: accuracies in percent, one line for each stage and stream.

    For each test part there is one of what learns from whole clips, and, where they were asked for, one of early
    prediction and one for each classifier of few labels. Whose clips they are has a table of its own.
    """
    dataset = result["dataset"]
    tables = []
    of_people = [row for row in result["rows"] if row["protocol"] == "subject"]
    of_actions = [row for row in result["rows"] if row["protocol"] != "subject"]
    for part in dict.fromkeys(row["part"] for row in of_actions):
        rows = [row for row in of_actions if row["part"] == part]
        where = f"{dataset['name']}, {dataset['protocol']}, {part}"
        tables.append(_whole_clips(f"{where}: accuracy in %", by_stream(rows)))
        if early := [row for row in rows if row["protocol"] == "early"]:
            tables.append(_early(f"{where}: accuracy in % when so many % of a clip are seen", early))
        for protocol, labelled in LABELLED.items():
            if drawn := over_draws(rows, protocol):
                title = f"{where}: accuracy in % with {labelled}, mean±deviation of draws"
                tables += _drawn(title, protocol, drawn)
    if of_people:
        title = f"{dataset['name']}, {dataset['protocol']}, train: % of clips whose subject is told from other actions"
        lines = [(row["stage"], row["stream"], [row["top1"]]) for row in of_people]
        tables.append(_table(title, ["subject"], lines))
    return tables


def finetuning_tables(result: Mapping[str, Any]) -> list[Table]:
    """Return the tables of finetunings: accuracies in percent, for each test part one line for each origin and stream.

    Of several shares or draws of the labels there are means and deviations of the draws by share.
    """
    dataset = result["dataset"]
    tables: list[Table] = []
    for part in dict.fromkeys(row["part"] for row in result["rows"]):
        rows = [{**row, "stage": origin(row)} for row in result["rows"] if row["part"] == part]
        where, clips = f"{dataset['name']}, {dataset['protocol']}, {part}", rows[0]["labelled_clips"]
        if len({(row["labels"], row["draw"]) for row in rows}) > 1:
            title = f"{where}: accuracy in % with {LABELLED['semi']}, mean±deviation of draws"
            tables += _drawn(title, "semi", over_draws(({**row, "classifier": "finetune"} for row in rows), "finetune"))
            continue
        names = ("top1", "top5", "top1_best_epoch")
        lines = [(row["stage"], row["stream"], [row[name] for name in names]) for row in rows]
        title = f"{where}: accuracy in %, {clips} labelled clips"
        tables.append(_table(title, ["finetune", "top-5", "best epoch"], lines))
    return tables


def neighbors_name(k: int) -> str:
    """Return what classification by the k nearest neighbors is called.

    Example:
        >>> neighbors_name(1), neighbors_name(20)
        ('retrieval (1-NN)', '20-NN')
    """
    return "retrieval (1-NN)" if k == 1 else f"{k}-NN"


def numbers_of_neighbors(streams: Iterable[Mapping[str, Any]]) -> list[int]:
    """Return by how many neighbors any of the streams was classified."""
    return sorted({k for row in streams for k in row["neighbors"]})


def _whole_clips(title: str, streams: Sequence[Mapping[str, Any]]) -> Table:
    neighbors = numbers_of_neighbors(streams)
    logistic = ["logistic"] if any(row["logistic"] for row in streams) else []
    columns = ["linear", "top-5", "best epoch", *map(neighbors_name, neighbors), *logistic]

    def numbers(row: Mapping[str, Any]) -> list[float | None]:
        linear = [number_of(row["linear"], name) for name in ("top1", "top5", "top1_best_epoch")]
        found = [*linear, *(row["neighbors"].get(k) for k in neighbors)]
        return [*found, number_of(row["logistic"])] if logistic else found

    return _table(title, columns, [(row["stage"], row["stream"], numbers(row)) for row in streams])


def _early(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    shares = sorted({row["seen"] for row in rows})
    found: dict[tuple[str, str], dict[float, float]] = {}
    for row in rows:
        found.setdefault((row["stage"], row["stream"]), {})[row["seen"]] = row["top1"]
    lines = [(stage, stream, [at.get(share) for share in shares]) for (stage, stream), at in found.items()]
    return _table(title, [f"{100 * share:g}" for share in shares], lines)


def _drawn(title: str, protocol: str, drawn: Mapping[tuple[str, str, str], Mapping[float, Spread]]) -> Iterable[Table]:
    amounts = sorted({labels for at in drawn.values() for labels in at})
    for classifier in dict.fromkeys(classifier for _, _, classifier in drawn):
        chosen = {(stage, stream): at for (stage, stream, found), at in drawn.items() if found == classifier}
        for some in (amounts[start : start + MOST_AMOUNTS] for start in range(0, len(amounts), MOST_AMOUNTS)):
            lines = [(stage, stream, [at.get(labels) for labels in some]) for (stage, stream), at in chosen.items()]
            yield _table(f"{title}: {classifier}", [labels_name(protocol, labels) for labels in some], lines)


def labels_name(protocol: str, labels: float) -> str:
    """Return how many training clips are labelled, for the head of a column.

    Example:
        >>> labels_name("semi", 0.05), labels_name("fewshot", 2)
        ('5%', '2')
    """
    return f"{100 * labels:g}%" if protocol == "semi" else f"{labels:g}"


def _table(
    title: str, columns: Sequence[str], lines: Iterable[tuple[str, str, Sequence[float | Spread | None]]]
) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for name in ("stage", "stream"):
        table.add_column(name, no_wrap=True, overflow="fold")
    for column in columns:
        table.add_column("\n".join(column.split()), justify="right", no_wrap=True)
    for _, section in groupby(lines, key=lambda line: line[0]):
        for stage, stream, numbers in section:
            table.add_row(stage, stream, *map(percent, numbers))
        table.add_section()
    return table


def percent(fraction: float | Spread | None) -> str:
    """Return a fraction in percent, of several draws with their deviation; nothing where there is none.

    Example:
        >>> percent(0.9312), percent(1.0), percent(Spread(0.51, 0.0234)), percent(None)
        ('93.1', '100', '51.0±2.3', '')
    """
    if isinstance(fraction, Spread):
        mean = percent(fraction.mean)
        return mean if fraction.deviation is None else f"{mean}±{100 * fraction.deviation:.1f}"
    return "" if fraction is None else "100" if fraction == 1 else f"{100 * fraction:.1f}"

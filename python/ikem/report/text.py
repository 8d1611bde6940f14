"""The text of a report, in Markdown: tables, and what the numbers do and do not show."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ikem.evaluation.scores import Spread, by_stream, number_of
from ikem.evaluation.table import LABELLED, labels_name, neighbors_name, numbers_of_neighbors
from ikem.report.plots.style import STAGE_NAMES, stream_name
from ikem.report.run import Drawn, Row, Run
from ikem.training.watch import RANK, RETRIEVAL
from ikem_ext import MODALITIES

__all__ = ["percent", "results_table", "to_markdown"]

STAGES = tuple(STAGE_NAMES)


def percent(fraction: float | None) -> str:
    """A fraction in percent, or nothing.

    Example:
        >>> percent(0.125), percent(None)
        ('12.5', '')
    """
    return "" if fraction is None else f"{100 * fraction:.1f}"


def results_table(rows: Iterable[Row]) -> str:
    """The accuracies as a Markdown table, in percent: the control first, then stage by stage.

    Example:
        >>> linear = {"top1": 0.5, "top5": 0.9, "top1_best_epoch": 0.55}
        >>> row = {"stage": "stage1", "stream": "bone", "part": "test", "linear": linear, "logistic": None}
        >>> row |= {"neighbors": {1: 0.4}}
        >>> print(results_table([row]).splitlines()[-1])
        | after stage 1 (contrast) | bone | 50.0 | 90.0 | 55.0 | 40.0 |
    """
    rows = sorted(rows, key=lambda row: STAGES.index(row["stage"]))  # stable: streams stay in their order
    several = len({row["part"] for row in rows}) > 1
    columns = ["stage", "stream", *(["part"] if several else [])]
    neighbors = numbers_of_neighbors(rows)
    numbers = ["linear top-1", "linear top-5", "linear top-1, best epoch", *map(neighbors_name, neighbors)]
    with_logistic = any(row["logistic"] for row in rows)
    if with_logistic:
        numbers.append("logistic top-1")
    lines = [[*columns, *numbers], ["---"] * len(columns) + ["---:"] * len(numbers)]
    for row in rows:
        values = [number_of(row["linear"], name) for name in ("top1", "top5", "top1_best_epoch")]
        values += [row["neighbors"].get(k) for k in neighbors]
        if with_logistic:
            values.append(number_of(row["logistic"]))
        names = [STAGE_NAMES[row["stage"]], stream_name(row["stream"])]
        lines.append([*names, *([row["part"]] if several else []), *map(percent, values)])
    return _markdown_table(lines)


def _markdown_table(lines: Iterable[Sequence[str]]) -> str:
    return "\n".join("|" + "".join(f" {cell} |" if cell else " |" for cell in line) for line in lines)


def _few_labels_text(run: Run) -> list[str]:
    """A table for each protocol of few labels that was asked for."""
    tables = []
    for protocol, labelled in LABELLED.items():
        if drawn := run.few_labels(protocol):
            tables += [f"With {labelled}:", _drawn_table(protocol, drawn)]
    if not tables:
        return []
    return [
        "## Few labels",
        "Accuracy on the test clips in percent, mean ± standard deviation over the draws of labelled clips: of the "
        "linear probe, and of retrieval (1-NN), which know the labels of these clips alone.",
        *tables,
    ]


def _finetuning_text(run: Run) -> list[str]:
    """A table of all finetunings in the run, if there are any."""
    drawn = run.finetuning()
    if not drawn:
        return []
    return [
        "## Finetuning",
        "Accuracy on the test clips in percent after the last epoch, by the share of the training labels that whole "
        "encoders and their heads have learned from, mean ± standard deviation over the draws where there are several. "
        "Supervised is what begins with random weights, the baseline. Fused streams average the logits of single ones.",
        _drawn_table("semi", drawn),
    ]


def _drawn_table(protocol: str, drawn: Drawn) -> str:
    """The accuracies by labels, as a Markdown table, stage by stage."""
    amounts = sorted({labels for at in drawn.values() for labels in at})
    lines = [["stage", "stream", "classifier", *(labels_name(protocol, labels) for labels in amounts)], ["---"] * 3]
    lines[1] += ["---:"] * len(amounts)
    for (stage, stream, classifier), at in sorted(drawn.items(), key=lambda item: STAGES.index(item[0][0])):
        accuracies = [_mean_and_deviation(at.get(labels)) for labels in amounts]
        how = "ridge" if stage == "raw" else classifier
        lines.append([STAGE_NAMES[stage], stream_name(stream), how, *accuracies])
    return _markdown_table(lines)


def _mean_and_deviation(spread: Spread | None) -> str:
    if spread is None or spread.deviation is None:
        return percent(spread and spread.mean)
    return f"{percent(spread.mean)} ± {percent(spread.deviation)}"


def _conclusions(run: Run) -> list[str]:
    """What the numbers show, in sentences that follow from them."""
    clips = run.evaluation["dataset"]["test_clips"]
    stage, found = run.last_stage, []

    def compare(what: str, ours: Row | None, theirs: Row | None) -> None:
        if ours is not None and theirs is not None:
            found.append(f"{what}: {_difference(ours, theirs, clips)}.")

    if stage is None:
        return ["Nothing pretrained has been evaluated; the numbers are those of the controls."]
    widest = run.widest_stream(stage) or ""
    best = run.row(stage, widest)
    name = stream_name(widest)
    compare(f"**Pretraining against random weights** ({name})", best, run.row("random", widest))
    singles = [row for row in run.rows if row["stage"] == stage and row["stream"] in MODALITIES]
    strongest = max(singles, key=lambda row: row["linear"]["top1"], default=None)
    if strongest is not None and strongest["stream"] != widest:
        single = stream_name(strongest["stream"])
        compare(f"**Fusion against the best single stream** ({name} against {single})", best, strongest)
    if stage == "stage2":
        compare(
            f"**Exchange against contrast alone** ({name}, stage 2 against stage 1)", best, run.row("stage1", widest)
        )
        found.append("Stage 2 has also trained for longer than stage 1; the difference holds both effects.")
    student = run.widest_stream("student")
    if student is not None:
        compare(
            f"**Student against its teacher's same streams** ({stream_name(student)})",
            run.row("student", student),
            run.row(stage, student),
        )
    raw = next((row for row in run.rows if row["stage"] == "raw"), None)
    compare(f"**{name.capitalize()} against classifiers of the raw coordinates**", best, raw)
    return found


def _difference(ours: Row, theirs: Row, clips: int) -> str:
    """The differences in points with 95 % intervals of two independent binomials."""
    parts = []
    measures: dict[str, Callable[[Row], float | None]] = {
        "linear": lambda row: number_of(row["linear"]),
        "retrieval (1-NN)": lambda row: row["neighbors"].get(1),
        "logistic": lambda row: number_of(row["logistic"]),
    }
    for name, measure in measures.items():
        a, b = measure(ours), measure(theirs)
        if a is not None and b is not None:
            margin = 1.96 * math.sqrt((a * (1 - a) + b * (1 - b)) / clips)
            verdict = "better" if a - b > margin else "worse" if b - a > margin else "no clear difference"
            parts.append(
                f"{name} {percent(a)} % against {percent(b)} %, {100 * (a - b):+.1f} ± {100 * margin:.1f} points"
                f" ({verdict})"
            )
    return "; ".join(parts)


def _data_text(run: Run) -> str:
    data, (_, _, frames, joints, bodies) = run.evaluation["dataset"], run.dataset.joints.shape
    classes = f"{len(data['classes'])} classes" if data["classes"] else "no labels"
    text = (
        f"{data['name']}, protocol `{data['protocol']}`: {classes}, "
        f"{data['train_clips']} training and {data['test_clips']} test clips of {frames} frames, "
        f"{joints} joints (layout `{data['layout']}`) and {'one body' if bodies == 1 else f'up to {bodies} bodies'}."
    )
    if unlabelled := run.evaluation.get("unlabelled"):
        counts = ", ".join(f"{part} {count}" for part, count in unlabelled.items())
        text += f" Clips without a label had no part in the evaluation: {counts}."
    if data["name"] == "synthetic":
        text += (
            "\n\n**The data are synthetic**: a simulated body performs parametric actions before a simulated sensor. "
            "The numbers show that the method runs and learns; they say nothing about recordings of real people."
        )
    return text


def _accuracy_text(run: Run) -> list[str]:
    if lacking := run.evaluation.get("lacking"):
        protocol = run.evaluation["dataset"]["protocol"]
        return ["## Accuracy", f"None is given, as the protocol `{protocol}` cannot be evaluated: {lacking}."]
    return [
        "## Accuracy",
        "In percent. The encoders are frozen; a linear classifier is trained on their features, and nearest neighbors "
        "are found by cosine. The best epoch is chosen on the test clips, as published code does, and is given for "
        "comparison only. Logistic regression, where it was asked for, sees the features of joints and parts of time "
        "apart, and on raw coordinates the coordinates themselves.",
        results_table(by_stream(run.evaluation["rows"])),
        *_few_labels_text(run),
        *_subjects_text(run),
        "## What the numbers show",
        "Differences in percentage points, with 95 % intervals for the finite number of test clips; they do not "
        "hold what another seed would change.",
        "\n".join(f"- {sentence}" for sentence in _conclusions(run)),
    ]


def _subjects_text(run: Run) -> list[str]:
    """How well the features tell whose clip it is, if that was asked for."""
    rows = [row for row in run.evaluation["rows"] if row["protocol"] == "subject"]
    if not rows:
        return []
    lines = [["stage", "stream", "subject"], ["---", "---", "---:"]]
    for row in sorted(rows, key=lambda row: STAGES.index(row["stage"])):
        lines.append([STAGE_NAMES[row["stage"]], stream_name(row["stream"]), percent(row["top1"])])
    return [
        "## Whose clip it is",
        "Percent of the training clips whose subject a logistic regression names from the mean features, having "
        "learned from other actions of the same people. What tells people apart is not what tells actions apart.",
        _markdown_table(lines),
    ]


def _watch_text(run: Run) -> list[str]:
    """Where the features of the training clips were best while they were trained."""
    names = {RETRIEVAL: "retrieval on held-out training clips, %", RANK: "RankMe"}
    lines = []
    for command, curves in run.curves.items():
        for column, values in curves.items():
            measure, _, modality = column.partition("/")
            if measure in names and not np.isnan(values).all():
                best = int(np.nanargmax(values))
                epoch, scale = int(curves["epoch"][best]), 100 if measure == RETRIEVAL else 1
                there, last = scale * values[best], scale * values[~np.isnan(values)][-1]
                lines.append(f"| {command} | {names[measure]} | {modality} | {epoch} | {there:.1f} | {last:.1f} |")
    if not lines:
        return []
    head = "| training | measure | modality | best epoch | there | last |\n|---|---|---|---:|---:|---:|"
    said = "Measured on training clips alone; a last value well below the best one is a sign of overtraining."
    return ["## Watch", said, "\n".join([head, *lines])]


def _command(name: str, folder: Path) -> str:
    return f"ikem {name} --config {shlex.quote(str(folder / 'config.yaml'))}"


def to_markdown(run: Run, captions: Mapping[str, str]) -> str:
    """The report of a run.

    Args:
        run: what its folder holds.
        captions: of the pictures, by the name of their files.
    """
    environment = run.evaluation.get("environment", {})
    evaluated = [] if "lacking" in run.evaluation else ["evaluate"]
    commands = [(command, run.folder) for command in ("pretrain", "distill") if command in run.curves]
    commands += [("finetune", folder) for folder in run.finetunings]
    commands += [(command, run.folder) for command in (*evaluated, "report")]
    sections = [
        f"# {run.folder.name}",
        _data_text(run),
        *_accuracy_text(run),
        *_finetuning_text(run),
        *_watch_text(run),
        "## Pictures",
        *(f"![{name}](pictures/{name}.png)\n\n{caption}" for name, caption in captions.items()),
        "## How it was made",
        "```\n" + "\n".join(_command(*each) for each in commands) + "\n```",
        "\n".join(f"- {name}: {value}" for name, value in environment.items() if value is not None),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"

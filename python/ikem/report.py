"""The report of a run: pictures, one table, and what the numbers do and do not show.

``ikem report --config NAME`` reads what pretraining, distillation and evaluation left in the run's folder and writes
``report.md`` and ``pictures/*.png`` there. ``python -m ikem.report FILE.png`` draws the six modalities of a
synthetic clip, the picture of the project's front page.
"""

from __future__ import annotations

import csv
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ikem import pictures
from ikem.config import Config
from ikem.data.dataset import PreparedDataset
from ikem.data.protocols import lacking_for_evaluation
from ikem.data.synthetic import generate
from ikem.evaluation.scores import Spread, by_stream, number_of, origin, over_draws
from ikem.evaluation.table import LABELLED, labels_name, neighbors_name, numbers_of_neighbors
from ikem.files import write_text
from ikem.training.watch import RANK, RETRIEVAL
from ikem_ext import LAYOUTS, MODALITIES

__all__ = ["report", "results_table"]

Row = Mapping[str, Any]
Drawn = dict[tuple[str, str, str], dict[float, Spread]]
STAGES = tuple(pictures.STAGE_NAMES)
TRAINED = ("stage1", "stage2", "student")


@dataclass(frozen=True)
class Run:
    """What a run's folder holds.

    Attributes:
        folder: of the run.
        dataset: the recordings it was trained and tested on.
        evaluation: ``evaluation.json``; of a run that cannot be evaluated, the reason why (``lacking``), and no rows.
        arrays: ``evaluation.npz``: confusion matrices and features.
        curves: command -> column of ``metrics.csv`` -> (epochs,), NaN where a quantity was not measured.
        options: ``config.yaml``.
        finetunings: ``evaluation.json`` of every finetuning in it, by folder.
    """

    folder: Path
    dataset: PreparedDataset
    evaluation: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]
    curves: Mapping[str, Mapping[str, NDArray[np.float64]]]
    options: Mapping[str, Any]
    finetunings: Mapping[Path, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, dataset: PreparedDataset) -> Run:
        """Reads a run's folder.

        Raises:
            ValueError: the run has not been evaluated, though it could be.
        """
        path = folder / "config.yaml"
        options = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        evaluation = _not_evaluated(dataset, options)
        evaluation, arrays = (evaluation, {}) if evaluation else _read_evaluation(folder)
        return cls(
            folder=folder,
            dataset=dataset,
            evaluation=evaluation,
            arrays=arrays,
            curves={
                command: _read_metrics(folder / command / "metrics.csv")
                for command in ("pretrain", "distill")
                if (folder / command / "metrics.csv").is_file()
            },
            options=options,
            finetunings={
                path.parent: json.loads(path.read_text(encoding="utf-8"))
                for path in sorted(folder.glob("finetune/*/evaluation.json"))
            },
        )

    @property
    def rows(self) -> list[Row]:
        """The accuracies on the test part itself, extra test parts left aside."""
        return [row for row in by_stream(self.evaluation["rows"]) if row["part"] == "test"]

    def row(self, stage: str, stream: str) -> Row | None:
        """The accuracies of one stream of one stage, if it was evaluated."""
        return next((row for row in self.rows if (row["stage"], row["stream"]) == (stage, stream)), None)

    def few_labels(self, protocol: str) -> Drawn:
        """The accuracies on the test part by ``semi`` or ``fewshot``: stage, stream, classifier -> by labels."""
        return over_draws((row for row in self.evaluation["rows"] if row["part"] == "test"), protocol)

    def finetuning(self) -> Drawn:
        """Likewise those of finetuning, by what it began with: a stage's encoders, or, ``supervised``, random ones."""
        rows = (row for result in self.finetunings.values() for row in result["rows"] if row["part"] == "test")
        return over_draws(({**row, "stage": origin(row), "classifier": "finetune"} for row in rows), "finetune")

    @property
    def last_stage(self) -> str | None:
        """The last stage of the teacher that was evaluated."""
        stages = [row["stage"] for row in self.rows]
        return next((stage for stage in ("stage2", "stage1") if stage in stages), None)

    def widest_stream(self, stage: str) -> str | None:
        """The stream that fuses most modalities, or the first one."""
        return _widest([row["stream"] for row in self.rows if row["stage"] == stage])


def _widest(streams: Sequence[str]) -> str | None:
    fused = sorted((s for s in streams if s.startswith("fused")), key=lambda s: int(s.removeprefix("fused")))
    return fused[-1] if fused else next(iter(streams), None)


def _not_evaluated(dataset: PreparedDataset, options: Mapping[str, Any]) -> dict[str, Any]:
    """What stands for the evaluation of a run whose protocol cannot be evaluated; nothing for all others."""
    protocol = options.get("data", {}).get("protocol")
    parts = dataset.protocols.get(protocol, {})
    lacking = lacking_for_evaluation(parts, dataset.labels) if parts else None
    if lacking is None:
        return {}
    data = {
        "name": dataset.name,
        "layout": dataset.layout.name,
        "classes": dataset.classes,
        "protocol": protocol,
        "train_clips": len(parts["train"]),
        "test_clips": len(parts["test"]),
    }
    return {"dataset": data, "rows": [], "lacking": lacking}


def _read_evaluation(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    for name in ("evaluation.json", "evaluation.npz"):
        if not (folder / name).is_file():
            raise ValueError(f"run: {folder} holds no {name}; run `ikem evaluate` first")
    with np.load(folder / "evaluation.npz", allow_pickle=False) as file:
        arrays = dict(file)
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8")), arrays


def _read_metrics(path: Path) -> dict[str, NDArray[np.float64]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in (rows[0] if rows else ())}


# ------------------------------------------------------------------------------------------------- pictures


def _modalities_picture(run: Run) -> tuple[Figure, str] | None:
    protocol = run.evaluation["dataset"]["protocol"]
    part, clips = "test", run.dataset.split(protocol, "test")
    if not len(clips):
        part, clips = "training", run.dataset.split(protocol, "train")
    activity = [float(np.diff(run.dataset.joints[clip], axis=1).var()) for clip in clips[:200]]
    clip = int(clips[np.argsort(activity)[len(activity) * 3 // 4]])  # lively, but no outlier
    label = run.dataset.labels[clip]
    name = "no label" if label < 0 else run.dataset.classes[label]
    figure = pictures.modalities(
        run.dataset.joints[clip],
        int(run.dataset.num_frames[clip]),
        run.dataset.layout,
        title=f"Six modalities of one {part} clip: {name}",
    )
    return figure, (
        f"The six modalities of the {part} clip `{run.dataset.clips[clip].name}` ({name}), as the encoders see them: "
        "centered on the root joint and resized in time. Lengths are in the recordings' unit, motion and angular "
        "velocity per frame of a clip of 50 frames, angles in radians. The bone of the root, a unit normal of the "
        "torso, is drawn short; bodies that are each centered on their own root are drawn side by side."
    )


def _training_picture(run: Run) -> tuple[Figure, str] | None:
    if not run.curves:
        return None
    options = run.options.get("pretrain", {})
    pretrained = run.curves.get("pretrain", {})
    exchanges = any(name.startswith(("explicit/", "implicit/")) for name in pretrained)
    return pictures.training(run.curves, options.get("exchange_epoch") if exchanges else None), (
        "Losses per modality over the epochs, and the share of clips whose two views are closer to each other than to "
        "anything in the queue (contrastive accuracy). The dotted line marks the start of stage 2, where the "
        "modalities exchange knowledge and the loss is another one, the sum of the explicit and the implicit one. A "
        "star marks the best epoch of what was watched."
    )


def _confusion_picture(run: Run) -> tuple[Figure, str] | None:
    stage = run.last_stage
    stream = run.widest_stream(stage) if stage else None
    counts = run.arrays.get(f"confusion_{stage}_{stream}")
    if stage is None or stream is None or counts is None:
        return None
    name = f"{pictures.stream_name(stream)}, {pictures.STAGE_NAMES[stage]}"
    title = f"Linear probe, {name}"
    return pictures.confusion(counts, run.dataset.classes, title=title), (
        f"Confusion matrix of the linear probe on the test clips ({name}). "
        + _worst_confusion(counts, run.dataset.classes)
    )


def _worst_confusion(counts: NDArray[Any], classes: Sequence[str]) -> str:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    true, predicted = np.unravel_index(shares.argmax(), shares.shape)
    if not shares.any():
        return "No clip is confused."
    return f"Most often confused: {classes[true]!r} taken for {classes[predicted]!r} ({_percent(shares.max())} %)."


def _embedding_picture(run: Run) -> tuple[Figure, str] | None:
    panels = {}
    for stage in ("random", run.last_stage):
        features = [run.arrays.get(f"features_{stage}_{modality}") for modality in MODALITIES]
        present = [values for values in features if values is not None]
        if stage is not None and present:
            scaled = [(values - values.mean(0)) / (values.std(0) + 1e-9) for values in present]
            panels[pictures.STAGE_NAMES[stage]] = np.concatenate(scaled, axis=1)
    if not panels:
        return None
    return pictures.embeddings(panels, run.arrays["labels"], run.dataset.classes), (
        "Features of the test clips, all modalities side by side, in two dimensions (t-SNE), colored by class. No "
        "label was used to make them. Distances between groups mean little in such a picture; whether a class "
        "forms a group does."
    )


def _accuracy_picture(run: Run) -> tuple[Figure, str] | None:
    if not run.rows:
        return None
    chance = 1 / len(run.dataset.classes)
    return pictures.accuracies(run.rows, chance=chance), (
        "Top-1 accuracy on the test clips by stream and stage, beside the same encoder with random weights."
    )


def _few_labels_picture(run: Run) -> tuple[Figure, str] | None:
    stage = run.last_stage or "random"
    stream = run.widest_stream(stage) or ""
    curves = {
        protocol: {
            (at_stage, classifier): at
            for (at_stage, at_stream, classifier), at in run.few_labels(protocol).items()
            if at_stream == stream or at_stage == "raw"
        }
        for protocol in LABELLED
    }
    curves = {protocol: found for protocol, found in curves.items() if found}
    if not curves:
        return None
    return pictures.few_labels(curves, chance=1 / len(run.dataset.classes), stream=stream), (
        "Top-1 accuracy on the test clips when few training clips are labelled, by stage: the means of the draws of "
        "labelled clips, and one standard deviation to each side. The encoders have seen no label."
    )


def _finetuning_picture(run: Run) -> tuple[Figure, str] | None:
    drawn = run.finetuning()
    stream = _widest([stream for _, stream, _ in drawn])
    chosen = {(stage, how): at for (stage, found, how), at in drawn.items() if found == stream}
    if stream is None or len({labels for at in chosen.values() for labels in at}) < 2:
        return None
    return pictures.few_labels({"finetune": chosen}, chance=1 / len(run.dataset.classes), stream=stream), (
        "Top-1 accuracy on the test clips of whole encoders that have learned from a share of the training labels, by "
        "what they began with: the means of the draws of labelled clips, and one standard deviation to each side."
    )


PICTURES: dict[str, Callable[[Run], tuple[Figure, str] | None]] = {
    "modalities": _modalities_picture,
    "training": _training_picture,
    "accuracy": _accuracy_picture,
    "few_labels": _few_labels_picture,
    "finetuning": _finetuning_picture,
    "confusion": _confusion_picture,
    "embedding": _embedding_picture,
}
"""What a report shows, by the name of the file: functions that draw and caption, or find nothing to draw."""


def _save(figure: Figure, path: Path) -> None:
    """Writes beside, then renames."""
    unfinished = path.with_name(f".{path.name}")
    figure.savefig(unfinished, format="png", dpi=130)
    unfinished.replace(path)


# ----------------------------------------------------------------------------------------------------- text


def _percent(fraction: float | None) -> str:
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
        names = [pictures.STAGE_NAMES[row["stage"]], pictures.stream_name(row["stream"])]
        lines.append([*names, *([row["part"]] if several else []), *map(_percent, values)])
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
        lines.append([pictures.STAGE_NAMES[stage], pictures.stream_name(stream), how, *accuracies])
    return _markdown_table(lines)


def _mean_and_deviation(spread: Spread | None) -> str:
    if spread is None or spread.deviation is None:
        return _percent(spread and spread.mean)
    return f"{_percent(spread.mean)} ± {_percent(spread.deviation)}"


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
    name = pictures.stream_name(widest)
    compare(f"**Pretraining against random weights** ({name})", best, run.row("random", widest))
    singles = [row for row in run.rows if row["stage"] == stage and row["stream"] in MODALITIES]
    strongest = max(singles, key=lambda row: row["linear"]["top1"], default=None)
    if strongest is not None and strongest["stream"] != widest:
        single = pictures.stream_name(strongest["stream"])
        compare(f"**Fusion against the best single stream** ({name} against {single})", best, strongest)
    if stage == "stage2":
        compare(
            f"**Exchange against contrast alone** ({name}, stage 2 against stage 1)", best, run.row("stage1", widest)
        )
        found.append("Stage 2 has also trained for longer than stage 1; the difference holds both effects.")
    student = run.widest_stream("student")
    if student is not None:
        compare(
            f"**Student against its teacher's same streams** ({pictures.stream_name(student)})",
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
                f"{name} {_percent(a)} % against {_percent(b)} %, {100 * (a - b):+.1f} ± {100 * margin:.1f} points"
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
        "## What the numbers show",
        "Differences in percentage points, with 95 % intervals for the finite number of test clips; they do not "
        "hold what another seed would change.",
        "\n".join(f"- {sentence}" for sentence in _conclusions(run)),
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


def _markdown(run: Run, captions: Mapping[str, str]) -> str:
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


def report(config: Config) -> Path:
    """Writes the report of an evaluated run.

    Args:
        config: of the run; its folder and its dataset are used.

    Returns:
        ``<run>/report.md``. The pictures are in ``<run>/pictures``.

    Raises:
        ValueError: the run has not been evaluated, though it could be.
    """
    run = Run.read(config.run, PreparedDataset(config.data.one_folder))
    folder = run.folder / "pictures"
    folder.mkdir(exist_ok=True)
    captions = {}
    for name, draw in PICTURES.items():
        drawn = draw(run)
        if drawn is None:
            (folder / f"{name}.png").unlink(missing_ok=True)  # of an earlier report
            continue
        figure, captions[name] = drawn
        _save(figure, folder / f"{name}.png")
    write_text(run.folder / "report.md", _markdown(run, captions))
    print(f"report: {run.folder / 'report.md'}")
    return run.folder / "report.md"


def front_page_picture(path: Path) -> None:
    """Draws the six modalities of one synthetic clip, seen by a sensor without faults."""
    recordings = generate(subjects=4, repetitions=1, seed=3, noise=0)
    clip = int(np.flatnonzero(recordings.class_names[recordings.labels] == "throw")[1])
    joints = recordings.joints[clip, :, : recordings.num_frames[clip]]
    layout = LAYOUTS[recordings.layout]
    centered = joints - joints[:, :, layout.root, None]
    title = "The six modalities of one synthetic clip (throw)"
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(pictures.modalities(centered, joints.shape[1], layout, title=title), path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m ikem.report FILE.png")
    front_page_picture(Path(sys.argv[1]))

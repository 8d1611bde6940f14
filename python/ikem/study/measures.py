"""What a study measures: numbers of rows, as `ikem evaluate` and `ikem finetune` write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ikem.config import Config
from ikem.config.checks import require
from ikem.study.checks import mapping, require_different

LAST = "last"  # the last stage that a variant has trained
FUSED = "fused"  # all of its modalities together, or the only one

#: What a measure may be, by its names in the file; None is for any value.
MEASURE: dict[str, tuple[str, ...] | None] = {
    "protocol": ("linear", "retrieval", "knn", "logistic", "early", "semi", "fewshot", "finetune", "subject"),
    "stage": (LAST, "stage1", "stage2", "student"),
    "stream": None,
    "part": None,
    "metric": ("top1", "top5", "top1_best_epoch"),
    "classifier": ("linear", "retrieval"),
    "neighbors": None,
    "seen": None,
    "labels": None,
}
DEFAULTS = {"stage": LAST, "stream": FUSED, "part": "test", "metric": "top1"}
#: What some protocols have beside, and its default; None where it has to be said.
MORE: dict[str, dict[str, Any]] = {
    "knn": {"neighbors": None},
    "early": {"seen": None},
    "semi": {"classifier": "linear", "labels": None},
    "fewshot": {"classifier": "linear", "labels": None},
    "finetune": {"labels": 1.0},
}

CONTROLS = ("random", "raw", "supervised")  # as rows have them

Measure = dict[str, Any]
Row = Mapping[str, Any]


class Reading(NamedTuple):
    """A measure of one run.

    Attributes:
        value: a fraction, of several draws of labelled clips their mean; None where there is no such row.
        draws: the values of the draws by their numbers; None where labels were not drawn.
    """

    value: float | None
    draws: dict[str, float] | None


def read_measures(given: Any) -> list[Measure]:
    """Return what a study's file says of its measures, with all that it leaves to defaults."""
    if given is None:
        given = [{"protocol": "linear"}, {"protocol": "retrieval"}]
    require(isinstance(given, list) and len(given) > 0, f"measure: expected a list of measures, got {given!r}")
    measures = [_measure(f"measure[{position}]", item) for position, item in enumerate(given)]
    require_different("measure", [json.dumps(measure) for measure in measures])
    return measures


def _measure(where: str, given: Any) -> Measure:
    measure = mapping(where, given, tuple(MEASURE))
    protocol = measure.get("protocol")
    protocols = MEASURE["protocol"] or ()
    require(protocol in protocols, f"{where}.protocol: expected one of {', '.join(protocols)}, got {protocol!r}")
    more = MORE.get(str(protocol), {})
    part = {"part": "train"} if protocol == "subject" else {}
    measure = DEFAULTS | part | {name: value for name, value in more.items() if value is not None} | measure
    found = [name for name in ("classifier", "neighbors", "seen", "labels") if name in measure]
    require(
        set(found) == set(more),
        f"{where}: {protocol} needs {' and '.join(more) or 'nothing more'} beside it, got {', '.join(found) or None}",
    )
    for name, expected in MEASURE.items():
        require(
            expected is None or name not in measure or measure[name] in expected,
            f"{where}.{name}: expected one of {', '.join(expected or ())}, got {measure.get(name)!r}",
        )
    metric = measure["metric"]
    without_scores = protocol in ("retrieval", "knn", "subject") or measure.get("classifier") == "retrieval"
    has = {"top1": True, "top5": not without_scores, "top1_best_epoch": protocol in ("linear", "finetune")}
    require(has[metric], f"{where}.metric: {protocol} has no {metric}")
    return {name: measure[name] for name in MEASURE if name in measure}


def require_measured(where: str, config: Config, shares: Sequence[float], measures: Sequence[Measure]) -> None:
    """Refuse a measure that no row will have: it would be missed only when all is trained.

    Args:
        where: the variant.
        config: of its runs.
        shares: of the labels, with which its encoders are finetuned.
        measures: that are asked for.
    """
    options = config.evaluate
    for measure in measures:
        name, values, asked = {
            "retrieval": ("evaluate.neighbors", options.neighbors, 1),
            "knn": ("evaluate.neighbors", options.neighbors, measure.get("neighbors")),
            "early": ("evaluate.early", options.early, measure.get("seen")),
            "semi": ("evaluate.semi", options.semi, measure.get("labels")),
            "fewshot": ("evaluate.fewshot", options.fewshot, measure.get("labels")),
            "finetune": ("shares of the labels by finetune", shares, measure.get("labels")),
        }.get(measure["protocol"], ("", (), None))
        require(not name or asked in values, f"{where}: expected {name} with the measured {asked}, got {list(values)}")
        for kind in ("learned", "aimclr"):
            if measure["stream"].startswith(f"{kind}_"):
                require(
                    kind in options.fusion,
                    f"{where}: expected evaluate.fusion with {kind} for the measured {measure['stream']}, got "
                    f"{list(options.fusion)}",
                )
        if measure["protocol"] == "logistic":
            require(options.segments > 0, f"{where}: expected evaluate.segments > 0 for the measured logistic, got 0")
        if measure["protocol"] == "subject":
            require(options.subjects, f"{where}: expected evaluate.subjects for the measured subject, got false")


def read(measure: Measure, control: str | None, rows: Sequence[Row]) -> Reading:
    """Find a measure in the rows of a run.

    Args:
        measure: what is asked for.
        control: of the rows, if they are of one.
        rows: the trained stages in their order.

    Example:
        >>> row = {"protocol": "semi", "stage": "stage1", "stream": "joint", "part": "test", "control": None}
        >>> row |= {"classifier": "linear", "labels": 0.1}
        >>> rows = [row | {"draw": draw, "top1": top1} for draw, top1 in enumerate((0.25, 0.5))]
        >>> read(_measure("measure", {"protocol": "semi", "labels": 0.1}), None, rows)
        Reading(value=0.375, draws={'0': 0.25, '1': 0.5})
    """
    asked = {name: value for name, value in measure.items() if name not in ("stage", "stream", "metric")}
    rows = [
        row
        for row in rows
        if row["control"] == control and all(row.get(name) == value for name, value in asked.items())
    ]
    if control is None and rows:
        stage = rows[-1]["stage"] if measure["stage"] == LAST else measure["stage"]
        rows = [row for row in rows if row["stage"] == stage]
    stream = measure["stream"]
    if stream == FUSED or control == "raw":  # which has one stream only
        streams = list(dict.fromkeys(row["stream"] for row in rows))
        fused = sorted(each for each in streams if each.startswith("fused"))
        stream = fused[-1] if fused else streams[0] if len(streams) == 1 else None
    found = [row for row in rows if row["stream"] == stream and row.get(measure["metric"]) is not None]
    if not found:
        return Reading(None, None)
    values = [row[measure["metric"]] for row in found]
    if found[0].get("draw") is None:
        return Reading(values[0], None)
    return Reading(float(np.mean(values)), {str(row["draw"]): value for row, value in zip(found, values, strict=True)})


def title(measure: Measure) -> str:
    """Return what a measure is called.

    Example:
        >>> title(_measure("measure", {"protocol": "linear"}))
        'linear, last stage, fused, test: top1'
        >>> title(_measure("measure", {"protocol": "fewshot", "labels": 5, "stage": "student"}))
        'fewshot, linear, labels 5, student, fused, test: top1'
    """
    more = [f"{name} {measure[name]:g}" for name in ("neighbors", "seen", "labels") if name in measure]
    stage = "last stage" if measure["stage"] == LAST else measure["stage"]
    parts = [measure["protocol"], *([measure["classifier"]] if "classifier" in measure else []), *more]
    return f"{', '.join([*parts, stage, measure['stream'], measure['part']])}: {measure['metric']}"

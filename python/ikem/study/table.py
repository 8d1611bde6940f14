"""What came of a study: every seed's values, mean and deviation, paired differences; as JSON, table and plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from ikem.files import replacing, write_text
from ikem.report.plots import BLACK, BLUE, SKY
from ikem.study.plan import FUSED, LAST, Measure, Study, Variant
from ikem.study.progress import Progress

CONFIDENCE = 0.95
Value = float | None  # an accuracy as a fraction


def collect(study: Study, progress: Mapping[str, Progress], failures: Mapping[str, str]) -> dict[str, Any]:
    """Gather the values of all runs that are evaluated.

    Args:
        study: the study.
        progress: of each run, by its name.
        failures: why runs have failed, by their names.

    Returns:
        What ``study.json`` holds: ``runs`` with their digests, seconds, what they were made with and why they have no
        evaluation, if so; ``measures`` with the values of each variant, a list in the order of ``seeds``, and what
        follows from them.
    """
    runs, evaluations = [], {}
    for name, each in progress.items():
        evaluation = each.folder / "evaluation.json"
        found = json.loads(evaluation.read_text()) if each.is_finished("evaluate") else None
        evaluations[each.run.variant, each.run.config.seed] = found
        reason = failures.get(name, None if found else "it has no step evaluate")
        runs.append(
            {
                "variant": each.run.variant,
                "seed": each.run.config.seed,
                "missing": reason,
                "keys": {step: each.keys[step] for step in each.run.steps if step in each.seconds},
                "seconds": {step: each.seconds[step] for step in each.run.steps if step in each.seconds},
                "environment": found and found["environment"],
            }
        )
    measures = []
    for measure in study.measures:
        values = {
            variant.name: [_value(measure, variant, evaluations[variant.of, seed]) for seed in study.seeds]
            for variant in study.variants
        }
        summaries = {name: summary(found, values[study.reference]) for name, found in values.items()}
        summaries[study.reference]["difference"] = summaries[study.reference]["interval"] = None
        measures.append({"measure": measure, "variants": summaries})
    return {"reference": study.reference, "seeds": list(study.seeds), "runs": runs, "measures": measures}


def _value(measure: Measure, variant: Variant, evaluation: Mapping[str, Any] | None) -> Value:
    """Return what a measure is in an evaluation, or None where it has no such row."""
    if evaluation is None:
        return None
    asked = {name: value for name, value in measure.items() if name not in ("stage", "stream", "metric")}
    rows = [
        row
        for row in evaluation["rows"]
        if row["control"] == variant.control and all(row.get(name) == value for name, value in asked.items())
    ]
    if variant.control is None and rows:
        stage = rows[-1]["stage"] if measure["stage"] == LAST else measure["stage"]  # they are in the order of training
        rows = [row for row in rows if row["stage"] == stage]
    streams = list(dict.fromkeys(row["stream"] for row in rows))
    if measure["stream"] == FUSED or variant.control == "raw":  # which has one stream only
        fused = sorted(stream for stream in streams if stream.startswith("fused"))
        stream = fused[-1] if fused else streams[0] if len(streams) == 1 else None
    else:
        stream = measure["stream"]
    return next((row.get(measure["metric"]) for row in rows if row["stream"] == stream), None)


def summary(values: Sequence[Value], reference: Sequence[Value]) -> dict[str, Any]:
    """Return mean and deviation over seeds, and the paired difference to a reference with its interval.

    The interval is that of the paired t test (Student, 1908): over the n seeds that both have, mean difference plus or
    minus t(n - 1) times its standard error. One seed has neither deviation nor interval.

    Example:
        >>> found = summary([0.5, 0.7, None], [0.4, 0.5, 0.6])
        >>> [round(found[name], 3) for name in ("mean", "deviation", "difference")]
        [0.6, 0.141, 0.15]
        >>> [round(end, 2) for end in found["interval"]]
        [-0.49, 0.79]
    """
    known = [value for value in values if value is not None]
    paired = [a - b for a, b in zip(values, reference, strict=True) if a is not None and b is not None]
    mean, deviation = _moments(known)
    difference, spread = _moments(paired)
    interval = None
    if difference is not None and spread is not None:
        half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(paired) - 1)) * spread / len(paired) ** 0.5
        interval = [difference - half, difference + half]
    return {
        "values": list(values),
        "mean": mean,
        "deviation": deviation,
        "difference": difference,
        "interval": interval,
        "pairs": len(paired),
    }


def _moments(values: Sequence[float]) -> tuple[float | None, float | None]:
    mean = float(np.mean(values)) if values else None
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def title(measure: Measure) -> str:
    """Return what a measure is called.

    Example:
        >>> title({"protocol": "linear", "stage": "last", "stream": "fused", "part": "test", "metric": "top1"})
        'linear, last stage, fused, test: top1'
    """
    more = [f"{name} {measure[name]}" for name in ("neighbors", "seen") if name in measure]
    stage = "last stage" if measure["stage"] == LAST else measure["stage"]
    return f"{', '.join([measure['protocol'], *more, stage, measure['stream'], measure['part']])}: {measure['metric']}"


# ------------------------------------------------------------------------------------------------------- files


def write_results(out: Path, results: Mapping[str, Any]) -> None:
    """Write ``study.json``, ``study.md`` and ``study.png``."""
    write_text(out / "study.json", json.dumps(results, indent=1) + "\n")
    with replacing(out / "study.png") as temporary:
        plot(results).savefig(temporary, format="png", dpi=130)
    write_text(out / "study.md", markdown(results))


def markdown(results: Mapping[str, Any]) -> str:
    """Return the tables: one for each measure, accuracies in percent, and what is missing."""
    seeds, reference = results["seeds"], results["reference"]
    lines = [
        "# Study",
        "",
        f"Mean ± standard deviation over {len(seeds)} seeds ({', '.join(map(str, seeds))}); difference to "
        f"{reference}, paired by seed, with its 95 % interval (paired t). Accuracies in percent.",
    ]
    for item in results["measures"]:
        head = f"| variant | {item['measure']['metric']} | seeds | difference to {reference} | 95 % interval |"
        lines += ["", f"## {title(item['measure'])}", "", head, "|---|---|---|---|---|"]
        for name, found in item["variants"].items():
            known = sum(value is not None for value in found["values"])
            mean = "missing" if found["mean"] is None else f"{100 * found['mean']:.2f}"
            spread = "" if found["deviation"] is None else f" ± {100 * found['deviation']:.2f}"
            difference = "" if found["difference"] is None else f"{100 * found['difference']:+.2f}"
            interval = ""
            if found["interval"]:
                interval = "[{:+.2f}, {:+.2f}]".format(*(100 * end for end in found["interval"]))
            lines.append(f"| {name} | {mean}{spread} | {known} of {len(seeds)} | {difference} | {interval} |")
    missing = [run for run in results["runs"] if run["missing"]]
    if missing:
        lines += ["", "## Missing", ""]
        lines += [f"- {run['variant']}, seed {run['seed']}: {run['missing']}" for run in missing]
    return "\n".join([*lines, "", "![Values of every seed, and their means](study.png)", ""])


def plot(results: Mapping[str, Any]) -> Figure:
    """Return a figure of every seed's value (dots), the means (bars) and their standard deviations (whiskers)."""
    measures = results["measures"]
    names = list(measures[0]["variants"])
    height = 0.8 + 0.35 * len(names)
    figure = Figure(figsize=(7, height * len(measures)), layout="constrained")
    for axes, item in zip(figure.subplots(len(measures), squeeze=False)[:, 0], measures, strict=True):
        for place, found in enumerate(item["variants"].values()):
            values = [100 * value for value in found["values"] if value is not None]
            if values:
                color = BLUE if names[place] == results["reference"] else SKY
                axes.barh(place, 100 * found["mean"], 0.6, xerr=100 * (found["deviation"] or 0), color=color)
                axes.plot(values, [place] * len(values), "o", color=BLACK, markersize=3)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(title(item["measure"]), fontsize=9, loc="left")
        axes.set_xlabel("%", fontsize=9)
        axes.tick_params(labelsize=8)
    return figure

"""What came of a study: every seed's values, mean and deviation, paired differences; as JSON and table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from ikem.files import replacing, write_text
from ikem.study.measures import read, title
from ikem.study.picture import draw
from ikem.study.plan import Run, Study
from ikem.study.progress import Progress, result_files

CONFIDENCE = 0.95
Value = float | None  # an accuracy as a fraction


def collect(study: Study, runs: Sequence[Run], failures: Mapping[str, str]) -> dict[str, Any]:
    """Gather the values of all runs, of as many of their steps as are finished.

    Args:
        study: the study.
        runs: all of them.
        failures: why runs have failed, by their names.

    Returns:
        What ``study.json`` holds: ``runs`` with, of each finished step, digest, seconds, whose results it took over and
        what it was made with, and why some are not finished, if so; ``measures`` with the values of each variant, a
        list in the order of ``seeds``, what follows from them, and the single draws of labelled clips.
    """
    described, rows = [], {}
    for run in runs:
        progress = Progress(run)
        found = {step: _contents(run, step) for step in progress.finished}
        rows[run.variant, run.config.seed] = [row for each in found.values() for part in each for row in part["rows"]]
        described.append(
            {
                "variant": run.variant,
                "seed": run.config.seed,
                "missing": failures.get(run.name),
                "keys": {step: progress.steps[step]["key"] for step in found},
                "seconds": {step: progress.steps[step]["seconds"] for step in found},
                "taken_over": {step: other for step in found if (other := progress.steps[step]["taken_over"])},
                "environments": {step: each[0]["environment"] for step, each in found.items() if each},
            }
        )
    measures = []
    for measure in study.measures:
        readings = {
            variant.name: [read(measure, variant.reads, rows[variant.of, seed]) for seed in study.seeds]
            for variant in study.variants
        }
        values = {name: [reading.value for reading in found] for name, found in readings.items()}
        summaries = {name: summary(found, values[study.reference]) for name, found in values.items()}
        summaries[study.reference]["difference"] = summaries[study.reference]["interval"] = None
        if any(reading.draws for found in readings.values() for reading in found):
            for name, each in readings.items():
                summaries[name]["draws"] = [reading.draws for reading in each]
        measures.append({"measure": measure, "variants": summaries})
    return {
        "reference": study.reference,
        "controls": {variant.name: variant.control for variant in study.variants if variant.control},
        "seeds": list(study.seeds),
        "runs": described,
        "measures": measures,
    }


def shown(results: Mapping[str, Any], measure: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to be shown of a measure: all variants, but controls only where they have such rows."""
    return {
        name: found
        for name, found in measure["variants"].items()
        if found["mean"] is not None or name not in results["controls"]
    }


def _contents(run: Run, step: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in result_files(run, step)]


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


# ------------------------------------------------------------------------------------------------------- files


def write_results(out: Path, results: Mapping[str, Any]) -> None:
    """Write ``study.json``, ``study.md`` and ``study.png``."""
    write_text(out / "study.json", json.dumps(results, indent=1) + "\n")
    with replacing(out / "study.png") as temporary:
        _figure(results).savefig(temporary, format="png", dpi=130)
    write_text(out / "study.md", markdown(results))


def _figure(results: Mapping[str, Any]) -> Figure:
    panels = {title(item["measure"]): shown(results, item) for item in results["measures"]}
    return draw(panels, results["reference"])


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
        for name, found in shown(results, item).items():
            known = sum(value is not None for value in found["values"])
            mean = "none" if found["mean"] is None else f"{100 * found['mean']:.2f}"
            spread = "" if found["deviation"] is None else f" ± {100 * found['deviation']:.2f}"
            difference = "" if found["difference"] is None else f"{100 * found['difference']:+.2f}"
            interval = ""
            if found["interval"]:
                interval = "[{:+.2f}, {:+.2f}]".format(*(100 * end for end in found["interval"]))
            lines.append(f"| {name} | {mean}{spread} | {known} of {len(seeds)} | {difference} | {interval} |")
    missing = [f"{run['variant']}, seed {run['seed']}: {run['missing']}" for run in results["runs"] if run["missing"]]
    for item in results["measures"]:
        if all(found["mean"] is None for found in item["variants"].values()):
            missing.append(f"{title(item['measure'])}: no run has such a row")
    if missing:
        lines += ["", "## Missing", "", *(f"- {what}" for what in missing)]
    caption = "Every seed, means with their deviations, and differences with their intervals"
    return "\n".join([*lines, "", f"![{caption}](study.png)", ""])

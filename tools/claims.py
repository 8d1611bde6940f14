"""What studies of several data sets say of the method's claims: tables, and a picture with a panel for each claim.

    python tools/claims.py results/claims --table results/README.md

reads `results/claims/*.json`, each the `study.json` of a data set's study (results/studies), writes `claims.png` beside
them and renews the tables between the marks in the page: the numbers, and the claims. A claim is the difference between
two numbers of the same seed, in points of accuracy, with the 95 % interval of the paired t test over the seeds. A
study in folds has the mean of its folds for each seed; with one seed alone that has them all, the folds stand in the
place of seeds. Where a study does not ask for what is shown, its place is empty.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ikem.files import replacing
from ikem.report.plots.style import BLACK, BLUE, FONT_SIZE
from ikem.study.table import summary
from ikem_ext.bench import report

MARKS = "<!-- claims: begin -->", "<!-- claims: end -->"


class Number(NamedTuple):
    """What a study says of one of its variants.

    Attributes:
        variant: its name.
        protocol: of the measure.
        stream: of the measure.
        labels: of the measure: the share of the training labels, where that is part of it.
    """

    variant: str
    protocol: str = "linear"
    stream: str = "fused"
    labels: float | None = None


class Claim(NamedTuple):
    """That the first number is higher than the second."""

    title: str
    first: Number
    second: Number


NUMBERS = {
    "raw coordinates, ridge": Number("coordinates"),
    "random weights, six": Number("random-weights"),
    "random weights, six by learned weights": Number("random-weights", stream="learned_fused6"),
    "contrast alone, three": Number("contrast-alone", stream="fused3"),
    "contrast alone, six": Number("contrast-alone"),
    "with exchange, three": Number("whole", stream="fused3"),
    "with exchange, six": Number("whole"),
    "with exchange, six by learned weights": Number("whole", stream="learned_fused6"),
    "student of three": Number("student"),
    "student of three by learned weights": Number("student", stream="learned_fused3"),
    "1-NN: raw coordinates": Number("coordinates", "retrieval"),
    "1-NN: random weights, six": Number("random-weights", "retrieval"),
    "1-NN: with exchange, three": Number("whole", "retrieval", "fused3"),
    "1-NN: with exchange, six": Number("whole", "retrieval"),
    "1-NN: student of three": Number("student", "retrieval"),
    "10 % of the labels: raw coordinates, ridge": Number("coordinates", "semi", labels=0.1),
    "10 % of the labels, three, frozen": Number("whole", "semi", "fused3", 0.1),
    "10 % of the labels, three, from scratch": Number("from-scratch", "finetune", labels=0.1),
    "10 % of the labels, three, finetuned": Number("finetuned", "finetune", labels=0.1),
    "the same, 50 short epochs, from scratch": Number("from-scratch-few-steps", "finetune", labels=0.1),
    "the same, 50 short epochs, finetuned": Number("finetuned-few-steps", "finetune", labels=0.1),
    "all labels, three, from scratch": Number("from-scratch", "finetune", labels=1.0),
    "all labels, three, finetuned": Number("finetuned", "finetune", labels=1.0),
}

CLAIMS = (
    Claim("pretraining - random weights, linear", Number("whole"), Number("random-weights")),
    Claim(
        "pretraining - random weights, weights learned",
        Number("whole", stream="learned_fused6"),
        Number("random-weights", stream="learned_fused6"),
    ),
    Claim("pretraining - random weights, 1-NN", Number("whole", "retrieval"), Number("random-weights", "retrieval")),
    Claim("pretraining - raw coordinates, linear", Number("whole"), Number("coordinates")),
    Claim("pretraining - raw coordinates, 1-NN", Number("whole", "retrieval"), Number("coordinates", "retrieval")),
    Claim(
        "pretraining of three - raw coordinates, 1-NN",
        Number("whole", "retrieval", "fused3"),
        Number("coordinates", "retrieval"),
    ),
    Claim("exchange - as many epochs of contrast", Number("whole"), Number("contrast-alone")),
    Claim("six - three, features joined", Number("whole"), Number("whole", stream="fused3")),
    Claim(
        "six - three, weights learned",
        Number("whole", stream="learned_fused6"),
        Number("whole", stream="learned_fused3"),
    ),
    Claim("student of three - its teacher's six", Number("student"), Number("whole")),
    Claim("student of three - its teacher's three", Number("student"), Number("whole", stream="fused3")),
    Claim("student of three - without a teacher", Number("student"), Number("contrast-alone", stream="fused3")),
    Claim(
        "10 % of the labels: finetuned - from scratch",
        Number("finetuned", "finetune", labels=0.1),
        Number("from-scratch", "finetune", labels=0.1),
    ),
    Claim(
        "10 % of the labels: finetuned - raw coordinates",
        Number("finetuned", "finetune", labels=0.1),
        Number("coordinates", "semi", labels=0.1),
    ),
    Claim(
        "all labels: finetuned - from scratch",
        Number("finetuned", "finetune", labels=1.0),
        Number("from-scratch", "finetune", labels=1.0),
    ),
)


#: By fold, "" where there are none, and place of the seed.
Values = dict[tuple[str, int], float]


def values(study: Mapping[str, Any], number: Number) -> Values:
    """Return a number of every seed, and of every fold, where the variant has folds: NAME-fold1 and so on."""
    found = {}
    for item in study["measures"]:
        measure = item["measure"]
        of = Number(number.variant, measure["protocol"], measure["stream"], measure.get("labels"))
        if of == number and measure["part"] == "test":
            for name, variant in item["variants"].items():
                if match := re.fullmatch(rf"{number.variant}(-fold\d+)?", name):
                    found |= {(match[1] or "", seed): value for seed, value in enumerate(variant["values"])}
    return {place: value for place, value in found.items() if value is not None}


def repeated(found: Values) -> tuple[list[float], str]:
    """Return means over the folds of each seed that has them all; with one alone, of each fold over its seeds.

    Returns:
        The means, and of what each of them is: "seed" or "fold".

    Example:
        >>> repeated({("-fold1", 0): 0.5, ("-fold2", 0): 1.0, ("-fold1", 1): 0.5, ("-fold2", 1): 0.5})
        ([0.75, 0.5], 'seed')
        >>> repeated({("-fold1", 0): 0.5, ("-fold2", 0): 1.0, ("-fold1", 1): 1.0})
        ([0.75, 1.0], 'fold')
    """
    folds, seeds = ({place[axis]: None for place in found} for axis in (0, 1))
    whole = [seed for seed in seeds if all((fold, seed) in found for fold in folds)]
    if len(whole) > 1 or len(folds) < 2:
        return [statistics.mean(found[fold, seed] for fold in folds) for seed in whole], "seed"
    by_fold = [[found[fold, seed] for seed in seeds if (fold, seed) in found] for fold in folds]
    return list(map(statistics.mean, by_fold)), "fold"


def difference(study: Mapping[str, Any], claim: Claim) -> dict[str, Any] | None:
    """Return what `ikem.study.table.summary` says of a claim's difference, each of the ``differences`` that it is the
    mean of, and what those are ``of``: "seed" or "fold". None where no seed has both numbers.

    Example:
        >>> measure = {"protocol": "linear", "stream": "fused", "part": "test"}
        >>> variants = {"whole": {"values": [0.9, 0.8]}, "random-weights": {"values": [0.7, 0.7]}}
        >>> round(difference({"measures": [{"measure": measure, "variants": variants}]}, CLAIMS[0])["difference"], 3)
        0.15
    """
    first, second = values(study, claim.first), values(study, claim.second)
    both = [place for place in first if place in second]
    if not both:
        return None
    (a, of), (b, _) = (repeated({place: each[place] for place in both}) for each in (first, second))
    return summary(a, b) | {"differences": [x - y for x, y in zip(a, b, strict=True)], "of": of}


def numbers_table(studies: Mapping[str, Mapping[str, Any]]) -> str:
    """Return accuracies in percent: a row for each number, a column for each data set."""
    cells = {
        title: [_number(*repeated(values(study, number)), _seeds(study)) for study in studies.values()]
        for title, number in NUMBERS.items()
    }
    return _table("in %, mean and deviation over seeds", studies, cells)


def claims_table(studies: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the differences in points: a row for each claim, a column for each data set."""
    cells = {
        claim.title: [_cell(difference(study, claim), _seeds(study)) for study in studies.values()] for claim in CLAIMS
    }
    return _table("in points, mean over seeds, or folds of one, and 95 % interval", studies, cells)


def _seeds(study: Mapping[str, Any]) -> int:
    return max(len(variant["values"]) for item in study["measures"] for variant in item["variants"].values())


def _table(head: str, studies: Mapping[str, Any], cells: Mapping[str, Sequence[str]]) -> str:
    lines = [f"| {head} | {' | '.join(studies)} |", "| --- |" + " ---: |" * len(studies)]
    lines += [f"| {title} | {' | '.join(row)} |" for title, row in cells.items() if any(row)]
    return "\n".join(lines)


def _number(found: Sequence[float], of: str, seeds: int) -> str:
    if not found:
        return ""
    if of == "fold":
        spread = f" ({len(found)} folds)"
    else:
        spread = f" ± {100 * statistics.stdev(found):.1f}" if len(found) > 1 else " (one seed)"
    return f"{100 * statistics.mean(found):.1f}{spread}{_some(found, of, seeds)}"


def _some(found: Sequence[float], of: str, seeds: int) -> str:
    """Say of how many seeds something is, where that is more than one and not all."""
    return f" ({len(found)} seeds)" if of == "seed" and 1 < len(found) < seeds else ""


def _cell(found: Mapping[str, Any] | None, seeds: int) -> str:
    if found is None:
        return ""
    text = f"{100 * found['difference']:+.1f}"
    if found["interval"] is None:
        return f"{text} (one seed)"
    low, high = found["interval"]
    text += f" ± {50 * (high - low):.1f}"
    if low > 0 or high < 0:
        text = f"**{text}**"
    differences = found["differences"]
    return f"{text} ({len(differences)} folds)" if found["of"] == "fold" else text + _some(differences, "seed", seeds)


def picture(studies: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Return a figure with a panel for each claim: every seed's, or fold's, difference, their mean and its interval."""
    columns = 2
    rows = -(-len(CLAIMS) // columns)
    figure = Figure(figsize=(10, rows * (0.26 * len(studies) + 0.75)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes in panels[len(CLAIMS) :]:
        axes.set_axis_off()
    for axes, claim in zip(panels, CLAIMS, strict=False):
        for place, study in enumerate(studies.values()):
            if (found := difference(study, claim)) is not None:
                _draw(axes, place, found)
        axes.axvline(0, color=BLACK, linewidth=0.8)
        axes.set_title(claim.title, fontsize=FONT_SIZE, loc="left")
        axes.set_xlabel("points", fontsize=FONT_SIZE)
        axes.set_yticks(range(len(studies)), list(studies), fontsize=FONT_SIZE)
        axes.set_ylim(len(studies) - 0.5, -0.5)
        axes.tick_params(labelsize=FONT_SIZE)
    return figure


def _draw(axes: Axes, place: int, found: Mapping[str, Any]) -> None:
    single = [100 * value for value in found["differences"]]
    axes.plot(single, [place] * len(single), "o", color=BLUE, alpha=0.45)
    low, high = found["interval"] or (found["difference"], found["difference"])
    half = 50 * (high - low)
    axes.errorbar(100 * found["difference"], place, xerr=half, fmt="D", color=BLACK, capsize=3, markersize=5)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the studies, write the picture, and renew the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with the studies' JSON files, named as their data sets")
    parser.add_argument("--table", type=Path, help="a page with the marks between which the tables are renewed")
    options = parser.parse_args(arguments)
    studies = {path.stem: json.loads(path.read_text()) for path in sorted(options.folder.glob("*.json"))}
    if not studies:
        parser.error(f"folder: expected *.json of studies in {options.folder}, got none")
    with replacing(options.folder / "claims.png") as temporary:
        picture(studies).savefig(temporary, format="png", dpi=110)
    if options.table is not None:
        try:
            report.refresh(options.table, f"{numbers_table(studies)}\n\n{claims_table(studies)}", MARKS)
        except ValueError as error:
            parser.error(f"--table: {error}")


if __name__ == "__main__":
    main()

"""The picture of a study: what every seed gave, and how far variants differ from the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ikem.report.plots import BLACK, BLUE, FONT_SIZE, GREY
from ikem.study.measures import title

Found = Mapping[str, Any]  # of one variant, as `ikem.study.table.summary` has it


def draw(results: Mapping[str, Any]) -> Figure:
    """Return a figure with two panels for each measure.

    On the left every seed's value (dots), the means (diamonds) and their standard deviations (whiskers); on the right
    the paired differences to the reference with their 95 % intervals.
    """
    measures, reference = results["measures"], results["reference"]
    names = list(measures[0]["variants"])
    height = 0.28 * len(names) + 0.85
    figure = Figure(figsize=(9, height * len(measures)), layout="constrained")
    for row, item in zip(figure.subplots(len(measures), 2, squeeze=False), measures, strict=True):
        left, right = row
        for place, (name, found) in enumerate(item["variants"].items()):
            color = BLACK if name == reference else BLUE
            _draw_values(left, place, found, color)
            _draw_difference(right, place, found, color)
        left.set_title(title(item["measure"]), fontsize=FONT_SIZE, loc="left")
        left.set_xlabel("%", fontsize=FONT_SIZE)
        right.set_title(f"difference to {reference}, 95 % interval", fontsize=FONT_SIZE, loc="left")
        right.set_xlabel("points", fontsize=FONT_SIZE)
        right.axvline(0, color=BLACK, linewidth=0.8)
        _tidy(left, names)
        _tidy(right, [""] * len(names))
    return figure


def _draw_values(axes: Axes, place: int, found: Found, color: str) -> None:
    values = [100 * value for value in found["values"] if value is not None]
    if values:
        axes.plot(values, [place] * len(values), "o", color=color, markersize=4, alpha=0.45, markeredgewidth=0)
        _draw_whisker(axes, place, found["mean"], found["deviation"] or 0.0, color)


def _draw_difference(axes: Axes, place: int, found: Found, color: str) -> None:
    if found["difference"] is not None:
        low, high = found["interval"] or (found["difference"], found["difference"])
        _draw_whisker(axes, place, found["difference"], (high - low) / 2, color)


def _draw_whisker(axes: Axes, place: int, middle: float, half: float, color: str) -> None:
    axes.errorbar(100 * middle, place, xerr=100 * half, fmt="D", markersize=5, color=color, capsize=3, linewidth=1.3)


def _tidy(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.grid(axis="x", color=GREY, linewidth=0.4)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=FONT_SIZE)

"""The picture of a study: what every seed gave, and how far variants differ from the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ikem.report.plots.style import BLACK, BLUE, FONT_SIZE, GREY

Found = Mapping[str, Any]  # what `ikem.study.table.summary` says of one variant


def draw(measures: Mapping[str, Mapping[str, Found]], reference: str) -> Figure:
    """Return a figure with two panels for each measure.

    On the left every seed's value (dots), the means (diamonds) and their standard deviations (whiskers); on the right
    the paired differences to the reference with their 95 % intervals.

    Args:
        measures: title -> variant -> what `ikem.study.table.summary` says of it.
        reference: the variant that the others are compared with.
    """
    heights = [0.28 * len(variants) + 0.85 for variants in measures.values()]
    figure = Figure(figsize=(9, sum(heights)), layout="constrained")
    grid = figure.subplots(len(measures), 2, squeeze=False, height_ratios=heights)
    for (left, right), (title, variants) in zip(grid, measures.items(), strict=True):
        for place, (name, found) in enumerate(variants.items()):
            color = BLACK if name == reference else BLUE
            _draw_values(left, place, found, color)
            _draw_difference(right, place, found, color)
        left.set_title(title, fontsize=FONT_SIZE, loc="left")
        left.set_xlabel("%", fontsize=FONT_SIZE)
        right.set_title(f"difference to {reference}, 95 % interval", fontsize=FONT_SIZE, loc="left")
        right.set_xlabel("points", fontsize=FONT_SIZE)
        right.axvline(0, color=BLACK, linewidth=0.8)
        _tidy(left, list(variants))
        _tidy(right, [""] * len(variants))
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

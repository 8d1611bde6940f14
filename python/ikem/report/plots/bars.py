"""Accuracies beside each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ikem.evaluation.scores import number_of
from ikem.report.plots.style import (
    BLACK,
    FONT_SIZE,
    STAGE_COLORS,
    STAGE_NAMES,
    VERMILION,
    new_figure,
    stream_name,
    tidy,
)
from ikem_ext import MODALITIES


def accuracies(rows: Sequence[Mapping[str, Any]], *, chance: float) -> Figure:
    """Top-1 accuracies of every probe, per stream and stage.

    Args:
        rows: the accuracies of one part of the test set, by stream.
        chance: accuracy of guessing. All accuracies are fractions.
    """
    stages = [stage for stage in STAGE_NAMES if stage != "raw" and any(row["stage"] == stage for row in rows)]
    streams = [s for s in (*MODALITIES, "fused3", "fused6") if any(row["stream"] == s for row in rows)]
    possible: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
        "linear probe": lambda row: number_of(row["linear"]),
        "retrieval (1-NN)": lambda row: row["neighbors"].get(1),
        "logistic regression": lambda row: number_of(row["logistic"]),
    }
    measures = {name: measure for name, measure in possible.items() if any(measure(row) is not None for row in rows)}
    figure = new_figure(1.5 * len(streams) + 2, 3 * len(measures) + 0.4)
    handles: dict[str, Any] = {}
    for place, (name, measure) in enumerate(measures.items()):
        axes = figure.add_subplot(len(measures), 1, place + 1)
        width = 0.8 / max(len(stages), 1)
        for offset, stage in enumerate(stages):
            values = {row["stream"]: measure(row) for row in rows if row["stage"] == stage}
            at = [(i, 100 * value) for i, s in enumerate(streams) if (value := values.get(s)) is not None]
            if at:
                x = np.array([i for i, _ in at]) + (offset - (len(stages) - 1) / 2) * width
                bars = axes.bar(x, [v for _, v in at], 0.92 * width, color=STAGE_COLORS[stage])
                outline = [withStroke(linewidth=2.5, foreground="white")]  # readable where a line crosses
                axes.bar_label(bars, fmt="%.0f", fontsize=FONT_SIZE - 2, padding=1, path_effects=outline, zorder=4)
                handles[STAGE_NAMES[stage]] = bars
        raw = [measure(row) for row in rows if row["stage"] == "raw"]
        for value in raw:
            if value is not None:
                handles["raw coordinates"] = axes.axhline(100 * value, color=BLACK, linestyle="--", linewidth=1.1)
        handles["guessing"] = axes.axhline(100 * chance, color=VERMILION, linestyle=":", linewidth=1.2)
        axes.set_xticks(
            range(len(streams)), [stream_name(s).replace(" ", "\n", 1) for s in streams], fontsize=FONT_SIZE
        )
        axes.set_ylim(0, 105)
        axes.set_title(f"{name}: top-1 accuracy (%)", fontsize=FONT_SIZE + 2, loc="left")
        tidy(axes)
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=6, fontsize=FONT_SIZE, frameon=False
    )
    return figure

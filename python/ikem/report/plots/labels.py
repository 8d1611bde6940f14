"""Accuracies by how many clips are labelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ikem.evaluation.scores import Spread
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

LABELS_TITLES = {
    "semi": "labelled training clips (%)",
    "fewshot": "labelled clips of each class",
    "finetune": "labelled training clips (%)",
}
CLASSIFIERS = {"linear": "linear probe", "retrieval": "retrieval (1-NN)", "finetune": "finetuned"}


def few_labels(
    curves: Mapping[str, Mapping[tuple[str, str], Mapping[float, Spread]]], *, chance: float, stream: str
) -> Figure:
    """Top-1 accuracies by the number of labels: means of the draws, and one standard deviation to each side.

    Args:
        curves: for ``semi``, ``fewshot`` and ``finetune``, whichever there are: by stage and classifier the accuracies
            by labels.
        chance: accuracy of guessing. All accuracies are fractions.
        stream: which the trained stages' curves are of.
    """
    classifiers = [each for each in CLASSIFIERS if any(each == how for found in curves.values() for _, how in found)]
    figure = new_figure(4.8 * max(len(classifiers), 2), 3.3 * len(curves) + 0.5)
    handles: dict[str, Any] = {}
    panels = [(protocol, classifier) for protocol in curves for classifier in classifiers]
    for place, (protocol, classifier) in enumerate(panels):
        axes = figure.add_subplot(len(curves), len(classifiers), place + 1)
        chosen = {stage: at for (stage, how), at in curves[protocol].items() if how == classifier}
        factor = 1 if protocol == "fewshot" else 100
        amounts = sorted({factor * labels for at in chosen.values() for labels in at})
        for offset, (stage, at) in enumerate(chosen.items()):
            # Side by side, so that the bars of one stage do not hide those of another.
            x = factor * np.array(list(at)) * 1.03 ** (offset - (len(chosen) - 1) / 2)
            mean, deviation = (100 * np.array([spread[i] or 0 for spread in at.values()]) for i in (0, 1))
            color, style = (BLACK, "--") if stage == "raw" else (STAGE_COLORS[stage], "-")
            handles[STAGE_NAMES[stage] + (", ridge" if stage == "raw" else "")] = axes.errorbar(
                x,
                mean,
                deviation,
                color=color,
                linestyle=style,
                marker="o",
                markersize=4,
                linewidth=1.5,
                elinewidth=1,
                capsize=2.5,
            )
        handles["guessing"] = axes.axhline(100 * chance, color=VERMILION, linestyle=":", linewidth=1.2)
        axes.set_xscale("log")
        axes.set_xticks(amounts, [f"{amount:g}" for amount in amounts])
        axes.set_xticks([], minor=True)
        axes.set_ylim(0, 105)
        title = f"{CLASSIFIERS[classifier]}, {stream_name(stream)}: top-1 accuracy (%)"
        axes.set_title(title, fontsize=FONT_SIZE + 1, loc="left")
        tidy(axes, xlabel=LABELS_TITLES[protocol])
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=3, fontsize=FONT_SIZE, frameon=False
    )
    return figure

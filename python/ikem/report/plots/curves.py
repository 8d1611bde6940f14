"""Trainings over their epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ikem.report.plots.style import BLACK, FONT_SIZE, MODALITY_COLORS, Array, new_figure, stream_name, tidy


def training(curves: Mapping[str, Mapping[str, Array]], exchange_epoch: int | None) -> Figure:
    """Losses, contrastive accuracies and, where the training was watched, what the features were worth by epoch.

    Of what was watched, a star marks each modality's best epoch.

    Args:
        curves: for ``pretrain`` and, where it took place, ``distill``: the columns of their metrics by name,
            each (epochs,) with NaN where a quantity was not measured.
        exchange_epoch: the first epoch of stage 2, or None without one.
    """
    panels = [
        (command, prefix, label)
        for command, prefix, label in (
            ("pretrain", "loss/", "loss"),
            ("pretrain", "accuracy/", "contrastive accuracy (%)"),
            ("pretrain", "explicit/", "explicit exchange loss"),
            ("pretrain", "implicit/", "implicit exchange loss"),
            ("pretrain", "held_out_retrieval/", "retrieval, held-out (%)"),
            ("pretrain", "rankme/", "RankMe"),
            ("distill", "loss/", "loss"),
            ("distill", "held_out_retrieval/", "retrieval, held-out (%)"),
            ("distill", "rankme/", "RankMe"),
        )
        if any(name.startswith(prefix) for name in curves.get(command, {}))
    ]
    columns = min(3, max(len(panels), 1))
    rows = -(-max(len(panels), 1) // columns)
    figure = new_figure(4.6 * columns, 3.3 * rows + 0.5)
    handles: dict[str, Any] = {}
    for place, (command, prefix, label) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, place + 1)
        factor = 100 if prefix in ("accuracy/", "held_out_retrieval/") else 1
        for modality, color in MODALITY_COLORS.items():
            values = curves[command].get(prefix + modality)
            if values is not None:
                measured = np.isfinite(values)
                epochs, values = curves[command]["epoch"][measured], factor * values[measured]
                (line,) = axes.plot(epochs, values, color=color, linewidth=1.5)
                handles.setdefault(stream_name(modality), line)
                if prefix in ("held_out_retrieval/", "rankme/"):
                    best = values.argmax()
                    axes.plot(epochs[best], values[best], color=color, marker="*", markersize=9, clip_on=False)
        if command == "pretrain" and exchange_epoch is not None:
            handles["start of stage 2"] = axes.axvline(exchange_epoch, color=BLACK, linestyle=":", linewidth=1.2)
        axes.set_title(f"{command}: {label}", fontsize=FONT_SIZE + 1, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        tidy(axes, xlabel="epoch")
    if handles:
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=7,
            fontsize=FONT_SIZE,
            frameon=False,
        )
    return figure

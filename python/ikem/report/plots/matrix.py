"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ikem.report.plots.style import BLACK, FONT_SIZE, Array, new_figure


def confusion(counts: Array, classes: Sequence[str], *, title: str) -> Figure:
    """A confusion matrix, each row scaled to 100 %; numbers are written where there is room."""
    number = len(classes)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = float(np.clip(2.6 + 0.36 * number, 5, 17))
    figure = new_figure(size + 0.9, size)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    font = float(np.clip(230 / number, 4, FONT_SIZE))
    axes.set_xticks(range(number), classes, rotation=90, fontsize=font)
    axes.set_yticks(range(number), classes, fontsize=font)
    axes.set_xlabel("predicted", fontsize=FONT_SIZE + 1)
    axes.set_ylabel("true", fontsize=FONT_SIZE + 1)
    axes.set_title(title, fontsize=FONT_SIZE + 2)
    if number <= 30:
        for row, column in zip(*np.nonzero(shares >= 0.5), strict=True):
            share = shares[row, column]
            axes.text(
                column, row, f"{share:.0f}", ha="center", va="center", fontsize=FONT_SIZE - 2,
                color="white" if share > 50 else BLACK,
            )  # fmt: skip
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02)
    bar.set_label("share of the true class (%)", fontsize=FONT_SIZE)
    bar.ax.tick_params(labelsize=FONT_SIZE - 1)
    return figure

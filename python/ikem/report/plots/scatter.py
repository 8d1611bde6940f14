"""Features in two dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from ikem.report.plots.style import BLACK, BLUE, FONT_SIZE, GREEN, ORANGE, PURPLE, SKY, VERMILION, Array, new_figure


def embeddings(features: Mapping[str, Array], labels: Array, classes: Sequence[str], *, limit: int = 2000) -> Figure:
    """Features of test clips in two dimensions (t-SNE), one panel per encoder, colored by class.

    Args:
        features: title of the panel -> (N, D).
        labels: (N,), indices into ``classes``.
        classes: their names.
        limit: at most so many clips are drawn, evenly spread over the test clips.
    """
    chosen = np.unique(np.linspace(0, len(labels) - 1, min(limit, len(labels))).round().astype(int))
    labels = np.asarray(labels)[chosen]
    figure = new_figure(5.2 * len(features) + 1.6, 5.4)
    styles = [
        (color, marker) for marker in "o^sDvP*X" for color in (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK)
    ]
    for place, (title, values) in enumerate(features.items()):
        axes = figure.add_subplot(1, len(features), place + 1)
        points = _in_two_dimensions(np.asarray(values)[chosen])
        for label, name in enumerate(classes):
            color, marker = styles[label % len(styles)]
            x, y = points[labels == label].T
            axes.scatter(x, y, s=20, color=color, marker=marker, label=name, alpha=0.85, linewidths=0)
        axes.set_title(title, fontsize=FONT_SIZE + 2)
        axes.set_xticks([])
        axes.set_yticks([])
    if len(classes) <= 40:
        handles, names = axes.get_legend_handles_labels()
        figure.legend(
            handles, names, loc="outside right center", fontsize=FONT_SIZE, frameon=False, ncols=-(-len(names) // 20)
        )
    return figure


def _in_two_dimensions(features: Array) -> Array:
    """Standardizes, keeps the 50 strongest principal components and lays them out by t-SNE."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    scaled = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-9)
    few = PCA(min(50, *scaled.shape), random_state=0).fit_transform(scaled)
    perplexity = min(30.0, max((len(few) - 1) / 3, 1.0))
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(few)

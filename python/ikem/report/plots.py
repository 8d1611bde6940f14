"""Pictures of skeletons, of training and of results. Every function returns a matplotlib figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ikem.evaluation.scores import Spread, number_of
from ikem_ext import MODALITIES, derive_modalities
from ikem_ext.skeleton import SkeletonLayout

__all__ = [
    "accuracies",
    "confusion",
    "draw_skeleton",
    "embeddings",
    "few_labels",
    "modalities",
    "side_color",
    "stream_name",
    "training",
]

Array = NDArray[Any]

# Okabe and Ito's palette, which people with any kind of color vision can tell apart.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#222222",
)
GREY = "#B5B5B5"
MODALITY_COLORS = dict(zip(MODALITIES, (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY), strict=True))
MODALITY_TITLES = {
    "joint": "joint: where it is",
    "motion": "motion: its velocity",
    "bone": "bone: vector from its parent",
    "acceleration": "acceleration: change of motion",
    "rotation_axis": "rotation axis: normal of the angle between bones",
    "angular_velocity": "angular velocity: change of the angle, about its axis",
}
STAGE_COLORS = {
    "raw": GREY,
    "random": "#8C8C8C",
    "supervised": BLACK,
    "stage1": SKY,
    "stage2": BLUE,
    "student": ORANGE,
    "exported": GREEN,
    "published": PURPLE,
    "finetuned": VERMILION,
}
STAGE_NAMES = {
    "raw": "raw coordinates",
    "random": "randomly initialized",
    "supervised": "supervised, from random weights",
    "stage1": "after stage 1 (contrast)",
    "stage2": "after stage 2 (exchange)",
    "student": "student (distilled)",
    "exported": "exported encoders",
    "published": "published encoders",
    "finetuned": "finetuned encoders",
}
STRENGTH_COLORS = ("#dcdcdc", "#9ecae1", "#3f8fc4", "#2b4f9e", "#2d0b59")  # of lengths, on white: darker is longer
FONT_SIZE = 9


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))


def _tidy(axes: Axes, **labels: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=FONT_SIZE - 1)
    axes.set(**labels)
    axes.xaxis.label.set_fontsize(FONT_SIZE)


def stream_name(stream: str) -> str:
    """How a stream is called in tables and pictures.

    Example:
        >>> stream_name("late_fused6"), stream_name("rotation_axis")
        ('fused six (late)', 'rotation axis')
        >>> stream_name("learned_fused3"), stream_name("aimclr_fused3")
        ('fused three (learned weights)', "fused three (AimCLR's weights)")
    """
    names = {"fused3": "fused three", "fused6": "fused six"}
    fusions = {"late": "late", "learned": "learned weights", "aimclr": "AimCLR's weights"}
    how, _, fused = stream.partition("_")
    if how in fusions:
        return f"{names.get(fused, fused)} ({fusions[how]})"
    return names.get(stream, stream.replace("_", " "))


# ------------------------------------------------------------------------------------------------ skeletons


def draw_skeleton(
    axes: Axes,
    joints: Array,
    layout: SkeletonLayout,
    *,
    colors: str | Sequence[str] | None = None,
    width: float = 1.6,
) -> None:
    """Draws the bones of one body.

    Args:
        axes: where to draw.
        joints: (V, 2), as they appear on the page.
        layout: which joints are joined.
        colors: of all bones, or one per joint for the bone that ends there. Default: left, right, trunk.
        width: of the lines in points.
    """
    bones = [joint for joint, parent in enumerate(layout.parents) if joint != parent]
    if colors is None:
        colors = [side_color(name) for name in layout.joint_names]
    chosen = colors if isinstance(colors, str) else [colors[joint] for joint in bones]
    lines = [joints[[joint, layout.parents[joint]]] for joint in bones]
    axes.add_collection(LineCollection(lines, colors=chosen, linewidths=width, capstyle="round", zorder=1))


def side_color(joint: str) -> str:
    """The color of a joint's bone: of the left, the right, or the trunk."""
    return BLUE if joint.startswith("left") else VERMILION if joint.startswith("right") else BLACK


def _on_page(points: Array, layout: SkeletonLayout) -> Array:
    """Projects (..., 3) to (..., 2): as the camera sees it, a little from the side and above, so that depth shows.

    In the frame of Kinect, x grows towards the camera's left, y upwards and z away from it; in an image x grows to the
    right.
    """
    yaw, pitch = np.deg2rad(25), np.deg2rad(12)
    x, y, z = np.moveaxis(points * (-1 if layout.third == "depth" else 1, 1, 1), -1, 0)
    depth = np.cos(yaw) * z - np.sin(yaw) * x
    return np.stack((np.cos(yaw) * x + np.sin(yaw) * z, np.cos(pitch) * y + np.sin(pitch) * depth), axis=-1)


def modalities(
    joints: Array, num_frames: int, layout: SkeletonLayout, *, title: str, shown: int = 5, joint: str | None = None
) -> Figure:
    """The six modalities of one clip, on the skeleton at some moments and as curves of one joint over time.

    Args:
        joints: (3, T, V, M).
        num_frames: the clip's length before it was resized to T.
        layout: the skeleton.
        title: of the figure.
        shown: how many moments are drawn.
        joint: whose curves are drawn. Default: the one that changes most in all modalities.
    """
    clip = torch.tensor(joints, dtype=torch.float32)[None]
    derived = derive_modalities(clip, torch.tensor([num_frames]), layout)[:, 0].numpy()
    present = [body for body in range(joints.shape[3]) if np.any(joints[..., body])] or [0]
    follow = _liveliest(derived[..., present[0]], layout) if joint is None else layout.joint_names.index(joint)
    frames = _telling_frames(derived[MODALITIES.index("motion")][..., present], shown)

    figure = _figure(15, 7.2)
    figure.suptitle(title, fontsize=FONT_SIZE + 4)
    grid = figure.add_gridspec(3, 5, width_ratios=(3.1, 1.25, 0.08, 3.1, 1.25))
    for index, modality in enumerate(MODALITIES):
        row, column = index % 3, 3 * (index // 3)
        strip, curves = (figure.add_subplot(grid[row, column + part]) for part in (0, 1))
        _draw_strip(strip, joints, derived[index], layout, modality, present, frames)
        strip.set_title(MODALITY_TITLES[modality], fontsize=FONT_SIZE + 2, loc="left")
        _draw_curves(curves, derived[index, :, :, follow, present[0]], frames)
        name = layout.joint_names[follow].replace("_", " ")
        curves.set_title(name, fontsize=FONT_SIZE, loc="left")
        if row == 2:
            curves.set_xlabel("frame", fontsize=FONT_SIZE)
        if index == 0:
            curves.legend(
                loc="lower right",
                bbox_to_anchor=(1.05, 0.97),
                ncols=3,
                frameon=False,
                fontsize=FONT_SIZE,
                handlelength=1.3,
                columnspacing=0.8,
                borderpad=0,
            )
    figure.supxlabel(
        "Joints and bones: left blue, right orange. Arrows: the vector at each joint, scaled per panel, darker is "
        "longer. Curves: one joint; gray lines mark the frames drawn.",
        fontsize=FONT_SIZE,
    )
    return figure


def _liveliest(derived: Array, layout: SkeletonLayout) -> int:
    """The joint that varies most over time in (modalities, 3, T, V), all modalities counting the same.

    The ends of limbs are left out: sensors see them worst, and much of their variation is noise.
    """
    deviation = derived.std(axis=2).sum(axis=1)
    score = (deviation / np.maximum(deviation.max(axis=1, keepdims=True), 1e-12)).sum(axis=0)
    return max(set(layout.parents), key=lambda joint: score[joint])


def _telling_frames(motion: Array, count: int) -> Array:
    """Frames of (3, T, V, bodies) between which about the same amount of movement lies, and of time."""
    speed = np.linalg.norm(motion, axis=0).mean(axis=(1, 2))
    pace = speed / max(speed.mean(), 1e-12) + 0.5
    passed = np.cumsum(pace) / pace.sum()
    return np.searchsorted(passed, (np.arange(count) + 0.5) / count)


def _draw_strip(
    axes: Axes,
    joints: Array,
    values: Array,
    layout: SkeletonLayout,
    modality: str,
    bodies: Sequence[int],
    frames: Array,
) -> None:
    """The skeletons of some frames side by side, with the modality's vectors as arrows."""
    places = joints[..., bodies].transpose(1, 3, 2, 0)
    if layout.third != "depth":
        places = places * (1, 1, 0)
    places = _on_page(places, layout)  # (T, bodies, V, 2)
    vectors = values[..., bodies].transpose(1, 3, 2, 0)
    places, vectors = places[frames], vectors[frames]
    if np.ptp(places[:, :, layout.root], axis=1).max() < 1e-6:  # bodies centered each on its own root
        places[..., 0] += 0.5 * np.ptp(places[..., 1]) * np.arange(len(bodies))[:, None]
    places = places - places.mean(axis=(1, 2), keepdims=True)
    left, right = places[..., 0].min(axis=(1, 2)), places[..., 0].max(axis=(1, 2))
    low, high = places[..., 1].min(), places[..., 1].max()
    size = high - low
    starts = np.concatenate(([0], np.cumsum(right - left + 0.22 * size)))
    places[..., 0] += (starts[:-1] - left)[:, None, None]

    for points in places.reshape(-1, layout.num_joints, 2):
        draw_skeleton(axes, points, layout, colors=None if modality == "joint" else GREY)
    if modality == "joint":
        axes.scatter(places[..., 0], places[..., 1], s=7, color=BLACK, zorder=2)
    else:
        tails = places
        strength = np.linalg.norm(vectors, axis=-1)
        if modality == "bone":
            tails = places[:, :, list(layout.parents)]
            vectors = vectors.copy()
            vectors[:, :, layout.root] *= 0.2 * size  # a unit normal, far longer than the bones
            strength[:, :, layout.root] = np.median(strength)
        strongest = float(np.quantile(strength, 0.99)) or 1.0
        arrows = _on_page(vectors, layout) * (1.0 if modality == "bone" else 0.32 * size / strongest)
        order = np.argsort(strength, axis=None)  # the strongest on top
        axes.quiver(
            *tails.reshape(-1, 2)[order].T,
            *arrows.reshape(-1, 2)[order].T,
            strength.ravel()[order],
            norm=Normalize(0, strongest),
            cmap="viridis_r",
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.0032,
            headwidth=3.2,
            headlength=3.6,
            clip_on=False,
            in_layout=False,
            zorder=3,
        )
    axes.set_aspect("equal")
    margin = 0.12 * size
    axes.set_xlim(-margin, starts[-1] - 0.22 * size + margin)
    axes.set_ylim(low - margin, high + margin)
    axes.axis("off")


def _draw_curves(axes: Axes, values: Array, frames: Array) -> None:
    """The three coordinates (3, T) over time, with marks where the skeletons are drawn."""
    for coordinate, color, style, name in zip(values, (VERMILION, GREEN, BLUE), ("-", "--", "-."), "xyz", strict=True):
        axes.plot(coordinate, color=color, linestyle=style, linewidth=1.3, label=name)
    for frame in frames:
        axes.axvline(frame, color=GREY, linewidth=0.6, zorder=0)
    _tidy(axes)


# ------------------------------------------------------------------------------------------------- training


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
    figure = _figure(4.6 * columns, 3.3 * rows + 0.5)
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
        _tidy(axes, xlabel="epoch")
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


# -------------------------------------------------------------------------------------------------- results


def confusion(counts: Array, classes: Sequence[str], *, title: str) -> Figure:
    """A confusion matrix, each row scaled to 100 %; numbers are written where there is room."""
    number = len(classes)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = float(np.clip(2.6 + 0.36 * number, 5, 17))
    figure = _figure(size + 0.9, size)
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
    figure = _figure(5.2 * len(features) + 1.6, 5.4)
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
    figure = _figure(1.5 * len(streams) + 2, 3 * len(measures) + 0.4)
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
        _tidy(axes)
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=6, fontsize=FONT_SIZE, frameon=False
    )
    return figure


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
    figure = _figure(4.8 * max(len(classifiers), 2), 3.3 * len(curves) + 0.5)
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
        _tidy(axes, xlabel=LABELS_TITLES[protocol])
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=3, fontsize=FONT_SIZE, frameon=False
    )
    return figure

"""The modalities of one clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ikem.report.plots.skeleton import draw_skeleton, on_page
from ikem.report.plots.style import (
    BLACK,
    BLUE,
    FONT_SIZE,
    GREEN,
    GREY,
    MODALITY_TITLES,
    VERMILION,
    Array,
    new_figure,
    tidy,
)
from ikem_ext import MODALITIES, derive_modalities
from ikem_ext.skeleton import SkeletonLayout


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

    figure = new_figure(15, 7.2)
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
    places = on_page(places, layout)  # (T, bodies, V, 2)
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
        arrows = on_page(vectors, layout) * (1.0 if modality == "bone" else 0.32 * size / strongest)
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
    tidy(axes)

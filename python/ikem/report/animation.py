"""A clip in motion: all bodies from several sides, beside the six modalities, as an animated picture or a film."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.animation import FFMpegWriter, PillowWriter
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.progress import track

from ikem.files import replacing
from ikem.report.clips import ShownClip, on_stage
from ikem.report.plots.skeleton import side_color
from ikem.report.plots.style import BLACK, FONT_SIZE, GREY, MODALITY_TITLES, STRENGTH_COLORS
from ikem_ext import MODALITIES

__all__ = ["animate", "require_writer"]

Array = NDArray[np.float32]
Update = Callable[[int], None]

FASTEST = 15.0  # pictures a second
# What lies on the page to the right and upwards, of axes to the right, away and up.
VIEWS = {"from the front": (0, 2), "from the side": (1, 2), "from above": (0, 1)}


def require_writer(path: Path) -> None:
    """Sees that a file of that name can be written.

    Raises:
        ValueError: it is a film, and there is no ffmpeg.
    """
    if path.suffix == ".mp4" and not FFMpegWriter.isAvailable():
        raise ValueError(f"output: {path} needs ffmpeg, which is not found; install it, or ask for a .gif")


def animate(clip: ShownClip, path: Path, *, dpi: int = 80) -> None:
    """Writes a clip as it moves, at the speed of the recording.

    Args:
        clip: the clip. Of one with more than 15 frames a second not all are drawn.
        path: a file that ends in .gif or .mp4.
        dpi: of the pictures.
    """
    every = max(1, int(np.ceil(clip.fps / FASTEST - 1e-6)))
    figure, update = _build(clip)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout stays as it is in the first frame
    writer = (PillowWriter if path.suffix == ".gif" else FFMpegWriter)(fps=clip.fps / every)  # type: ignore[arg-type]
    with replacing(path) as unfinished, TemporaryDirectory(dir=path.parent, prefix=".animation-") as folder:
        drawn = Path(folder) / path.name  # the writers go by the suffix
        writer.setup(figure, str(drawn), dpi)
        for frame in track(range(0, clip.joints.shape[1], every), "Drawing frames", transient=True):
            update(frame)
            writer.grab_frame()
        writer.finish()
        drawn.replace(unfinished)


def _build(clip: ShownClip) -> tuple[Figure, Update]:
    """The picture of the first frame, and how to go to another."""
    places = on_stage(clip.places, clip.layout).transpose(1, 3, 2, 0)  # (T, M, V, 3)
    figure = Figure(figsize=(13, 7), layout="constrained")
    views = VIEWS if clip.layout.third == "depth" else {"in the image": (0, 2)}
    grid = figure.add_gridspec(1, 2, width_ratios=(1, 1.5))
    left = grid[0].subgridspec(2, len(views) - 1 or 1, height_ratios=(1.6, 1)) if len(views) > 1 else None
    cells = [grid[0]] if left is None else [left[0, :], *(left[1, place] for place in range(len(views) - 1))]
    updates = [
        _draw_view(figure.add_subplot(cell), clip, places[..., axes], name)
        for cell, (name, axes) in zip(cells, views.items(), strict=True)
    ]
    right = grid[1].subgridspec(2, 3)
    for place, modality in enumerate(MODALITIES):
        updates.append(_draw_modality(figure.add_subplot(right[place // 3, place % 3]), clip, places, modality))
    title = figure.suptitle("", fontsize=FONT_SIZE + 4)
    about = clip.name if clip.label is None else f"{clip.name}: {clip.label}"

    def update(frame: int) -> None:
        title.set_text(f"{about}    frame {frame + 1} of {len(places)}")
        for each in updates:
            each(frame)

    update(0)
    return figure, update


def _bones(clip: ShownClip) -> tuple[list[int], list[int]]:
    joints = [joint for joint, parent in enumerate(clip.layout.parents) if joint != parent]
    return joints, [clip.layout.parents[joint] for joint in joints]


def _draw_bodies(axes: Axes, clip: ShownClip, points: Array, colors: Sequence[str] | str, width: float) -> Update:
    """The bones of all bodies, (T, M, V, 2)."""
    joints, parents = _bones(clip)
    bodies = points.shape[1]
    chosen = colors if isinstance(colors, str) else [colors[joint] for joint in joints] * bodies
    lines = LineCollection([], colors=chosen, linewidths=width, capstyle="round", zorder=1)
    axes.add_collection(lines)
    _fix_limits(axes, points)

    def update(frame: int) -> None:
        ends = np.stack((points[frame][:, joints], points[frame][:, parents]), axis=2)  # (M, bones, 2, 2)
        lines.set_segments(list(ends.reshape(-1, 2, 2)))

    return update


def _fix_limits(axes: Axes, points: Array) -> None:
    """The same part of the page for all frames, undistorted."""
    low, high = (bound(points, axis=(0, 1, 2)) for bound in (np.nanmin, np.nanmax))
    size = float((high - low).max()) or 1.0
    grow = np.maximum(0.35 * size - (high - low), 0) / 2 + 0.07 * size
    axes.set_xlim(low[0] - grow[0], high[0] + grow[0])
    axes.set_ylim(low[1] - grow[1], high[1] + grow[1])
    axes.set_aspect("equal", anchor="N")
    axes.axis("off")


def _draw_view(axes: Axes, clip: ShownClip, points: Array, name: str) -> Update:
    colors = [side_color(joint) for joint in clip.layout.joint_names]
    bones = _draw_bodies(axes, clip, points, colors, 2.2)
    dots = axes.scatter([], [], s=9, color=BLACK, zorder=2)
    axes.set_title(name, fontsize=FONT_SIZE + 1, loc="left")

    def update(frame: int) -> None:
        bones(frame)
        dots.set_offsets(points[frame].reshape(-1, 2))

    return update


def _draw_modality(axes: Axes, clip: ShownClip, places: Array, modality: str) -> Update:
    """The skeletons from the front, and on them the modality: arrows, and colors by their length."""
    front = places[..., (0, 2)]
    values = on_stage(clip.modalities[MODALITIES.index(modality)], clip.layout).transpose(1, 3, 2, 0)
    lengths = np.linalg.norm(values, axis=-1)
    strength = clip.strength(modality)
    look: dict[str, Any] = {
        "norm": Normalize(*clip.range(modality)),
        "cmap": LinearSegmentedColormap.from_list("strength", STRENGTH_COLORS),
    }
    bones = _draw_bodies(axes, clip, front, GREY, 1.4)
    axes.set_title(MODALITY_TITLES[modality].replace(": ", "\n"), fontsize=FONT_SIZE - 1.5, loc="left")
    none = np.zeros(lengths[0].size)  # there are as many dots and arrows in every frame
    dots = axes.scatter(none, none, s=11, c=none, zorder=2, **look)
    arrows = None
    if modality != "joint":
        tails, vectors = _arrows(clip, front, values[..., (0, 2)], modality, strength)
        arrows = axes.quiver(
            *[none] * 5, angles="xy", scale_units="xy", scale=1,
            width=0.008, headwidth=3.4, headlength=3.8, headaxislength=3.4, zorder=3, **look,
        )  # fmt: skip

    def update(frame: int) -> None:
        bones(frame)
        dots.set_offsets(front[frame].reshape(-1, 2))
        dots.set_array(np.ma.masked_invalid(lengths[frame].ravel()))
        if arrows is not None:
            known = np.isfinite(vectors[frame]).all(-1) & np.isfinite(tails[frame]).all(-1)
            arrows.set_offsets(np.where(known[..., None], tails[frame], 0).reshape(-1, 2))
            across, up = np.where(known[..., None], vectors[frame], 0).reshape(-1, 2).T
            arrows.set_UVC(across, up, np.where(known, lengths[frame], 0).ravel())

    return update


def _arrows(clip: ShownClip, front: Array, vectors: Array, modality: str, strength: float) -> tuple[Array, Array]:
    """Where arrows start and what they reach, (T, M, V, 2) both."""
    size = float(np.ptp(front[np.isfinite(front).all(-1)], axis=0).max()) or 1.0
    if modality != "bone":
        return front, vectors * np.float32(0.2 * size / strength)
    vectors = vectors.copy()
    vectors[:, :, clip.layout.root] *= 0.15 * size  # a unit normal, far longer than the bones
    return front[:, :, list(clip.layout.parents)], vectors

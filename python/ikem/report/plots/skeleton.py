"""Skeletons on the page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from ikem.report.plots.style import BLACK, BLUE, VERMILION, Array
from ikem_ext.skeleton import SkeletonLayout


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


def on_page(points: Array, layout: SkeletonLayout) -> Array:
    """Projects (..., 3) to (..., 2): as the camera sees it, a little from the side and above, so that depth shows.

    In the frame of Kinect, x grows towards the camera's left, y upwards and z away from it; in an image x grows to the
    right.
    """
    yaw, pitch = np.deg2rad(25), np.deg2rad(12)
    x, y, z = np.moveaxis(points * (-1 if layout.third == "depth" else 1, 1, 1), -1, 0)
    depth = np.cos(yaw) * z - np.sin(yaw) * x
    return np.stack((np.cos(yaw) * x + np.sin(yaw) * z, np.cos(pitch) * y + np.sin(pitch) * depth), axis=-1)

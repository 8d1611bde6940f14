"""What all pictures share: colors, names, sizes."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from ikem_ext import MODALITIES

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


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that makes room for what is written around its axes."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))


def tidy(axes: Axes, **labels: str) -> None:
    """Take away the frame of axes but left and below, and label them."""
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

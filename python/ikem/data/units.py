"""What coordinates look like: meters, or something that was taken for them."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Reach", "reach_of", "warn_of_units"]

_FARTHEST = 100  # meters that a body can be from the sensor's axis


class Reach(NamedTuple):
    """The least and the largest coordinate of a clip: along x and y, and along z."""

    across: tuple[float, float]
    along: tuple[float, float]

    @property
    def looks_like(self) -> str:
        """What the coordinates look like if not like meters, else nothing."""
        if self.along == (0, 0):
            return "points in an image, not joints in space"
        if max(map(abs, self.across)) > _FARTHEST:
            if self.along[0] >= 0 and self.along[1] <= 1:
                return "keypoints in pixels with their confidences as z, not meters"
            return "millimeters or pixels, not meters"
        return ""


def reach_of(joints: NDArray[np.floating]) -> Reach:
    """How far the joints (3, frames, V, M) of a clip reach; what is not a number is passed over."""
    across, along = np.nan_to_num(joints[:2]), np.nan_to_num(joints[2])
    return Reach((float(across.min()), float(across.max())), (float(along.min()), float(along.max())))


def warn_of_units(reaches: list[Reach]) -> list[str]:
    """A warning for each thing that clips look like instead of joints in meters.

    Example:
        >>> warn_of_units([Reach((0.0, 1900.0), (0.0, 0.9)), Reach((-0.8, 1.1), (2.0, 3.1))])[0][:62]
        'in 1 of 2 clips x and y reach from 0 to 1900, z from 0 to 0.9:'
    """
    suspects = defaultdict(list)
    for reach in reaches:
        if reach.looks_like:
            suspects[reach.looks_like].append(reach)
    warnings = []
    for looks, some in suspects.items():
        x, z = ((min(low for low, _ in part), max(high for _, high in part)) for part in zip(*some, strict=True))
        warnings.append(
            f"in {len(some)} of {len(reaches)} clips x and y reach from {x[0]:.4g} to {x[1]:.4g}, z from "
            f"{z[0]:.4g} to {z[1]:.4g}: this looks like {looks}; they were taken for joints in meters"
            + ("" if "millimeters" in looks else ", give (2, frames, V, M) for points in an image")
        )
    return warnings

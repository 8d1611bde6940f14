"""When things happen in a clip, and how a pose is moved towards what they ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .body import Array, Pose


@dataclass
class Clips:
    """The clips of one action: when things happen and how. Arrays are (n, frames) or (n, 1)."""

    seconds: Array
    progress: Array  # 0 at the first frame, 1 at the last; beyond the last it stays 1
    amplitude: Array
    tempo: Array
    rng: np.random.Generator

    def draw(self, low: float, high: float) -> Array:
        """One number per clip."""
        return self.rng.uniform(low, high, self.tempo.shape)

    def ease(self, start: float, end: float) -> Array:
        """From 0 to 1 between two moments of the clip, along a minimum-jerk curve."""
        moment = np.clip((self.progress - start) / (end - start), 0, 1)
        return moment**3 * (10 - 15 * moment + 6 * moment**2)

    def hold(self, start: float, reached: float, released: float, end: float) -> Array:
        """0, rising to 1, held, and back to 0."""
        return self.ease(start, reached) * (1 - self.ease(released, end))

    def cycle(self, hertz: float, spread: float = 0.15) -> Array:
        """A phase in radians that starts anywhere and advances at about the given frequency."""
        frequency = hertz * self.tempo * self.draw(1 - spread, 1 + spread)
        return 2 * np.pi * (frequency * self.seconds + self.draw(0, 1))


def blend(pose: Pose, weight: Array, **targets: Array | float) -> None:
    """Moves the named angles from where they are towards targets; ``weight`` 1 reaches them."""
    for name, target in targets.items():
        pose[name] = pose[name] + weight * (target - pose[name])


def one(side: str, **angles: Any) -> dict[str, Any]:
    """Angles of one side, by their names without it."""
    return {f"{side}_{name}": value for name, value in angles.items()}


def both(**angles: Any) -> dict[str, Any]:
    """The same angles for the left and the right side."""
    return {**one("left", **angles), **one("right", **angles)}


def crouch(pose: Pose, weight: Array, thigh: Array | float, knee: Array | float, lean: Array | float) -> None:
    """Bends both legs with flat feet: ``thigh`` leaves the vertical, ``lean`` is the pelvis's."""
    legs = both(hip_flexion=thigh + lean, knee=knee, ankle_plantarflexion=thigh - knee)
    blend(pose, weight, pelvis_pitch=lean, **legs)

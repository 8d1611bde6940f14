"""How clips are varied."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ikem.config.checks import require, require_not_negative, require_share


@dataclass
class ViewsConfig:
    """The random views of a clip.

    Attributes:
        shear_amplitude: off-diagonal entries of the shear are uniform in [-amplitude, amplitude].
        crop_ratio: T // crop_ratio frames are mirrored on at each end before T frames are cropped; 0 for no crop.
        turn_degrees: clips are turned about the vertical axis by up to this angle.
        tilt_degrees: and about the horizontal axis across the view by up to this one.
        bone_jitter: the length of each bone is multiplied by exp(bone_jitter * n), n normal.
        least_window: a part of the clip, at least this share of it, is stretched to its full length; 1 for all of it.
        mirror_probability: how often left and right change places: x is negated, and each joint takes the place of its
            partner in ``layout.left_right``.
        speed: the clip is played faster by a factor that is uniform in [least, most], about its middle: frame t shows
            what was at c + factor * (t - c), c = (T - 1) / 2, linearly interpolated and mirrored at the clip's ends.
        speed_probability: how often.
        scale: all coordinates are multiplied by a factor that is uniform in [least, most].
        scale_probability: how often.
        jitter: deviation of the normal noise that is added to each coordinate in each frame, in the data's units.
        jitter_probability: how often.
        mask_joints: share of the joints that are set to 0 in all frames; round(share * V) of them.
        mask_joints_probability: how often.
        mask_frames: share of the frames in which all joints are set to 0; round(share * T) of them.
        mask_frames_probability: how often.
    """

    shear_amplitude: float = 0.5
    crop_ratio: int = 6
    turn_degrees: float = 0.0
    tilt_degrees: float = 0.0
    bone_jitter: float = 0.0
    least_window: float = 1.0
    mirror_probability: float = 0.0
    speed: tuple[float, float] = (1.0, 1.0)
    speed_probability: float = 1.0
    scale: tuple[float, float] = (1.0, 1.0)
    scale_probability: float = 1.0
    jitter: float = 0.0
    jitter_probability: float = 1.0
    mask_joints: float = 0.0
    mask_joints_probability: float = 1.0
    mask_frames: float = 0.0
    mask_frames_probability: float = 1.0

    def __post_init__(self) -> None:
        for name in ("shear_amplitude", "crop_ratio", "turn_degrees", "tilt_degrees", "bone_jitter", "jitter"):
            require_not_negative(f"views.{name}", getattr(self, name))
        require_share("views.least_window", self.least_window)
        for name in ("speed", "scale"):
            least, most = getattr(self, name)
            require(0 < least <= most < math.inf, f"views.{name}: expected 0 < least <= most, got {[least, most]}")
            setattr(self, name, (least, most))
        for name in ("mirror", "speed", "scale", "jitter", "mask_joints", "mask_frames"):
            share = getattr(self, f"{name}_probability")
            require(0 <= share <= 1, f"views.{name}_probability: expected in [0, 1], got {share}")
        for name in ("mask_joints", "mask_frames"):
            require(0 <= getattr(self, name) < 1, f"views.{name}: expected in [0, 1), got {getattr(self, name)}")

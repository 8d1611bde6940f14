"""Clips as they are looked at: joints with gaps where nothing was seen, modalities, and what they are taken for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from ikem.data.dataset import PreparedDataset
from ikem.data.formats import RawClip
from ikem.data.lost_joints import find_lost_joints
from ikem.data.preprocess import NoBodyError
from ikem_ext import MODALITIES, derive_modalities
from ikem_ext.skeleton import SkeletonLayout

__all__ = ["ShownClip", "on_stage"]

Array = NDArray[np.float32]
_GAP = 0.25  # between bodies side by side, as a share of their height


@dataclass(frozen=True)
class ShownClip:
    """One clip to look at.

    Args:
        name: of the clip.
        joints: float32 (3, T, V, M), y up; NaN where a joint or a body was not seen.
        layout: the skeleton.
        num_frames: the clip's length before it was resized to T.
        fps: how many of the T frames are a second.
        label: the class that it shows, where that is known.
        guesses: the classes that it is taken for and their probabilities, the likeliest first.

    Raises:
        NoBodyError: no body is seen in any frame.
    """

    name: str
    joints: Array
    layout: SkeletonLayout
    num_frames: int
    fps: float
    label: str | None = None
    guesses: tuple[tuple[str, float], ...] = field(default=())

    def __post_init__(self) -> None:
        if not np.isfinite(self.joints).any():
            raise NoBodyError(f"{self.name}: no body is ever seen")

    @classmethod
    def of_recording(cls, name: str, clip: RawClip, layout: SkeletonLayout, *, fps: float) -> ShownClip:
        """A clip as it was recorded; points in an image lie in the plane, y up.

        Args:
            name: of the clip.
            clip: what was recorded.
            layout: the skeleton.
            fps: frames of the recording in a second.

        Raises:
            NoBodyError: no body is seen in any frame.
        """
        with np.errstate(over="ignore"):
            joints = np.where(np.isfinite(clip.joints), clip.joints, np.nan).astype(np.float32)
        confidence = np.ones(joints.shape[1:], np.float32) if clip.confidence is None else clip.confidence
        lost = find_lost_joints(joints, confidence, "nan")
        joints = np.where(lost, np.float32(np.nan), joints)
        if len(joints) == 2:
            x, y = joints
            joints, layout = np.stack((x, -y, 0 * x)), replace(layout, third="zero")
        seen = np.isfinite(joints).any(axis=(0, 1, 2))
        frames = joints.shape[1]
        num_frames = clip.num_frames or frames
        return cls(name, joints[..., seen], layout, num_frames, fps * frames / num_frames)

    @classmethod
    def of_dataset(
        cls, dataset: PreparedDataset, place: int, *, fps: float, guesses: tuple[tuple[str, float], ...] = ()
    ) -> ShownClip:
        """A clip of a prepared data set; a body that is all zero in a frame is not seen there.

        Args:
            dataset: the data set.
            place: of the clip in it.
            fps: frames of the recording in a second, before time was resized.
            guesses: what it is taken for.

        Raises:
            NoBodyError: no body is seen in any frame.
        """
        joints, clip = np.array(dataset.joints[place]), dataset.clips[place]
        seen = np.asarray(joints.any(axis=(0, 2)))  # (T, M)
        joints = np.where(seen[:, None], joints, np.float32(np.nan))[..., seen.any(axis=0)]
        label = None if clip.label is None else dataset.classes[clip.label]
        fps *= joints.shape[1] / clip.num_frames
        return cls(clip.name, joints, dataset.layout, clip.num_frames, fps, label, guesses)

    @cached_property
    def modalities(self) -> Array:
        """The six modalities (6, 3, T, V, M), NaN where they follow from what was not seen."""
        clip = torch.from_numpy(self.joints)[None]
        return derive_modalities(clip, torch.tensor([self.num_frames]), self.layout)[:, 0].numpy()

    @cached_property
    def places(self) -> Array:
        """Where the joints are drawn, (3, T, V, M): bodies each centered on its own root stand side by side."""
        places = self.joints * np.array([1, 1, self.layout.third == "depth"], np.float32)[:, None, None, None]
        roots = places[:, :, self.layout.root]
        bodies = places.shape[3]
        if bodies > 1 and np.nanmax(np.abs(roots)) < 1e-6:
            low, high = (bound(places, axis=(1, 2, 3)) for bound in (np.nanmin, np.nanmax))
            apart = (high - low)[0] + _GAP * (high - low)[1]
            places = places.copy()
            places[0] += apart * (np.arange(bodies, dtype=np.float32) - (bodies - 1) / 2)
        return places

    @property
    def unseen_frames(self) -> int:
        """In how many frames no body is seen."""
        return int(np.isnan(self.joints).all(axis=(0, 2, 3)).sum())

    @property
    def lost_joints(self) -> int:
        """How many single joints of bodies that are seen are lost."""
        seen = np.asarray(np.isfinite(self.joints).all(axis=0))  # (T, V, M)
        return int((~seen & np.asarray(seen.any(axis=1))[:, None]).sum())

    def strength(self, modality: str) -> float:
        """The length that few of the modality's vectors exceed, by which arrows are scaled."""
        lengths = self._lengths(modality)
        return (float(np.quantile(lengths, 0.99)) if lengths.size else 0.0) or 1.0

    def range(self, modality: str) -> tuple[float, float]:
        """The lengths of the modality's vectors between which colors tell them apart: from zero on, but for places."""
        lengths = self._lengths(modality)
        low = float(lengths.min()) if modality == "joint" and lengths.size else 0.0
        return low, max(self.strength(modality), low + 1e-6)

    def _lengths(self, modality: str) -> Array:
        """The lengths that are known of the modality's vectors."""
        values = self.modalities[MODALITIES.index(modality)]
        if modality == "bone":  # the root's is a unit normal, far longer than the bones
            values = np.delete(values, self.layout.root, axis=2)
        lengths = np.linalg.norm(values, axis=0)
        return lengths[np.isfinite(lengths)]


def on_stage(points: Array, layout: SkeletonLayout) -> Array:
    """Turns vectors (3, ...) to axes as a spectator has them: to the right, away, and up.

    In the frame of Kinect, x grows towards the camera's left, y upwards and z away from it; in an image x grows to the
    right.

    Example:
        >>> from ikem_ext import get_layout
        >>> on_stage(np.array([1.0, 2.0, 3.0]), get_layout("ntu25")).tolist()
        [-1.0, 3.0, 2.0]
    """
    x, y, z = points
    return np.stack((-x if layout.third == "depth" else x, z, y))

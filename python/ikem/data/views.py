"""Random views of clips: the parameters of the augmentations, drawn for a whole batch at once.

Shear and crop are applied by :func:`ikem_ext.derive_modalities`, in the same pass that derives the modalities.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ikem.config import ViewsConfig
from ikem_ext import SkeletonLayout, derive_modalities


class View(NamedTuple):
    """One random view of each clip of a batch.

    Attributes:
        shear: (N, 3, 3) float32; coordinates become ``shear @ x``. A rotation is part of it.
        crop_start: (N,) int64; first frame of the crop in the clip with its mirrored ends.
        crop_padding: frames mirrored on at each end.
        bone_scale: (N, V) float32, what the length of the bone that ends at each joint is multiplied by; or None.
        window: (N, 2) float32, start and length of the part of the clip that is seen, as shares of it; or None.
    """

    shear: Tensor
    crop_start: Tensor
    crop_padding: int
    bone_scale: Tensor | None = None
    window: Tensor | None = None

    def to(self, device: torch.device) -> View:
        """Return the view with its parameters on a device."""
        return View(
            self.shear.to(device),
            self.crop_start.to(device),
            self.crop_padding,
            None if self.bone_scale is None else self.bone_scale.to(device),
            None if self.window is None else self.window.to(device),
        )

    def share(self, clips: slice) -> View:
        """Return the view of some of the clips."""
        return View(
            self.shear[clips],
            self.crop_start[clips],
            self.crop_padding,
            None if self.bone_scale is None else self.bone_scale[clips],
            None if self.window is None else self.window[clips],
        )

    def derive(
        self,
        joints: Tensor,
        num_frames: Tensor,
        layout: SkeletonLayout,
        modalities: tuple[str, ...],
        clips: Tensor | None = None,
    ) -> Tensor:
        """Apply the view to clips (N, 3, T, V, M) and derive modalities, (len(modalities), N, 3, T, V, M).

        With ``clips``, (N,), it is these of ``joints`` and ``num_frames`` that the view is of.
        """
        if clips is not None and (self.bone_scale is not None or self.window is not None):
            joints, num_frames, clips = joints[clips], num_frames[clips], None
        if self.bone_scale is not None:
            with torch.autocast(joints.device.type, enabled=False):  # coordinates keep their digits
                joints = scale_bones(joints, self.bone_scale, layout)
        if self.window is not None:
            joints = stretch_window(joints, self.window)
            num_frames = (num_frames * self.window[:, 1]).round().to(num_frames.dtype).clamp_min(1)
        return derive_modalities(
            joints,
            num_frames,
            layout,
            modalities=modalities,
            shear=self.shear,
            crop_start=self.crop_start,
            crop_padding=self.crop_padding,
            clip_index=clips,
        )


def scale_bones(joints: Tensor, scale: Tensor, layout: SkeletonLayout) -> Tensor:
    """Multiply the lengths of bones: the root stays, every other joint follows its parent; confidences stay.

    Args:
        joints: (N, 3, T, V, M).
        scale: (N, V), for the bone that ends at each joint; the root's is not used.
        layout: the skeleton.

    Example:
        >>> from ikem_ext import SkeletonLayout
        >>> arm = SkeletonLayout("arm", ("shoulder", "elbow", "hand"), parents=(0, 0, 1), torso=(0, 1, 2))
        >>> x = torch.tensor([1.0, 2.0, 3.0]).expand(1, 3, 1, 3)[..., None]
        >>> scale_bones(x, torch.tensor([[1.0, 2.0, 0.5]]), arm)[0, 0, 0, :, 0]
        tensor([1.0000, 3.0000, 3.5000])
    """
    eye = torch.eye(layout.num_joints, device=joints.device)
    bones = eye - eye[list(layout.parents)]  # (V, V): bones = bones @ joints
    # x' = root + sum of the scaled bones on the way from the root, in one matrix per clip.
    ways = torch.linalg.inv(bones + torch.diag(eye[layout.root]))
    mixed = ways @ (scale[:, :, None] * bones + torch.diag(eye[layout.root]))
    scaled = torch.einsum("nij,nctjm->nctim", mixed.to(joints.dtype), joints)
    return torch.cat((scaled[:, :2], joints[:, 2:]), dim=1) if layout.third == "confidence" else scaled


def stretch_window(joints: Tensor, window: Tensor) -> Tensor:
    """Resize a part of each clip to the clip's number of frames, by linear interpolation.

    Args:
        joints: (N, 3, T, V, M).
        window: (N, 2), start and length as shares of the clip.

    Example:
        >>> ramp = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(1, 3, 5, 1, 1)
        >>> stretch_window(ramp, torch.tensor([[0.5, 0.5]]))[0, 0, :, 0, 0]
        tensor([2.0000, 2.5000, 3.0000, 3.5000, 4.0000])
    """
    frames = joints.shape[2]
    share = torch.linspace(0, 1, frames, device=joints.device)
    position = (window[:, :1] + window[:, 1:] * share) * (frames - 1)
    before = position.long().clamp(max=max(frames - 2, 0))
    weight = (position - before)[:, None, :, None, None]

    def at(index: Tensor) -> Tensor:
        return joints.gather(2, index.clamp(max=frames - 1)[:, None, :, None, None].expand_as(joints))

    return at(before) * (1 - weight) + at(before + 1) * weight


class RandomViews:
    """Draws views: a random shear and a random temporal crop per clip, as published, and more where asked for.

    - Shear: ``x' = R x``, R with unit diagonal and off-diagonal entries uniform in [-a, a].
    - Temporal crop: ``p = T // ratio`` frames are mirrored on at each end, and T frames are taken from a start that
      is uniform in {0, ..., 2p}.
    - Rotation after the shear: about the vertical axis, then about the horizontal one across the view, by angles
      uniform in plus or minus the limits.
    - Bones: the length of each is multiplied by exp(s n), n normal.
    - Window: a part of the clip, its length uniform between a least share and all, at a uniform place, is stretched to
      T frames, before the crop.

    Of points in an image all of this stays in the image's plane (see :func:`ikem_ext.derive_modalities`): the shear is
    one of x and y, and a rotation makes them narrower or lower, as a flat figure that turns.

    Shear and crop as in Wei et al., arXiv 2309.12009, and before it in AimCLR and CrosSCLR.

    Args:
        config: amplitudes.
        frames: T.
        joints: V.

    Example:
        >>> views = RandomViews(ViewsConfig(), frames=50, joints=25)
        >>> view = views(4, torch.Generator().manual_seed(0))
        >>> view.shear.shape, view.crop_padding, bool((view.crop_start <= 16).all())
        (torch.Size([4, 3, 3]), 8, True)
    """

    def __init__(self, config: ViewsConfig, frames: int, joints: int) -> None:
        self.config = config
        self.joints = joints
        self.crop_padding = frames // config.crop_ratio if config.crop_ratio else 0

    def __call__(self, clips: int | Tensor, generator: torch.Generator) -> View:
        """Draw one view of each of so many clips, or of clips of these original lengths (n,), from a CPU generator."""
        config, num_clips = self.config, clips if isinstance(clips, int) else len(clips)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(num_clips, *shape, generator=generator)

        shear = (2 * uniform(3, 3) - 1) * config.shear_amplitude
        shear.diagonal(dim1=1, dim2=2).fill_(1)
        crop_start = torch.randint(2 * self.crop_padding + 1, (num_clips,), generator=generator)
        bone_scale = window = None
        if config.turn_degrees or config.tilt_degrees:
            turn, tilt = (2 * uniform(2) - 1).mul_(torch.tensor([config.turn_degrees, config.tilt_degrees])).unbind(1)
            shear = rotation(tilt, axis=0) @ rotation(turn, axis=1) @ shear
        if config.bone_jitter:
            bone_scale = torch.randn(num_clips, self.joints, generator=generator).mul_(config.bone_jitter).exp_()
        if config.least_window < 1:
            length, place = (config.least_window + (1 - config.least_window) * uniform()), uniform()
            window = torch.stack(((1 - length) * place, length), dim=1)
        return View(shear, crop_start, self.crop_padding, bone_scale, window)


def rotation(degrees: Tensor, axis: int) -> Tensor:
    """Return the matrices (N, 3, 3) of rotations about a coordinate axis by angles (N,) in degrees."""
    cosine, sine = torch.cos(torch.deg2rad(degrees)), torch.sin(torch.deg2rad(degrees))
    a, b = (other for other in range(3) if other != axis)
    matrices = torch.eye(3).repeat(len(degrees), 1, 1)
    matrices[:, a, a] = matrices[:, b, b] = cosine
    matrices[:, a, b], matrices[:, b, a] = sine, -sine
    return matrices

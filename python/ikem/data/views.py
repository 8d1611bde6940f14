"""Random views of clips: the parameters of the augmentations, drawn for a whole batch at once.

Shear (with rotation and scale) and crop are applied by :func:`ikem_ext.derive_modalities`, in the same pass that
derives the modalities.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ikem.config import ViewsConfig
from ikem_ext import SkeletonLayout, derive_modalities


class View(NamedTuple):
    """One random view of each clip of a batch.

    The changes are made in this order: of bones, mirror, window, speed, jitter, masks; then crop and shear.

    Attributes:
        shear: (N, 3, 3) float32; coordinates become ``shear @ x``. Rotation and scaling are part of it.
        crop_start: (N,) int64; first frame of the crop in the clip with its mirrored ends.
        crop_padding: frames mirrored on at each end.
        bone_scale: (N, V) float32, what the length of the bone that ends at each joint is multiplied by; or None.
        window: (N, 2) float32, start and length of the part of the clip that is seen, as shares of it; or None.
        mirrored: (N,) bool, whether left and right change places; or None.
        speed: (N,) float32, how many times faster the clip is played; or None.
        noise: (N, 3, T, V, M) float32, what is added to the coordinates; or None.
        masked: (N, T, V) bool, which joints are set to 0 in which frames; or None.
    """

    shear: Tensor
    crop_start: Tensor
    crop_padding: int
    bone_scale: Tensor | None = None
    window: Tensor | None = None
    mirrored: Tensor | None = None
    speed: Tensor | None = None
    noise: Tensor | None = None
    masked: Tensor | None = None

    def to(self, device: torch.device) -> View:
        """Return the view with its parameters on a device."""
        return self._map(lambda parameter: parameter.to(device))

    def share(self, clips: slice | Tensor) -> View:
        """Return the view of some of the clips; a tensor is of their indices, (n,)."""
        return self._map(lambda parameter: parameter[clips])

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
        if self._changes_joints:
            if clips is not None:
                joints, num_frames, clips = joints[clips], num_frames[clips], None
            joints = self._changed(joints, layout)
        if self.window is not None:
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

    @property
    def _changes_joints(self) -> bool:
        """Whether there is more to do than what happens in the pass that derives the modalities."""
        return any(parameter is not None for parameter in self[3:])

    def _changed(self, joints: Tensor, layout: SkeletonLayout) -> Tensor:
        if self.bone_scale is not None:
            with torch.autocast(joints.device.type, enabled=False):  # coordinates keep their digits
                joints = scale_bones(joints, self.bone_scale, layout)
        if self.mirrored is not None:
            joints = mirror(joints, self.mirrored, layout)
        if self.window is not None:
            joints = stretch_window(joints, self.window)
        if self.speed is not None:
            joints = play(joints, self.speed)
        if self.noise is not None:
            joints = add_noise(joints, self.noise, layout)
        if self.masked is not None:
            joints = joints.masked_fill(self.masked[:, None, :, :, None], 0)
        return joints

    def _map(self, function: Callable[[Tensor], Tensor]) -> View:
        def change(parameter: Any) -> Any:
            return function(parameter) if isinstance(parameter, Tensor) else parameter

        return View(*map(change, self))


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
    return sample_frames(joints, (window[:, :1] + window[:, 1:] * share) * (frames - 1))


def play(joints: Tensor, speed: Tensor) -> Tensor:
    """Play clips faster or slower, about their middle; where one comes to its ends it runs back.

    The clips' original lengths stay: the same time passes, in which more happens.

    Args:
        joints: (N, 3, T, V, M).
        speed: (N,), factors above 0.

    Example:
        >>> ramp = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(2, 3, 5, 1, 1)
        >>> play(ramp, torch.tensor([0.5, 2.0]))[:, 0, :, 0, 0]
        tensor([[1.0000, 1.5000, 2.0000, 2.5000, 3.0000],
                [2.0000, 0.0000, 2.0000, 4.0000, 2.0000]])
    """
    last = joints.shape[2] - 1
    steps = torch.arange(last + 1, device=joints.device) - last / 2
    if last == 0:
        return joints
    position = (last / 2 + speed[:, None] * steps).remainder(2 * last)
    return sample_frames(joints, torch.minimum(position, 2 * last - position))


def sample_frames(joints: Tensor, position: Tensor) -> Tensor:
    """Return what clips show at positions between their frames, by linear interpolation.

    Args:
        joints: (N, 3, T, V, M).
        position: (N, T), from 0 to T - 1.
    """
    frames = joints.shape[2]
    before = position.long().clamp(max=max(frames - 2, 0))
    weight = (position - before)[:, None, :, None, None]

    def at(index: Tensor) -> Tensor:
        return joints.gather(2, index.clamp(max=frames - 1)[:, None, :, None, None].expand_as(joints))

    return at(before) * (1 - weight) + at(before + 1) * weight


def mirror(joints: Tensor, mirrored: Tensor, layout: SkeletonLayout) -> Tensor:
    """Let left and right change places in some of the clips: each joint stands at its partner's -x, y and z.

    Args:
        joints: (N, 3, T, V, M).
        mirrored: (N,) bool.
        layout: the skeleton.

    Example:
        >>> from ikem_ext import SkeletonLayout
        >>> names = ("neck", "left_hand", "right_hand")
        >>> hands = SkeletonLayout("hands", names, parents=(0, 0, 0), torso=(0, 1, 2))
        >>> x = torch.tensor([3.0, 1.0, -2.0]).expand(1, 3, 1, 3)[..., None]
        >>> mirror(x, torch.tensor([True]), hands)[0, :2, 0, :, 0]  # x and y
        tensor([[-3.,  2., -1.],
                [ 3., -2.,  1.]])
    """
    x, others = joints[..., list(layout.mirror), :].split((1, 2), dim=1)
    return torch.where(mirrored.view(-1, 1, 1, 1, 1), torch.cat((-x, others), dim=1), joints)


def add_noise(joints: Tensor, noise: Tensor, layout: SkeletonLayout) -> Tensor:
    """Add noise to the coordinates of bodies that are there; confidences stay, and who is absent stays absent.

    Args:
        joints: (N, 3, T, V, M).
        noise: of the same shape.
        layout: the skeleton.
    """
    noise = noise * (joints != 0).any(dim=3, keepdim=True).any(dim=1, keepdim=True)
    noisy = joints + noise.to(joints.dtype)
    return torch.cat((noisy[:, :2], joints[:, 2:]), dim=1) if layout.third == "confidence" else noisy


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
    - Mirror, speed, scale, jitter, masked joints and frames: each with a probability, as `ViewsConfig` has it. The
      factor of the scale is taken into the shear's matrix, R' = f R.

    Of points in an image all of this stays in the image's plane (see :func:`ikem_ext.derive_modalities`): the shear is
    one of x and y, and a rotation makes them narrower or lower, as a flat figure that turns.

    Shear and crop as in Wei et al., arXiv 2309.12009, and before it in AimCLR and CrosSCLR. Noise in every coordinate
    as in AimCLR (Guo et al., AAAI 2022). That what is masked becomes 0, joints in all frames and bodies of a clip, is
    what published codes do: 15 of 25 joints in that of Thoker et al., ACM MM 2021, and in CMD's, where it is one of two
    alternatives. AimCLR's flip exchanges left and right without negating x, which twists the body; here it is a mirror.

    Args:
        config: amplitudes.
        frames: T.
        joints: V.
        bodies: M.

    Example:
        >>> views = RandomViews(ViewsConfig(), frames=50, joints=25)
        >>> view = views(4, torch.Generator().manual_seed(0))
        >>> view.shear.shape, view.crop_padding, bool((view.crop_start <= 16).all())
        (torch.Size([4, 3, 3]), 8, True)
    """

    def __init__(self, config: ViewsConfig, frames: int, joints: int, bodies: int = 1) -> None:
        self.config = config
        self.frames = frames
        self.joints = joints
        self.bodies = bodies
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
        view = View(shear, crop_start, self.crop_padding, bone_scale, window)
        return self._changed_more(view, num_clips, generator)

    def _changed_more(self, view: View, num_clips: int, generator: torch.Generator) -> View:
        """Draw what no published setting asks for, after everything else, so that it changes none of that."""
        config = self.config

        def happens(probability: float) -> Tensor:
            return torch.rand(num_clips, generator=generator) < probability

        def factors(limits: tuple[float, float], probability: float) -> Tensor:
            least, most = limits
            drawn = least + (most - least) * torch.rand(num_clips, generator=generator)
            return torch.where(happens(probability), drawn, 1.0)

        def chosen(share: float, count: int, probability: float) -> Tensor:
            rank = torch.rand(num_clips, count, generator=generator).argsort(dim=1, stable=True).argsort(dim=1)
            return (rank < round(share * count)) & happens(probability)[:, None]

        if config.mirror_probability:
            view = view._replace(mirrored=happens(config.mirror_probability))
        if config.speed != (1, 1):
            view = view._replace(speed=factors(config.speed, config.speed_probability))
        if config.scale != (1, 1):
            view = view._replace(shear=view.shear * factors(config.scale, config.scale_probability)[:, None, None])
        if config.jitter:
            noise = torch.randn(num_clips, 3, self.frames, self.joints, self.bodies, generator=generator)
            amount = config.jitter * happens(config.jitter_probability)
            view = view._replace(noise=noise * amount.view(-1, 1, 1, 1, 1))
        if config.mask_joints or config.mask_frames:
            joints = chosen(config.mask_joints, self.joints, config.mask_joints_probability)
            frames = chosen(config.mask_frames, self.frames, config.mask_frames_probability)
            view = view._replace(masked=frames[:, :, None] | joints[:, None, :])
        return view


def rotation(degrees: Tensor, axis: int) -> Tensor:
    """Return the matrices (N, 3, 3) of rotations about a coordinate axis by angles (N,) in degrees."""
    cosine, sine = torch.cos(torch.deg2rad(degrees)), torch.sin(torch.deg2rad(degrees))
    a, b = (other for other in range(3) if other != axis)
    matrices = torch.eye(3).repeat(len(degrees), 1, 1)
    matrices[:, a, a] = matrices[:, b, b] = cosine
    matrices[:, a, b], matrices[:, b, a] = sine, -sine
    return matrices

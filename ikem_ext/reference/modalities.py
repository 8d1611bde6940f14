"""Plain-PyTorch twin of :func:`ikem_ext.derive_modalities`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..skeleton import SkeletonLayout, get_layout

MODALITIES = ("joint", "motion", "bone", "acceleration", "rotation_axis", "angular_velocity")
EPSILON = 1e-12  # lengths below it are not divided by


def derive_modalities(
    joints: Tensor,
    num_frames: Tensor,
    layout: SkeletonLayout | str,
    *,
    modalities: Sequence[str] = MODALITIES,
    reference_frames: int = 50,
    shear: Tensor | None = None,
    crop_start: Tensor | None = None,
    crop_padding: int = 0,
    clip_index: Tensor | None = None,
) -> Tensor:
    """See :func:`ikem_ext.derive_modalities`; the same arguments, values and gradients, on any device."""
    layout = get_layout(layout)
    if clip_index is not None:
        joints, num_frames = joints[clip_index], num_frames[clip_index]
    x = joints.to(torch.promote_types(joints.dtype, torch.float32))
    if crop_start is not None:
        x = _mirrored_crop(x, crop_start, crop_padding)
    confidence = x[:, 2:]
    if layout.third != "depth":
        x = torch.cat((x[:, :2], torch.zeros_like(confidence)), dim=1)
    if shear is not None:
        x = torch.einsum("nij,njtvm->nitvm", shear.to(x), x)
    if layout.third != "depth":  # what the shear moved out of the plane
        x = torch.cat((x[:, :2], torch.zeros_like(confidence)), dim=1)
    scale = (reference_frames / num_frames.to(x)).view(-1, 1, 1, 1, 1)
    derived = _Derived(x, scale, layout)
    values = {name: derived(name) for name in modalities}
    if layout.third == "confidence" and "joint" in values:
        values["joint"] = torch.cat((x[:, :2], confidence), dim=1)
    return torch.stack(list(values.values())).to(joints.dtype)


class _Derived:
    """The modalities of one batch, each computed once and only when asked for."""

    def __init__(self, joints: Tensor, scale: Tensor, layout: SkeletonLayout) -> None:
        self._joints, self._scale, self._layout = joints, scale, layout
        self._cache: dict[str, Tensor] = {"joint": joints}

    def __call__(self, name: str) -> Tensor:
        if name not in self._cache:
            formulas: dict[str, Callable[[], Tensor]] = {
                "motion": lambda: self._scale * _forward_difference(self("joint")),
                "acceleration": self._acceleration,
                "bone": self._bone,
                "rotation_axis": lambda: torch.linalg.cross(self("bone"), self._partner_bone(), dim=1),
                "angular_velocity": self._angular_velocity,
            }
            self._cache[name] = formulas[name]()
        return self._cache[name]

    def _acceleration(self) -> Tensor:
        acceleration = self._scale * _forward_difference(self("motion"))
        # The motion of the last frame is zero by definition, not by rest: no acceleration can be read from it.
        known = torch.arange(acceleration.shape[2], device=acceleration.device) < acceleration.shape[2] - 2
        return acceleration * known.view(-1, 1, 1)

    def _bone(self) -> Tensor:
        x, layout = self("joint"), self._layout
        bone = x - x[..., list(layout.parents), :]
        spine, left, right = (bone[..., joint, :] for joint in layout.torso)
        normal = _normalize(torch.linalg.cross(spine - right, left - right, dim=1))
        is_root = torch.arange(layout.num_joints, device=x.device) == layout.root
        return torch.where(is_root.view(-1, 1), normal.unsqueeze(3), bone)

    def _partner_bone(self) -> Tensor:
        return self("bone")[..., list(self._layout.angle_partners), :]

    def _angular_velocity(self) -> Tensor:
        u, w = _normalize(self("bone")), _normalize(self._partner_bone())
        theta = _atan2(_length(torch.linalg.cross(u, w, dim=1)), (u * w).sum(1, keepdim=True))
        return self._scale * _forward_difference(theta) * _normalize(self("rotation_axis"))


def _mirrored_crop(x: Tensor, start: Tensor, padding: int) -> Tensor:
    """T frames from ``start`` on of the clip with ``padding`` frames mirrored on at each end."""
    frames = x.shape[2]
    index = start.to(x.device).long().view(-1, 1) - padding + torch.arange(frames, device=x.device)
    index = torch.where(index < 0, -1 - index, index)
    index = torch.where(index >= frames, 2 * frames - 1 - index, index)
    return x.gather(2, index.view(-1, 1, frames, 1, 1).expand_as(x))


def _forward_difference(x: Tensor) -> Tensor:
    """``x[t + 1] - x[t]``, and zero in the last frame."""
    return torch.cat((x[:, :, 1:] - x[:, :, :-1], torch.zeros_like(x[:, :, :1])), dim=2)


def _length(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(v, dim=1, keepdim=True)


def _normalize(v: Tensor) -> Tensor:
    return v / _length(v).clamp_min(EPSILON)


def _atan2(y: Tensor, x: Tensor) -> Tensor:
    """atan2 whose gradient at (0, 0), the angle between absent bones, is finite."""
    absent = (y == 0) & (x == 0)
    return torch.atan2(y, x.masked_fill(absent, 1))

"""The modalities: all six in one pass, against the published form (a loop over the bones) and a vectorized one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import ikem_ext
from ikem_ext import LAYOUTS, MODALITIES, reference

from .measure import OURS, Case

NTU = LAYOUTS["ntu25"]


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    """Forward, with augmentation, and forward and backward, for a batch of NTU clips."""
    clips = 16 if quick else 64 if device.type == "cpu" else 4096
    generator = torch.Generator().manual_seed(0)
    joints = torch.randn(clips, 3, 50, 25, 2, generator=generator).to(device, dtype)
    num_frames = torch.randint(30, 200, (clips,), generator=generator).to(device)
    shear = (torch.eye(3) + torch.rand(clips, 3, 3, generator=generator) - 0.5).to(device)
    crop = torch.randint(0, 17, (clips,), generator=generator).to(device)
    augmentation = {"shear": shear, "crop_start": crop, "crop_padding": 8}
    once = joints.nbytes * (1 + len(MODALITIES))
    parameters = {"clips": clips, "frames": 50, "joints": 25, "bodies": 2, "dtype": str(dtype)}

    def case(name: str, bytes_moved: int, work: Callable[..., Any], **options: Any) -> Case:
        functions = {
            OURS: ikem_ext.derive_modalities,
            "loop over bones": published,
            "vectorized": reference.derive_modalities,
        }
        if not quick:
            functions |= {
                f"{variant}, compiled": torch.compile(function, dynamic=False)
                for variant, function in list(functions.items())[1:]
            }
        variants = {
            variant: partial(work, function, joints, num_frames, NTU, **options)
            for variant, function in functions.items()
        }
        return Case("modalities", f"{name}, {clips} clips", variants, bytes_moved, parameters=parameters)

    yield case("forward", once, _forward)
    yield case("crop, shear, forward", once, _forward, **augmentation)
    yield case("crop, shear, forward and backward", 2 * once + joints.nbytes, _forward_and_backward, **augmentation)


def _forward(function: Callable[..., Tensor], *arguments: Any, **options: Any) -> Tensor:
    with torch.no_grad():
        return function(*arguments, **options)


def _forward_and_backward(function: Callable[..., Tensor], joints: Tensor, *arguments: Any, **options: Any) -> Tensor:
    leaf = joints.detach().requires_grad_()
    derived = function(leaf, *arguments, **options)
    return torch.autograd.grad(derived, leaf, torch.ones_like(derived))[0]


def published(
    joints: Tensor,
    num_frames: Tensor,
    layout: ikem_ext.SkeletonLayout,
    *,
    shear: Tensor | None = None,
    crop_start: Tensor | None = None,
    crop_padding: int = 0,
) -> Tensor:
    """All six modalities bone by bone, as the method's published code goes about it."""
    if crop_start is not None:
        joints = reference.modalities._mirrored_crop(joints, crop_start, crop_padding)
    if shear is not None:
        joints = torch.einsum("nij,njtvm->nitvm", shear.to(joints), joints)
    assert layout.angle_partners is not None
    scale = (50 / num_frames).to(joints).view(-1, 1, 1, 1, 1)
    motion, acceleration, bone, axis, velocity = (torch.zeros_like(joints) for _ in range(5))
    motion[:, :, :-1] = scale * (joints[:, :, 1:] - joints[:, :, :-1])
    acceleration[:, :, :-2] = scale * (motion[:, :, 1:-1] - motion[:, :, :-2])
    for joint, parent in enumerate(layout.parents):
        if joint != parent:
            bone[:, :, :, joint] = joints[:, :, :, joint] - joints[:, :, :, parent]
    spine, left, right = (bone[:, :, :, joint].clone() for joint in layout.torso)
    bone[:, :, :, layout.root] = _unit(torch.linalg.cross(spine - right, left - right, dim=1))
    for joint, partner in enumerate(layout.angle_partners):
        first, second = bone[:, :, :, joint].clone(), bone[:, :, :, partner].clone()
        axis[:, :, :, joint] = torch.linalg.cross(first, second, dim=1)
        u, w = _unit(first), _unit(second)
        angle = torch.atan2(torch.linalg.cross(u, w, dim=1).norm(dim=1), (u * w).sum(1))
        turn = (angle[:, 1:] - angle[:, :-1])[:, None]
        velocity[:, :, :-1, joint] = scale[..., 0] * turn * _unit(axis[:, :, :-1, joint].clone())
    return torch.stack([joints, motion, bone, acceleration, axis, velocity])


def _unit(v: Tensor) -> Tensor:
    return torch.nn.functional.normalize(v, dim=1)

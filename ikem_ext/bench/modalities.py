"""The modalities: all six in one pass, against the published form (a loop over the bones) and a vectorized one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

import ikem_ext
from ikem_ext import LAYOUTS, MODALITIES, reference

from .measure import OURS, Case, forward, forward_and_backward, with_compiled

NTU = LAYOUTS["ntu25"]


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    """A batch of NTU clips, as they are and with crop and shear: forward, and forward and backward."""
    clips = 4 if quick else 64 if device.type == "cpu" else 4096
    for augmented in (False, True):
        name = f"{'crop, shear, ' if augmented else ''}six modalities, {clips} clips"
        for backward in (False, True):
            # The loop over bones takes minutes to compile, so this is done once, for what the method does with it:
            # it never differentiates modalities, and what augments them is the same in all variants but ours.
            compiled = () if quick else ("vectorized",) if augmented or backward else ("published", "vectorized")
            yield _case(name, compiled, device, dtype, clips, augmented=augmented, backward=backward)


def scaling(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    """Forward, over clips and over frames."""
    compiled = () if quick else ("vectorized",)
    for clips in (2, 4) if quick else (4, 16, 64, 256):
        yield _case("six modalities, 50 frames", compiled, device, dtype, clips, swept="clips")
    clips = 4 if quick else 64
    for frames in (25, 50) if quick else (25, 50, 100, 200):
        yield _case(f"six modalities, {clips} clips", compiled, device, dtype, clips, frames, swept="frames")


def _case(
    name: str,
    compiled: Sequence[str],
    device: torch.device,
    dtype: torch.dtype,
    clips: int,
    frames: int = 50,
    *,
    augmented: bool = False,
    backward: bool = False,
    swept: str | None = None,
) -> Case:
    generator = torch.Generator().manual_seed(0)
    joints = torch.randn(clips, 3, frames, 25, 2, generator=generator).to(device, dtype).requires_grad_()
    num_frames = torch.randint(30, 200, (clips,), generator=generator).to(device)
    cotangent = torch.randn(len(MODALITIES), *joints.shape, generator=generator).to(device, dtype)
    padding = frames // 6
    augmentation = {
        "shear": (torch.eye(3) + torch.rand(clips, 3, 3, generator=generator) - 0.5).to(device),
        "crop_start": torch.randint(0, 2 * padding + 1, (clips,), generator=generator).to(device),
        "crop_padding": padding,
    }
    functions = {OURS: ikem_ext.derive_modalities, "published": published, "vectorized": reference.derive_modalities}
    run = partial(forward_and_backward, cotangent=cotangent) if backward else forward
    once = joints.nbytes + cotangent.nbytes
    return Case(
        "modalities",
        name,
        {
            variant: partial(run, function, [joints], num_frames, NTU, **(augmentation if augmented else {}))
            for variant, function in with_compiled(functions, compiled).items()
        },
        # The backward pass reads the joints and the gradients, and writes the gradient of the joints.
        bytes_moved=2 * once + joints.nbytes if backward else once,
        parameters={"clips": clips, "frames": frames, "joints": 25, "bodies": 2, "dtype": str(dtype)},
        passes="forward and backward" if backward else "forward",
        swept=swept,
    )


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
    scale = (50 / num_frames.to(joints)).view(-1, 1, 1, 1, 1)
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


PARTS = (cases,)
SWEEPS = (scaling,)

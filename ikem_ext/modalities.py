"""The six modalities of a skeleton clip, derived from its joints in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _library
from ._checks import FLOATING, Shapes, not_for_torchscript
from ._transforms import (
    FORWARD_MODE,
    SECOND_DERIVATIVES,
    mapped_first,
    refuse,
    register_derivatives,
    register_vmap,
    save,
    wants_gradient,
)
from .reference.modalities import MODALITIES
from .skeleton import SkeletonLayout, get_layout

__all__ = ["MODALITIES", "derive_modalities"]


@not_for_torchscript
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
    r"""Augments skeleton clips and derives their modalities.

    With joints :math:`x` (after the crop and the shear, if any), bone :math:`b_{t,j} = x_{t,j} - x_{t,p(j)}` from
    the parent :math:`p(j)`, angle partner :math:`a(j)` and time scale :math:`s` = ``reference_frames / num_frames``:

    ===================  ==============================================================  ====================
    modality             value at frame t, joint j                                       zero where
    ===================  ==============================================================  ====================
    joint                :math:`x_{t,j}`
    motion               :math:`s\,(x_{t+1,j} - x_{t,j})`                                t = T-1
    bone                 :math:`b_{t,j}`; at the root the torso's unit normal,
                         normalize((b_spine - b_right) × (b_left - b_right))
    acceleration         :math:`s` (motion[t+1,j] - motion[t,j])                         t >= T-2
    rotation_axis        :math:`b_{t,j} \times b_{t,a(j)}`                               a(j) = j
    angular_velocity     :math:`s\,(\theta_{t+1,j} - \theta_{t,j})` normalize(axis)      t = T-1
    ===================  ==============================================================  ====================

    where :math:`\theta_{t,j} = \mathrm{atan2}(|u \times w|, u \cdot w)` with u and w the normalized bones of j and
    a(j), and normalize(v) = v / max(\|v\|, 1e-12). An absent body (all zeros) gives zeros. The gradient with
    respect to the joints takes that of a length, and of an angle, to be zero where it does not exist (at zero).

    Points in an image (``layout.third`` is not ``depth``) stay in its plane: they are sheared within it, whatever their
    third coordinate, and the torso's normal and rotation axes lie along z (but for those of bones that are paired with
    the root's, that is, with the normal). Confidences, where they are the third coordinate, come through the crop to
    be that of the joint modality; the others are derived from the points alone.

    Args:
        joints: coordinates (N, 3, T, V, M): clips, axes, frames, joints, bodies, in any unit and with any strides;
            float32, float64, bfloat16 or float16. Half precisions are computed in float32.
        num_frames: integers (N,), each clip's length before it was resized to T frames. At least 1 (seen to on the
            CPU; on a GPU it would make the CPU wait).
        layout: the skeleton, or its name in :data:`ikem_ext.LAYOUTS`; at most 256 joints.
        modalities: which to derive, in the order wanted, each once.
        reference_frames: number of frames at which the time scale is 1.
        shear: (N, 3, 3), applied to each joint, x' = shear @ x. It is not differentiable.
        crop_start: integers (N,) in [0, 2 * crop_padding]: T frames are taken from there on of the clip with
            ``crop_padding`` frames mirrored on at each end, the frame at the edge repeated. (On a GPU, values out of
            this range are clamped to it.)
        crop_padding: frames mirrored on at each end, at most T.
        clip_index: integers (N,), which clips of ``joints`` and ``num_frames``, now (D, 3, T, V, M) and (D,), to take:
            the same as ``joints[clip_index]`` and ``num_frames[clip_index]``, without a copy of them. ``shear`` and
            ``crop_start`` are those of the clips taken. (On a GPU, values outside of [0, D) are clamped to it.)

    Returns:
        (len(modalities), N, 3, T, V, M), contiguous, in the dtype of ``joints`` (under autocast in float32).
        Differentiable in ``joints``, unless they are taken by ``clip_index``: once and in reverse mode, by autograd and
        ``torch.func`` alike; joint, motion and acceleration alone, which are linear, also in forward mode and more than
        once. Mapped by ``torch.vmap``. The same input gives the same bits, for any number of threads.

    Raises:
        TypeError: an argument has the wrong type or dtype, or is sparse or nested.
        ValueError: a shape, a device, a name or a value does not fit; ``shear`` requires a gradient; or ``joints`` do,
            with a ``clip_index``.
        RuntimeError: the joints are on a GPU and the package was built without CUDA.
        NotImplementedError: a derivative was asked for that there is none of, in forward mode or a second one;
            :func:`ikem_ext.reference.derive_modalities` has it.

    Source: Wei et al., arXiv 2309.12009, Section 3.1 (modalities); temporal crop and shear as in Li et al.
    (CrosSCLR), CVPR 2021, Section 4.2.

    Example:
        >>> import torch, ikem_ext
        >>> joints = torch.randn(8, 3, 50, 25, 2)
        >>> num_frames = torch.full((8,), 90)
        >>> ikem_ext.derive_modalities(joints, num_frames, "ntu25").shape
        torch.Size([6, 8, 3, 50, 25, 2])
        >>> motion, bone = ikem_ext.derive_modalities(joints, num_frames, "ntu25", modalities=["motion", "bone"])
        >>> torch.equal(motion[:, :, -1], torch.zeros(8, 3, 25, 2))
        True
    """
    layout = get_layout(layout)
    shapes = Shapes()
    source = "N" if clip_index is None else "D"
    shapes.check("joints", joints, f"{source} 3 T V M")
    shapes.check("num_frames", num_frames, source)
    if joints.dtype not in FLOATING:
        raise TypeError(f"joints: expected one of {[str(t) for t in FLOATING]}, got {joints.dtype}")
    if joints.shape[3] != layout.num_joints:
        raise ValueError(
            f"joints: expected V={layout.num_joints} as layout {layout.name!r} has, got {tuple(joints.shape)}"
        )
    if reference_frames <= 0:
        raise ValueError(f"reference_frames: expected above 0, got {reference_frames}")
    _library.require_device("joints", joints)
    if clip_index is not None:
        shapes.check("clip_index", clip_index, "N")
        clip_index = _integers(joints, "clip_index", clip_index)
    matrix = torch.float64 if joints.dtype == torch.float64 else torch.float32
    if shear is not None:
        shapes.check("shear", shear, "N 3 3")
        _require_same_device(joints, "shear", shear)
        if not shear.dtype.is_floating_point:
            raise TypeError(f"shear: expected a floating dtype, got {shear.dtype}")
        shear = shear.to(matrix)
    if crop_start is not None:
        shapes.check("crop_start", crop_start, "N")
        crop_start = _integers(joints, "crop_start", crop_start)
        if not 0 <= crop_padding <= joints.shape[2]:
            raise ValueError(f"crop_padding: expected 0 to T={joints.shape[2]}, got {crop_padding}")
    elif crop_padding != 0:
        raise ValueError(f"crop_padding: expected 0 without crop_start, got {crop_padding}")
    num_frames = _integers(joints, "num_frames", num_frames)
    skeleton = (layout.parents, layout.angle_partners, layout.torso, float(reference_frames))

    def derive(names: Sequence[str], shear: Tensor | None) -> Tensor:
        augmentation = (shear, crop_start, crop_padding, clip_index)
        return torch.ops.ikem_ext.derive_modalities(joints, num_frames, _indices(names), *skeleton, *augmentation)

    if layout.third == "depth":
        return derive(modalities, shear)
    clips = (joints if clip_index is None else clip_index).shape[0]  # len() would fix it in an exported program
    # Made where the joints are: a copy of numbers from the CPU would wait for the device, and has no place in a graph.
    plane = (torch.arange(3, device=joints.device) < 2).to(matrix)
    shear = torch.diag(plane).expand(clips, 3, 3) if shear is None else shear
    # By elements: autocast would round a product of matrices.
    derived = derive(modalities, shear * plane * plane[:, None])
    if layout.third == "confidence" and "joint" in modalities:
        derived[list(modalities).index("joint")] += derive(["joint"], torch.diag(1 - plane).expand(clips, 3, 3))[0]
    return derived


def _indices(modalities: Sequence[str]) -> list[int]:
    if isinstance(modalities, str):
        raise TypeError(f"modalities: expected a sequence of names, got the single name {modalities!r}")
    names = list(modalities)
    if not names or len(set(names)) != len(names) or not set(names) <= set(MODALITIES):
        raise ValueError(f"modalities: expected one or more of {MODALITIES}, each once, got {tuple(names)}")
    return [MODALITIES.index(name) for name in names]


def _integers(joints: Tensor, name: str, values: Tensor) -> Tensor:
    if values.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        raise TypeError(f"{name}: expected integers, got {values.dtype}")
    _require_same_device(joints, name, values)
    return values.to(torch.int64)


def _require_same_device(joints: Tensor, name: str, tensor: Tensor) -> None:
    if tensor.device != joints.device:
        raise ValueError(f"{name}: expected to be on {joints.device} as joints are, got {tensor.device}")


@torch.library.register_fake("ikem_ext::derive_modalities")
def _fake(joints: Tensor, num_frames: Tensor, modalities: list[int], *settings: Any) -> Tensor:
    clips = joints if settings[-1] is None else settings[-1]
    return joints.new_empty((len(modalities), clips.shape[0], *joints.shape[1:]))


@torch.library.register_fake("ikem_ext::derive_modalities_backward")
def _fake_backward(grad_out: Tensor, joints: Tensor, *settings: Any) -> Tensor:
    return joints.new_empty(joints.shape)


_LINEAR = {MODALITIES.index(name) for name in ("joint", "motion", "acceleration")}


def _require_linear(modalities: Sequence[int], derivatives: str) -> None:
    if not _LINEAR.issuperset(modalities):
        refuse("derive_modalities", f"{derivatives} but of joint, motion and acceleration alone")


def _require_none_along(tangents: Sequence[Tensor | None]) -> None:
    """Of the arguments that are not the joints, shear alone can have one."""
    if any(tangent is not None for tangent in tangents):
        refuse("derive_modalities", "derivatives with respect to shear")


def _check_gradients_wanted(*arguments: Any) -> tuple[Any, ...]:
    joints, *_, shear, _, _, clip_index = arguments
    if wants_gradient(shear):
        raise ValueError("shear: expected no gradient to be required, as none is derived; use shear.detach()")
    if clip_index is not None and wants_gradient(joints):
        raise ValueError("joints: expected no gradient to be required with clip_index; use joints[clip_index] instead")
    return arguments


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    joints, num_frames, *ctx.settings, shear, crop_start, ctx.crop_padding, clip_index = inputs
    save(ctx, joints, num_frames, shear, crop_start, clip_index)


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    joints, num_frames, shear, crop_start, _ = ctx.saved_tensors
    grad_joints = torch.ops.ikem_ext.derive_modalities_backward(
        grad_out, joints, num_frames, *ctx.settings, shear, crop_start, ctx.crop_padding
    )
    return (grad_joints, *(None for _ in range(10)))


def _jvp(ctx: Any, saved: Sequence[Any], *tangents: Tensor | None) -> Tensor:
    _, num_frames, shear, crop_start, clip_index = saved
    by_joints, *others = tangents
    _require_none_along(others)
    _require_linear(ctx.settings[0], FORWARD_MODE)
    return torch.ops.ikem_ext.derive_modalities(
        by_joints, num_frames, *ctx.settings, shear, crop_start, ctx.crop_padding, clip_index
    )


register_derivatives(
    "derive_modalities",
    prepare=_check_gradients_wanted,
    setup_context=_setup_context,
    backward=_backward,
    jvp=_jvp,
)


def _setup_context_of_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, joints, num_frames, *ctx.settings, shear, crop_start, ctx.crop_padding = inputs
    save(ctx, joints, num_frames, shear, crop_start)


def _double_backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
    _require_linear(ctx.settings[0], SECOND_DERIVATIVES)
    _, num_frames, shear, crop_start = ctx.saved_tensors
    grad_of_gradient = torch.ops.ikem_ext.derive_modalities(
        given, num_frames, *ctx.settings, shear, crop_start, ctx.crop_padding, None
    )
    return (grad_of_gradient, *(None for _ in range(10)))


def _jvp_of_backward(
    ctx: Any, saved: Sequence[Any], by_grad_out: Tensor | None, by_joints: Tensor | None, *tangents: Tensor | None
) -> Tensor:
    joints, num_frames, shear, crop_start = saved
    _require_none_along(tangents)
    if by_joints is not None:
        _require_linear(ctx.settings[0], SECOND_DERIVATIVES)
    if by_grad_out is None:
        return torch.zeros_like(joints)
    return torch.ops.ikem_ext.derive_modalities_backward(
        by_grad_out, joints, num_frames, *ctx.settings, shear, crop_start, ctx.crop_padding
    )


register_derivatives(
    "derive_modalities_backward",
    setup_context=_setup_context_of_backward,
    backward=_double_backward,
    jvp=_jvp_of_backward,
)


def _merged(argument: Any, axis: int | None, size: int) -> Any:
    """The mapped axis and the clips as one batch."""
    return mapped_first(argument, axis, size).flatten(0, 1) if isinstance(argument, Tensor) else argument


@register_vmap("derive_modalities")
def _vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    size = info.batch_size
    joints, num_frames, *settings, clip_index = args
    settings = [_merged(argument, axis, size) for argument, axis in zip(settings, in_dims[2:-1], strict=True)]
    same_clips = clip_index is not None and in_dims[:2] == (None, None)  # to take from, so they need no copies
    if clip_index is not None:
        clip_index = _merged(clip_index, in_dims[-1], size)
    if not same_clips:
        joints, num_frames = _merged(joints, in_dims[0], size), _merged(num_frames, in_dims[1], size)
    if clip_index is not None and not same_clips:  # each takes from its own share of the merged clips
        shares = torch.arange(size, device=joints.device) * (len(joints) // size)
        clip_index = clip_index + shares.repeat_interleave(len(clip_index) // size)
    derived = torch.ops.ikem_ext.derive_modalities(joints, num_frames, *settings, clip_index)
    return derived.unflatten(1, (size, -1)), 1


@register_vmap("derive_modalities_backward")
def _vmap_of_backward(info: Any, in_dims: tuple[int | None, ...], grad_out: Tensor, *args: Any) -> tuple[Tensor, int]:
    grad_out = mapped_first(grad_out, in_dims[0], info.batch_size).movedim(0, 1).flatten(1, 2)
    others = (_merged(argument, axis, info.batch_size) for argument, axis in zip(args, in_dims[1:], strict=True))
    return torch.ops.ikem_ext.derive_modalities_backward(grad_out, *others).unflatten(0, (info.batch_size, -1)), 0


# Differences between neighbours lose what half precision has to lose: like other such operations, under autocast this
# one computes in float32.
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("ikem_ext::derive_modalities", _device, torch.float32)

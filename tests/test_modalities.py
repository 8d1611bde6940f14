from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any, ClassVar

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from modalities_digests import digests
from operation_checks import DEVICES, DTYPES, Arguments, OperationChecks, assert_as_accurate, non_contiguous
from torch import Tensor

import ikem_ext
from ikem_ext import LAYOUTS, MODALITIES, SkeletonLayout, derive_modalities, reference

Golden = Callable[[str], dict[str, np.ndarray]]
SCALED = ("motion", "acceleration", "angular_velocity")

# Four joints, the root not first, one joint paired with itself, one with a joint that is not its parent.
SMALL = SkeletonLayout(
    name="small",
    joint_names=("hand", "chest", "hip", "foot"),
    parents=(1, 1, 1, 2),
    torso=(2, 0, 3),
    angle_partners=(0, 1, 3, 0),
)


def make_clips(
    clips: int = 2,
    frames: int = 5,
    layout: SkeletonLayout = SMALL,
    bodies: int = 2,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    joints = torch.randn(clips, 3, frames, layout.num_joints, bodies, generator=generator, dtype=torch.float64)
    num_frames = torch.randint(10, 200, (clips,), generator=generator)
    return joints.to(device, dtype), num_frames.to(device)


def make_augmentation(joints: Tensor, padding: int, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    shear = torch.eye(3) + torch.rand(len(joints), 3, 3, generator=generator) - 0.5
    start = torch.randint(0, 2 * padding + 1, (len(joints),), generator=generator)
    return {"shear": shear.to(joints.device), "crop_start": start.to(joints.device), "crop_padding": padding}


class TestDeriveModalities(OperationChecks):
    operation = staticmethod(derive_modalities)
    reference = staticmethod(reference.derive_modalities)
    differentiable = ("joints",)
    layout: ClassVar[SkeletonLayout] = SMALL
    batch_axes: ClassVar[dict[str, int]] = dict.fromkeys(("joints", "num_frames", "shear", "crop_start"), 0)

    def inputs(self, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
        joints, num_frames = make_clips(dtype=dtype, device=device, seed=seed)
        augmentation = make_augmentation(joints, seed % 3, seed)
        return {"joints": joints, "num_frames": num_frames, "layout": self.layout, **augmentation}

    def native_calls(self, arguments: Arguments) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        layout = arguments["layout"]
        settings = (
            arguments["num_frames"],
            list(range(len(MODALITIES))),
            list(layout.parents),
            list(layout.angle_partners),
            list(layout.torso),
            50.0,
            arguments["shear"].double(),
            arguments["crop_start"],
            arguments["crop_padding"],
        )
        operations = torch.ops.ikem_ext
        yield operations.derive_modalities.default, (arguments["joints"], *settings, None)
        joints = arguments["joints"].detach()
        index = torch.arange(len(joints), device=joints.device)
        yield operations.derive_modalities.default, (joints, *settings, index)
        gradient = torch.ones(len(MODALITIES), *joints.shape, dtype=joints.dtype, device=joints.device)
        yield operations.derive_modalities_backward.default, (gradient, joints, *settings)


class TestDeriveModalitiesInAnImage(TestDeriveModalities):
    layout = replace(SMALL, third="confidence")
    ulps = 8  # what one rounding of the sheared coordinates, ours or the twin's, can do to an angle's gradient

    def native_calls(self, arguments: Arguments) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        yield from ()  # the same as above


@pytest.mark.parametrize("file", ["exchange_small", "modalities_real_ntu"])
def test_golden_numbers_of_the_published_code(golden: Golden, file: str) -> None:
    numbers = golden(file)
    derived = derive_modalities(torch.from_numpy(numbers["joint"]), torch.from_numpy(numbers["num_frames"]), "ntu25")
    for name, ours in zip(MODALITIES, derived, strict=True):
        tolerance = 1e-5 if name in SCALED else 1e-9
        np.testing.assert_allclose(ours, numbers[f"derived_{name}"], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_golden_recordings_in_each_precision(golden: Golden, dtype: torch.dtype) -> None:
    numbers = golden("modalities_real_ntu")
    joints, num_frames = torch.from_numpy(numbers["joint"]).to(dtype), torch.from_numpy(numbers["num_frames"])
    ours = derive_modalities(joints, num_frames, "ntu25")
    plain = reference.derive_modalities(joints, num_frames, "ntu25")
    truth = reference.derive_modalities(joints.double(), num_frames, "ntu25")
    for name, *values in zip(MODALITIES, ours, plain, truth, strict=True):
        assert_as_accurate(*values, name)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_each_layout(layout: SkeletonLayout, device: str) -> None:
    joints, num_frames = make_clips(2, 17, layout, dtype=torch.float64, device=device)
    check_against_twin(joints, num_frames, layout, **make_augmentation(joints, 4))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("clips", [0, 1, 3])
@pytest.mark.parametrize("frames", [1, 2, 3, 13, 50, 211])
@pytest.mark.parametrize("bodies", [1, 2, 3])
def test_odd_sizes(clips: int, frames: int, bodies: int, device: str) -> None:
    joints, num_frames = make_clips(clips, frames, LAYOUTS["ntu25"], bodies, torch.float64, device)
    check_against_twin(joints, num_frames, "ntu25")
    check_against_twin(joints, num_frames, "ntu25", **make_augmentation(joints, frames))


@settings(max_examples=60)
@given(
    clips=st.integers(0, 3),
    frames=st.integers(1, 40),
    bodies=st.integers(1, 4),
    layout=st.sampled_from([SMALL, *LAYOUTS.values()]),
    modalities=st.lists(st.sampled_from(MODALITIES), min_size=1, unique=True),
    padding=st.one_of(st.none(), st.floats(0, 1)),
    strided=st.booleans(),
    reference_frames=st.integers(1, 300),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_choice(
    clips: int,
    frames: int,
    bodies: int,
    layout: SkeletonLayout,
    modalities: list[str],
    padding: float | None,
    strided: bool,
    reference_frames: int,
    seed: int,
) -> None:
    joints, num_frames = make_clips(clips, frames, layout, bodies, torch.float64, seed=seed)
    options: dict[str, Any] = {"modalities": modalities, "reference_frames": reference_frames}
    if padding is not None:
        options |= make_augmentation(joints, round(padding * frames), seed)
    check_against_twin(non_contiguous(joints) if strided else joints, num_frames, layout, **options)


def check_against_twin(joints: Tensor, num_frames: Tensor, layout: SkeletonLayout | str, **options: Any) -> None:
    results = []
    for function in (derive_modalities, reference.derive_modalities):
        leaf = joints.detach().requires_grad_()
        output = function(leaf, num_frames, layout, **options)
        gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        results.append((output, *torch.autograd.grad(output, leaf, gradient.to(output))))
    # Angles between random bones may be next to 0 or pi, where gradients are ill-conditioned.
    torch.testing.assert_close(results[0], results[1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_takes_clips_by_index(dtype: torch.dtype, device: str) -> None:
    joints, num_frames = make_clips(7, 9, LAYOUTS["ntu25"], dtype=dtype, device=device)
    for index in (torch.tensor([6, 0, 3, 3], device=device), torch.empty(0, dtype=torch.int64, device=device)):
        augmentation = make_augmentation(joints[index], 3)
        expected = derive_modalities(joints[index], num_frames[index], "ntu25", **augmentation)
        for source in (joints, non_contiguous(joints)):
            taken = derive_modalities(source, num_frames, "ntu25", clip_index=index, **augmentation)
            assert torch.equal(taken, expected)
        plain = reference.derive_modalities(joints, num_frames, "ntu25", clip_index=index, **augmentation)
        truth = reference.derive_modalities(joints.double(), num_frames, "ntu25", clip_index=index, **augmentation)
        assert_as_accurate(taken, plain, truth)


def test_vmap_over_clips_taken_by_index() -> None:
    joints, num_frames = make_clips(6, 4)
    index = torch.tensor([[5, 0, 0], [1, 2, 5]])
    taken = torch.vmap(lambda part: derive_modalities(joints, num_frames, SMALL, clip_index=part))(index)
    assert torch.equal(taken, torch.stack([derive_modalities(joints[part], num_frames[part], SMALL) for part in index]))


def test_vmap_over_sets_of_clips_and_indices_into_them() -> None:
    joints, num_frames = make_clips(6, 4)
    joints, num_frames = joints.view(2, 3, *joints.shape[1:]), num_frames.view(2, 3)
    index = torch.tensor([[2, 0, 0, 1], [1, 1, 2, 0]])

    def derive(x: Tensor, n: Tensor, part: Tensor) -> Tensor:
        return derive_modalities(x, n, SMALL, clip_index=part)

    taken = torch.vmap(derive)(joints, num_frames, index)
    assert torch.equal(taken, torch.stack([derive(*each) for each in zip(joints, num_frames, index, strict=True)]))
    same_lengths = torch.vmap(derive, in_dims=(0, None, None))(joints, num_frames[0], index[0])
    assert torch.equal(same_lengths, torch.stack([derive(x, num_frames[0], index[0]) for x in joints]))


@pytest.mark.parametrize("torso", [(0, 1, 2), (1, 0, 2), (1, 2, 0)])
def test_a_torso_with_the_root_in_it(torso: tuple[int, int, int]) -> None:
    layout = SkeletonLayout("three", ("root", "a", "b"), (0, 0, 1), torso)
    joints, num_frames = make_clips(2, 5, layout, dtype=torch.float64)
    check_against_twin(joints, num_frames, layout)


def test_every_order_of_modalities() -> None:
    joints, num_frames = make_clips()
    everything = dict(zip(MODALITIES, derive_modalities(joints, num_frames, SMALL), strict=True))
    for count in range(1, len(MODALITIES) + 1):
        for names in permutations(MODALITIES, count):
            derived = derive_modalities(joints, num_frames, SMALL, modalities=names)
            assert torch.equal(derived, torch.stack([everything[name] for name in names])), names


def test_crop_mirrors_the_clip_at_both_ends() -> None:
    frames = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(3, 3, 4, 4, 1)
    cropped = derive_modalities(
        frames, torch.ones(3, dtype=torch.int64), SMALL, modalities=["joint"],
        crop_start=torch.tensor([0, 2, 4]), crop_padding=2,
    )  # fmt: skip
    assert cropped[0, :, 0, :, 0, 0].tolist() == [[1, 0, 0, 1], [0, 1, 2, 3], [2, 3, 3, 2]]


def test_shear_of_one_joint() -> None:
    joints = torch.zeros(1, 3, 1, 4, 1)
    joints[0, :, 0, 3, 0] = torch.tensor([1.0, 2.0, 3.0])
    shear = torch.tensor([[[1.0, 0.5, 0.0], [0.0, 1.0, 0.25], [-0.5, 0.0, 1.0]]])
    derived = derive_modalities(joints, torch.tensor([1]), SMALL, modalities=["joint"], shear=shear)
    assert derived[0, 0, :, 0, 3, 0].tolist() == [2.0, 2.75, 2.5]


class TestPointsInAnImage:
    ZERO, CONFIDENCE = (replace(SMALL, third=third) for third in ("zero", "confidence"))

    def clips(self) -> dict[str, Any]:
        joints, num_frames = make_clips(3, 7)
        joints[:, 2] = torch.rand(joints[:, 2].shape)
        shear, crop_start = torch.randn(3, 3, 3), torch.tensor([0, 2, 4])
        return {
            "joints": joints,
            "num_frames": num_frames,
            "shear": shear,
            "crop_start": crop_start,
            "crop_padding": 2,
        }

    @pytest.mark.parametrize("layout", [ZERO, CONFIDENCE], ids=["zero", "confidence"])
    @pytest.mark.parametrize("sheared", [False, True])
    def test_stay_in_its_plane(self, layout: SkeletonLayout, sheared: bool) -> None:
        clips = self.clips()
        if not sheared:
            clips["shear"] = None
        derived = derive_modalities(layout=layout, **clips)
        torch.testing.assert_close(derived, reference.derive_modalities(layout=layout, **clips), atol=1e-5, rtol=1e-5)
        joint, motion, bone, acceleration, axis, velocity = derived
        for along_z in (axis, velocity, bone[..., layout.root, :].unsqueeze(3)):
            assert (along_z[:, :2] == 0).all()
            assert along_z[:, 2].any()
        for within in (motion, acceleration, bone[..., [0, 2, 3], :]):
            assert (within[:, 2] == 0).all()
            assert within[:, :2].any()
        if sheared:  # the third coordinate has no part in the others, and takes none from them
            alike = {**clips, "joints": clips["joints"] * torch.tensor([1, 1, 0]).view(3, 1, 1, 1)}
            alike["shear"] = clips["shear"] * torch.tensor([[1, 1, 9], [1, 1, 9], [9, 9, 9]])
            others = derive_modalities(layout=layout, **alike)
            assert torch.equal(derived[1:], others[1:])
            assert torch.equal(joint[:, :2], others[0, :, :2])

    def test_confidences_come_through_the_crop_as_they_are(self) -> None:
        clips = self.clips()
        derived = derive_modalities(layout=self.CONFIDENCE, modalities=["motion", "joint"], **clips)
        cropped = derive_modalities(layout=SMALL, modalities=["joint"], **{**clips, "shear": None})
        assert torch.equal(derived[1, :, 2], cropped[0, :, 2])
        assert (derived[0, :, 2] == 0).all()
        joint = derive_modalities(layout=self.ZERO, modalities=["joint"], **clips)[0]
        assert (joint[:, 2] == 0).all()

    def test_gradient_and_clips_by_index(self) -> None:
        clips = self.clips()
        joints = clips.pop("joints").double().requires_grad_()
        derived, plain = (
            function(joints, layout=self.CONFIDENCE, **clips)
            for function in (derive_modalities, reference.derive_modalities)
        )
        weight = torch.randn_like(derived)
        ours, theirs = (torch.autograd.grad((each * weight).sum(), joints)[0] for each in (derived, plain))
        torch.testing.assert_close(ours, theirs)
        index = torch.tensor([2, 0, 2])
        alike = {name: value[index] for name, value in clips.items() if name in ("shear", "crop_start")}
        taken = derive_modalities(joints.detach(), clip_index=index, layout=self.CONFIDENCE, **{**clips, **alike})
        copied = {**clips, **alike, "num_frames": clips["num_frames"][index]}
        assert torch.equal(taken, derive_modalities(joints.detach()[index], layout=self.CONFIDENCE, **copied))

    def test_compiles(self) -> None:
        clips = self.clips()
        compiled = torch.compile(derive_modalities, fullgraph=True, backend="aot_eager")
        expected = derive_modalities(layout=self.CONFIDENCE, **clips)
        assert torch.equal(compiled(layout=self.CONFIDENCE, **clips), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_absent_bodies_are_zero_and_pass_no_gradient_that_is_not_a_number(dtype: torch.dtype, device: str) -> None:
    joints, num_frames = make_clips(3, 9, LAYOUTS["ntu25"], dtype=dtype, device=device)
    joints[..., 1] = 0  # never there
    joints[1, :, 4:, :, 0] = 0  # leaves
    joints[2, :, :3, :, 0] = 0  # comes
    joints.requires_grad_()
    derived = derive_modalities(joints, num_frames, "ntu25")
    assert derived.isfinite().all()
    assert (derived[..., 1] == 0).all()
    (gradient,) = torch.autograd.grad(derived.sum(), joints)
    assert not gradient.isnan().any()


def test_all_joints_in_one_place_give_no_nan() -> None:
    joints = torch.ones(1, 3, 4, 25, 1, requires_grad=True)
    derived = derive_modalities(joints, torch.tensor([4]), "ntu25")
    assert (derived[1:] == 0).all()
    (gradient,) = torch.autograd.grad(derived.sum(), joints)
    assert gradient.isfinite().all()


def test_straight_limbs_have_no_angle() -> None:
    """Parallel and opposite bones: the angle is 0 or pi exactly, its axis zero and its gradient defined as zero."""
    line = torch.tensor([1.0, 0.0, 2.0, -3.0])
    joints = (line.view(1, 1, 1, 4, 1) * torch.tensor([1.0, 2.0, 2.0]).view(1, 3, 1, 1, 1)).repeat(1, 1, 3, 1, 1)
    joints.requires_grad_()
    derived = derive_modalities(joints, torch.tensor([3]), SMALL, modalities=["rotation_axis", "angular_velocity"])
    assert (derived == 0).all()
    assert torch.autograd.grad(derived[1].sum(), joints)[0].isfinite().all()


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_far_from_the_origin(offset: float) -> None:
    joints, num_frames = make_clips(2, 8, LAYOUTS["ntu25"])
    joints += offset
    ours, plain = (f(joints, num_frames, "ntu25") for f in (derive_modalities, reference.derive_modalities))
    truth = reference.derive_modalities(joints.double(), num_frames, "ntu25")
    for name, *values in zip(MODALITIES, ours, plain, truth, strict=True):
        assert_as_accurate(*values, name)


@pytest.mark.parametrize("size", [1e-9, 1e-3, 1e9])
def test_any_unit_of_length(size: float) -> None:
    joints, num_frames = make_clips(2, 8, LAYOUTS["ntu25"])
    ours, plain = (
        f(joints * size, num_frames, "ntu25", modalities=["angular_velocity"])
        for f in (derive_modalities, reference.derive_modalities)
    )
    truth = reference.derive_modalities((joints * size).double(), num_frames, "ntu25", modalities=["angular_velocity"])
    assert_as_accurate(ours, plain, truth)


def test_angles_keep_their_digits() -> None:
    """The angle of two bones, all around, against numpy in extended precision."""
    angles = np.concatenate([np.geomspace(1e-7, 1, 200), np.linspace(0, 3, 500), np.pi - np.geomspace(1e-3, 1, 50)])
    # Root at the origin, partner along x, and the joint turned from it; in the next frame the angle is zero.
    layout = SkeletonLayout("two", ("root", "a", "b"), (0, 0, 0), (0, 1, 2), angle_partners=(0, 1, 1))
    for dtype, tolerance in ((torch.float64, 4), (torch.float32, 6)):
        joints = torch.zeros(len(angles), 3, 2, 3, 1, dtype=dtype)
        joints[:, 0, :, 1:] = 1
        turned = torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], 1)).to(dtype)
        joints[:, :2, 0, 2, 0] = turned
        derived = derive_modalities(
            joints, torch.ones(len(angles), dtype=torch.int64), layout, modalities=["angular_velocity"],
            reference_frames=1,
        )  # fmt: skip
        ours = derived[0, :, 2, 0, 2, 0].abs().double().numpy()
        exact = np.arctan2(turned[:, 1].double().numpy().astype(np.longdouble), turned[:, 0].double().numpy())
        ulps = np.abs(ours - np.abs(exact.astype(np.float64))) / np.spacing(np.abs(exact).astype(turned.numpy().dtype))
        assert ulps[np.abs(exact) > 0].max() <= tolerance


@pytest.mark.parametrize("level", torch.ops.ikem_ext.available_simd_levels().split())
def test_every_simd_level_gives_the_same_bits(level: str) -> None:
    program = Path(__file__).with_name("modalities_digests.py")
    output = subprocess.run(
        [sys.executable, program], env={**os.environ, "IKEM_SIMD": level}, check=True, capture_output=True, text=True
    ).stdout.split()
    assert output == [level, *digests()]


def test_an_unknown_simd_level_is_refused() -> None:
    program = "import torch, ikem_ext; torch.ops.ikem_ext.simd_level()"
    result = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "IKEM_SIMD": "v9"}, capture_output=True, text=True
    )
    assert result.returncode != 0
    assert 'IKEM_SIMD is "v9"; this build on this processor has:' in result.stderr


def test_vmap_over_each_argument() -> None:
    joints, num_frames = make_clips(6, 4)
    joints, num_frames = joints.view(3, 2, *joints.shape[1:]), num_frames.view(3, 2)

    def derive(x: Tensor, n: Tensor) -> Tensor:
        return derive_modalities(x, n, SMALL)

    both = torch.vmap(derive)(joints, num_frames)
    assert torch.equal(both, torch.stack([derive(x, n) for x, n in zip(joints, num_frames, strict=True)]))
    one = torch.vmap(derive, in_dims=(1, None), out_dims=1)(joints.movedim(0, 1), num_frames[0])
    assert torch.equal(one, torch.stack([derive(x, num_frames[0]) for x in joints], 1))


def test_compiles_with_dynamic_sizes() -> None:
    compiled = torch.compile(derive_modalities, fullgraph=True, dynamic=True, backend="aot_eager")
    for clips, frames in ((2, 5), (3, 8), (5, 2)):
        joints, num_frames = make_clips(clips, frames)
        assert torch.equal(compiled(joints, num_frames, SMALL), derive_modalities(joints, num_frames, SMALL))


def test_is_exportable() -> None:
    class Derive(torch.nn.Module):
        def forward(self, joints: Tensor, num_frames: Tensor) -> Tensor:
            return derive_modalities(joints, num_frames, "ntu25")

    inputs = make_clips(2, 5, LAYOUTS["ntu25"])
    assert torch.equal(torch.export.export(Derive(), inputs).module()(*inputs), Derive()(*inputs))


def bad(**changes: Any) -> dict[str, Any]:
    joints, num_frames = make_clips()
    return {"joints": joints, "num_frames": num_frames, "layout": SMALL, **changes}


INDEX = torch.tensor([1, 0, 1])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (bad(joints=[1.0]), TypeError, "joints: expected a tensor, got list"),
        (bad(joints=torch.zeros(2, 3, 5, 4)), ValueError, r"joints: expected shape .*got \(2, 3, 5, 4\)"),
        (bad(joints=torch.zeros(2, 2, 5, 4, 2)), ValueError, r"joints: expected shape .*got \(2, 2, 5, 4, 2\)"),
        (bad(joints=torch.zeros(2, 3, 5, 7, 2)), ValueError, "joints: expected V=4 as layout 'small' has"),
        (bad(joints=torch.zeros(2, 3, 5, 4, 2).long()), TypeError, "joints: expected one of .*got torch.int64"),
        (bad(num_frames=torch.ones(3).long()), ValueError, r"num_frames: expected shape \(N,\) with N=2"),
        (bad(num_frames=torch.ones(2)), TypeError, "num_frames: expected integers, got torch.float32"),
        (bad(num_frames=torch.tensor([3, 0])), ValueError, "num_frames: expected at least 1, got 0 for clip 1"),
        (bad(layout="nobody"), ValueError, "nobody"),
        (bad(modalities=["joint", "velocity"]), ValueError, "modalities: expected one or more of .*'velocity'"),
        (bad(modalities=["joint", "joint"]), ValueError, "modalities: .* each once"),
        (bad(modalities=[]), ValueError, "modalities: expected one or more"),
        (bad(modalities="joint"), TypeError, "modalities: expected a sequence of names"),
        (bad(reference_frames=0), ValueError, "reference_frames: expected above 0, got 0"),
        (bad(shear=torch.zeros(2, 3, 2)), ValueError, r"shear: expected shape \(N, 3, 3\)"),
        (bad(shear=torch.zeros(2, 3, 3).long()), TypeError, "shear: expected a floating dtype, got torch.int64"),
        (bad(shear=torch.zeros(2, 3, 3, requires_grad=True)), ValueError, "shear: expected no gradient"),
        (bad(shear=torch.zeros(2, 3, 3, device="meta")), ValueError, "shear: expected to be on cpu"),
        (bad(crop_padding=1), ValueError, "crop_padding: expected 0 without crop_start, got 1"),
        (bad(crop_start=torch.zeros(2)), TypeError, "crop_start: expected integers"),
        (bad(crop_start=torch.tensor([0, 3]), crop_padding=1), ValueError,
         r"crop_start: expected 0 to 2 \* crop_padding, got 3 for clip 1"),
        (bad(crop_start=torch.tensor([0, 0]), crop_padding=6), ValueError, "crop_padding: expected 0 to T=5, got 6"),
        (bad(crop_start=torch.tensor([0, 0]), crop_padding=-1), ValueError, "crop_padding: expected 0 to T=5, got -1"),
        (bad(clip_index=torch.zeros(2)), TypeError, "clip_index: expected integers, got torch.float32"),
        (bad(clip_index=INDEX[None]), ValueError, r"clip_index: expected shape \(N,\), got \(1, 3\)"),
        (bad(clip_index=INDEX + 1), ValueError, "clip_index: expected 0 to the last clip of joints, got 2 for clip 0"),
        (bad(clip_index=INDEX - 1), ValueError, "clip_index: expected 0 to the last .*, got -1 for clip 1"),
        (bad(clip_index=INDEX, shear=torch.zeros(2, 3, 3)), ValueError, r"shear: .* with N=3, got \(2, 3, 3\)"),
        (bad(clip_index=INDEX, num_frames=torch.ones(3).long()), ValueError, r"num_frames: .* with D=2, got \(3,\)"),
        (bad(clip_index=INDEX, joints=torch.zeros(0, 3, 5, 4, 2), num_frames=torch.ones(0).long()), ValueError,
         "clip_index: expected none of no clips"),
        (bad(clip_index=INDEX, joints=torch.zeros(2, 3, 5, 4, 2, requires_grad=True)), ValueError,
         r"joints: expected no gradient to be required with clip_index; use joints\[clip_index\]"),
    ],
)  # fmt: skip
def test_bad_input_is_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        derive_modalities(**arguments)


def test_a_cuda_tensor_without_cuda_operations_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ikem_ext._library, "cuda_missing", "this ikem_ext was built without CUDA. Rebuild")
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        joints = torch.empty(2, 3, 5, 4, 2, device="cuda")
        with pytest.raises(RuntimeError, match="joints: on cuda:0, but this ikem_ext was built without CUDA"):
            derive_modalities(joints, torch.ones(2, dtype=torch.int64, device="cuda"), SMALL)


@pytest.mark.gpu
def test_more_than_two_to_the_thirty_one_elements() -> None:
    clips = 2**31 // (6 * 3 * 50 * 25 * 2) + 1
    if torch.cuda.mem_get_info()[0] < clips * 9 * 3 * 50 * 25 * 2 * 2 * 1.1:
        pytest.skip("too little GPU memory")
    joints = torch.randn(clips, 3, 50, 25, 2, device="cuda", dtype=torch.float16).requires_grad_()
    num_frames = torch.full((clips,), 70, device="cuda")
    derived = derive_modalities(joints, num_frames, "ntu25")
    (gradient,) = torch.autograd.grad(derived, joints, torch.ones(1, device="cuda").half().expand_as(derived))
    last = joints[-2:].detach().requires_grad_()
    last_derived = derive_modalities(last, num_frames[-2:], "ntu25")
    (last_gradient,) = torch.autograd.grad(last_derived, last, torch.ones_like(last_derived))
    assert torch.equal(derived[:, -2:], last_derived)
    assert torch.equal(gradient[-2:], last_gradient)
    index = torch.arange(clips - 2, clips, device="cuda")
    assert torch.equal(derive_modalities(joints.detach(), num_frames, "ntu25", clip_index=index), last_derived)


@pytest.mark.gpu
def test_what_is_out_of_range_on_a_gpu_reads_no_foreign_memory() -> None:
    joints, num_frames = make_clips(3, 5, device="cuda")
    index, inside = (torch.tensor(values, device="cuda") for values in ([-(2**40), 3, 2**40], [0, 2, 2]))
    start, clamped = (torch.tensor(values, device="cuda") for values in ([-(2**40), 2**40, 5], [0, 4, 4]))
    ours, expected = (
        derive_modalities(joints, num_frames, SMALL, clip_index=clips, crop_start=crop, crop_padding=2)
        for clips, crop in ((index, start), (inside, clamped))
    )
    assert torch.equal(ours, expected)

"""The CUDA kernels, compiled for the host and run without a GPU (cuda_host_shim/cuda_runtime.h says how)."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from on_host import SANITIZE
from operation_checks import DTYPES, assert_as_accurate, non_contiguous
from test_modalities import SMALL, make_augmentation, make_clips
from torch import Tensor

from ikem_ext import LAYOUTS, MODALITIES, SkeletonLayout, get_layout, reference

HERE = Path(__file__).parent
CSRC = HERE.parent.parent / "csrc"


class Arguments(ctypes.Structure):
    """The structure of the same name in modalities_on_host.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("clips", "source_clips", "frames", "bodies", "num_joints")),
        *((name, ctypes.c_void_p) for name in ("clip_index", "parents", "partners", "torso", "slots")),
        ("reference_frames", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("num_frames", "shear", "crop_start")),
        ("crop_padding", ctypes.c_int64),
        ("joints", ctypes.c_void_p),
        ("joint_strides", ctypes.c_void_p),
    )


class HostModalities:
    """`derive_modalities` and its gradient by the CUDA kernels on the host."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.modalities_forward.restype = ctypes.c_char_p
        self._library.modalities_backward.restype = ctypes.c_char_p

    def __call__(
        self,
        joints: Tensor,
        num_frames: Tensor,
        layout: SkeletonLayout | str,
        grad_out: Tensor | None = None,
        *,
        modalities: tuple[str, ...] = MODALITIES,
        shear: Tensor | None = None,
        crop_start: Tensor | None = None,
        crop_padding: int = 0,
        clip_index: Tensor | None = None,
    ) -> Tensor:
        """The output, or, given its gradient, the joints'."""
        clips = len(joints) if clip_index is None else len(clip_index)
        layout = get_layout(layout)
        slots = [modalities.index(name) if name in modalities else -1 for name in MODALITIES]
        if shear is not None:
            shear = shear.to(torch.float64 if joints.dtype == torch.float64 else torch.float32)
        tables = [
            torch.tensor(table)
            for table in (layout.parents, layout.angle_partners, layout.torso, slots, joints.stride())
        ]
        arguments = Arguments(
            clips, joints.shape[0], joints.shape[2], joints.shape[4], joints.shape[3],
            None if clip_index is None else clip_index.data_ptr(),
            *(table.data_ptr() for table in tables[:4]), 50.0, num_frames.data_ptr(),
            None if shear is None else shear.data_ptr(), None if crop_start is None else crop_start.data_ptr(),
            crop_padding, joints.data_ptr(), tables[4].data_ptr(),
        )  # fmt: skip
        dtype = DTYPES.index(joints.dtype)
        if grad_out is None:
            result = joints.new_full((len(modalities), clips, *joints.shape[1:]), torch.nan)
            error = self._library.modalities_forward(dtype, ctypes.byref(arguments), ctypes.c_void_p(result.data_ptr()))
        else:
            result = torch.full(joints.shape, torch.nan, dtype=joints.dtype)
            strides = torch.tensor(grad_out.stride())
            error = self._library.modalities_backward(
                dtype, ctypes.byref(arguments), ctypes.c_void_p(grad_out.data_ptr()),
                ctypes.c_void_p(strides.data_ptr()), ctypes.c_void_p(result.data_ptr()),
            )  # fmt: skip
        assert error is None, error
        return result


@pytest.fixture(scope="module")
def derive_on_host(compile_for_host: Callable[..., Path]) -> HostModalities:
    source = HERE / "modalities_on_host.cpp"
    return HostModalities(compile_for_host("modalities.so", "-O1", "-fPIC", "-shared", source))


def check(derive: HostModalities, joints: Tensor, num_frames: Tensor, layout: SkeletonLayout, **options: Any) -> None:
    def with_gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        leaf = x.detach().requires_grad_()
        output = reference.derive_modalities(leaf, num_frames, layout, **options)
        return output.detach(), torch.autograd.grad(output, leaf, gradient.to(x.dtype))[0]

    ours = derive(joints, num_frames, layout, **options)
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(ours.shape, generator=generator, dtype=torch.float64).to(joints.dtype)
    our_gradient = derive(joints, num_frames, layout, non_contiguous(gradient), **options)
    plain, truth = with_gradient(joints), with_gradient(joints.double())
    assert_as_accurate(ours, plain[0], truth[0], "output")
    assert_as_accurate(our_gradient, plain[1], truth[1], "gradient")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [SMALL, LAYOUTS["ntu25"]], ids=["small", "ntu25"])
def test_matches_the_plain_twin(derive_on_host: HostModalities, layout: SkeletonLayout, dtype: torch.dtype) -> None:
    joints, num_frames = make_clips(2, 9, layout, dtype=dtype)
    check(derive_on_host, joints, num_frames, layout)
    check(derive_on_host, non_contiguous(joints), num_frames, layout, **make_augmentation(joints, 3))


# Lanes to a frame are bodies times joints: of 4 and 3 joints as few and as many as are read and written at once, with
# and without tiles that end within a group of them.
@pytest.mark.parametrize("frames", [1, 2, 3, 47, 500])
@pytest.mark.parametrize("bodies", [1, 2, 3])
@pytest.mark.parametrize("joints_of", ["small", "three"])
def test_odd_sizes(derive_on_host: HostModalities, frames: int, bodies: int, joints_of: str) -> None:
    layout = {"small": SMALL, "three": SkeletonLayout("three", ("a", "b", "c"), (0, 0, 1), (0, 1, 2))}[joints_of]
    joints, num_frames = make_clips(2, frames, layout, bodies, torch.float64)
    check(derive_on_host, joints, num_frames, layout, **make_augmentation(joints, frames))


def test_clips_out_of_line(derive_on_host: HostModalities) -> None:
    """Clips that start where no pack of lanes may."""
    joints, num_frames = make_clips(3, 6, LAYOUTS["ntu25"])
    shifted = torch.empty(joints.numel() + 1)[1:].view_as(joints).copy_(joints)
    check(derive_on_host, shifted, num_frames, LAYOUTS["ntu25"])


def test_takes_clips_by_index(derive_on_host: HostModalities) -> None:
    joints, num_frames = make_clips(5, 50, LAYOUTS["ntu25"])
    index = torch.tensor([4, 0, 0, 2])
    augmentation = make_augmentation(joints[index], 8)
    expected = derive_on_host(joints[index], num_frames[index], "ntu25", **augmentation)
    assert torch.equal(derive_on_host(joints, num_frames, "ntu25", clip_index=index, **augmentation), expected)
    clamped = derive_on_host(joints, num_frames, "ntu25", clip_index=torch.tensor([-7, 5]))
    assert torch.equal(clamped, derive_on_host(joints, num_frames, "ntu25", clip_index=torch.tensor([0, 4])))


@pytest.mark.parametrize("modality", MODALITIES)
def test_each_modality_alone(derive_on_host: HostModalities, modality: str) -> None:
    joints, num_frames = make_clips(2, 5, SMALL, dtype=torch.float64)
    check(derive_on_host, joints, num_frames, SMALL, modalities=(modality,))


def test_golden_numbers_of_the_published_code(
    derive_on_host: HostModalities, golden: Callable[[str], dict[str, np.ndarray]]
) -> None:
    numbers = golden("modalities_real_ntu")
    joints, num_frames = torch.from_numpy(numbers["joint"]), torch.from_numpy(numbers["num_frames"])
    for name, ours in zip(MODALITIES, derive_on_host(joints, num_frames, "ntu25"), strict=True):
        np.testing.assert_allclose(ours, numbers[f"derived_{name}"], rtol=1e-5, atol=1e-5, err_msg=name)


def test_kernels_for_the_cpu_and_for_cuda_agree_under_the_sanitizers(compile_for_host: Callable[..., Path]) -> None:
    sources = CSRC / "modalities" / "cpu.cpp", HERE / "modalities_sanitized.cpp"
    level = ("-DIKEM_PLAIN_ONLY", "-DIKEM_SIMD_LEVEL=plain")
    result = subprocess.run([compile_for_host("sanitized", *SANITIZE, *level, *sources)], capture_output=True)
    assert result.returncode == 0, result.stderr.decode()


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("sum", None),
        ("mma", None),
        ("out-of-bounds", "AddressSanitizer: heap-buffer-overflow"),
        ("missed-barrier", "a barrier that some threads wait at is never reached by the others"),
        ("missed-wait", ""),
        ("uninitialized", ""),
    ],
)
def test_the_shim_catches_mistakes(shim_checks: Path, mistake: str, message: str | None) -> None:
    result = subprocess.run([shim_checks, mistake], capture_output=True, text=True)
    if message is None:
        assert result.returncode == 0, result.stderr
    else:
        assert result.returncode != 0
        assert message in result.stderr


@pytest.fixture(scope="module")
def shim_checks(compile_for_host: Callable[..., Path]) -> Path:
    return compile_for_host("shim_checks", *SANITIZE, HERE / "shim_checks.cpp")

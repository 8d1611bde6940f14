"""The CUDA kernels of batch norm, compiled for the host and run without a GPU."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from on_host import SANITIZE
from on_host.batch_norm import EPS, HostBatchNorm
from operation_checks import DTYPES, assert_as_accurate
from test_batch_norm import LAYOUTS, arguments
from torch import Tensor

from ikem_ext import reference
from ikem_ext.reference.batch_norm import dropout_mask

HERE = Path(__file__).parent
CSRC = HERE.parent.parent / "csrc"


@pytest.fixture(scope="module")
def on_host(compile_for_host: Callable[..., Path]) -> HostBatchNorm:
    source = HERE / "batch_norm_on_host.cpp"
    return HostBatchNorm(compile_for_host("batch_norm.so", "-O1", "-fPIC", "-shared", source))


def check(on_host: HostBatchNorm, given: dict[str, Any], training: bool = True, as_bytes: bool = False) -> None:
    """Output and gradients as accurate as the twin's, dropout and all."""
    torch.manual_seed(1)
    channels = given["x"].shape[1]
    running = torch.randn(channels, dtype=torch.float64), torch.rand(channels, dtype=torch.float64) + 0.1
    cotangent = torch.randn(given["x"].shape, dtype=torch.float64).to(given["x"].dtype).double()
    names = [name for name in ("x", "weight", "bias", "residual") if given[name] is not None]

    def run(native: bool, dtype: torch.dtype) -> tuple[Tensor, ...]:
        wide = torch.promote_types(dtype, torch.float32)
        leaves = {name: given[name].to(dtype).detach().requires_grad_() for name in names}
        options = {**given, **leaves}
        statistics = [each.to(wide) for each in running]
        torch.manual_seed(2)
        if native:
            options["seed"] = int(torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64))
            options |= {name: options[name].to(wide) for name in ("weight", "bias")}
            y = on_host(**options, **({} if training else dict(zip(("mean", "variance"), statistics, strict=True))),
                        as_bytes=as_bytes)  # fmt: skip
        else:
            options |= {name: options[name].to(wide) for name in ("weight", "bias")}
            y = reference.batch_norm(
                **options, running_mean=statistics[0], running_var=statistics[1], training=training, eps=EPS
            )
        return y.detach(), *torch.autograd.grad(y, list(leaves.values()), cotangent.to(dtype))

    dtype = given["x"].dtype
    results = run(True, dtype), run(False, dtype), run(False, torch.float64)
    for name, *each in zip(("output", *names), *results, strict=True):
        assert_as_accurate(*each, name, ulps=4)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_the_plain_twin(on_host: HostBatchNorm, dtype: torch.dtype, layout: torch.memory_format) -> None:
    """Channels, and frames by joints, that fill packs and that do not."""
    torch.manual_seed(0)
    for channels, joints in ((16, 8), (18, 7), (3, 5)):
        given = arguments(3, channels, 6, joints, residual=channels != 3, layout=layout, dtype=dtype)
        check(on_host, {**given, "relu": joints != 7, "dropout": 0.3 if joints != 5 else 0.0})


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels last"])
@pytest.mark.parametrize(("training", "as_bytes"), [(True, True), (False, False)])
def test_by_running_statistics_and_by_bytes(
    on_host: HostBatchNorm, training: bool, as_bytes: bool, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    for dtype in (torch.float64, torch.bfloat16):
        given = arguments(2, 8, 5, 7, residual=True, layout=layout, dtype=dtype)
        check(on_host, {**given, "relu": True, "dropout": 0.5}, training, as_bytes)


# Several chunks of positions, more packs of channels than a block has threads, and fewer values than a block has.
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels last"])
@pytest.mark.parametrize("sizes", [(8, 2, 50, 25), (5, 3, 20, 25), (2, 1100, 2, 3), (1, 1, 1, 3), (4, 5, 1, 1)])
def test_odd_sizes(on_host: HostBatchNorm, sizes: tuple[int, ...], layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    check(on_host, {**arguments(*sizes, residual=True, layout=layout, dtype=torch.float32), "relu": True})


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels last"])
def test_the_mask_is_the_twins(on_host: HostBatchNorm, layout: torch.memory_format) -> None:
    for sizes in ((3, 18, 5, 7), (2, 16, 6, 25)):
        x = torch.ones(sizes).to(memory_format=layout)
        seed = -(2**62) + 12345
        y = on_host(x, torch.zeros(sizes[1]), torch.ones(sizes[1]), seed=seed, dropout=0.25)
        assert torch.equal(y > 0, dropout_mask(torch.tensor(seed), x.shape, 0.25))
        assert y.unique().tolist() == pytest.approx([0, 1 / 0.75])


def test_statistics_of_numbers_far_from_zero(on_host: HostBatchNorm) -> None:
    """A sum of squares minus the square of the sum would leave nothing."""
    torch.manual_seed(0)
    x = (torch.randn(4, 4, 40, 25, dtype=torch.float64) + 1e4).float()
    truth = torch.nn.functional.batch_norm(x.double(), None, None, training=True)
    for layout in LAYOUTS:
        y = on_host(x.contiguous(memory_format=layout), torch.ones(4), torch.zeros(4))
        assert (y - truth).abs().max() < 2e-3  # half of what separates floats at 1e4 is 5e-4 of a deviation


def test_not_a_number_is_not_rectified_away(on_host: HostBatchNorm) -> None:
    x = torch.full((1, 1, 1, 2), torch.nan)
    assert on_host(x, torch.ones(1), torch.zeros(1), relu=True).isnan().all()


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels last"])
def test_empty_batch_has_gradients_of_zero(on_host: HostBatchNorm, layout: torch.memory_format) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        given = arguments(0, 8, 5, 7, residual=True, layout=layout, dtype=dtype)
        wide = torch.promote_types(dtype, torch.float32)
        leaves = [given[name].to(wide).requires_grad_() for name in ("weight", "bias")]
        y = on_host(given["x"], *leaves, residual=given["residual"], relu=True)
        assert y.shape == given["x"].shape
        for gradient in torch.autograd.grad(y.sum(), leaves):
            assert not gradient.any()


def test_kernels_for_the_cpu_and_for_cuda_agree_under_the_sanitizers(compile_for_host: Callable[..., Path]) -> None:
    sources = CSRC / "batch_norm" / "cpu.cpp", HERE / "batch_norm_sanitized.cpp"
    level = ("-DIKEM_PLAIN_ONLY", "-DIKEM_SIMD_LEVEL=plain")
    program = compile_for_host("sanitized", *SANITIZE, *level, *sources)
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

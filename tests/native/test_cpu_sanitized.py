"""CPU kernels against their formulas written out, under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from on_host import SANITIZE

import ikem_ext  # noqa: F401  loads the operations

HERE = Path(__file__).parent
CSRC = HERE.parent.parent / "csrc"


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the kernels with")
@pytest.mark.parametrize(
    ("family", "programs"),
    [
        ("contrast", ("contrast_on_cpu.cpp", "contrast_sanitized.cpp")),
        ("graph_conv", ("graph_conv_sanitized.cpp",)),
        ("graph_conv", ("refined_graph_conv_sanitized.cpp",)),
        ("pairwise_products", ("pairwise_products_sanitized.cpp",)),
        ("temporal_conv", ("temporal_conv_sanitized.cpp",)),
    ],
)
def test_kernels_compute_the_formulas(family: str, programs: tuple[str, ...], tmp_path: Path) -> None:
    """The kernels are built as the only level, with the vectors of the best that this processor has.

    Lower levels are the same source with shorter vectors; the tests of the operations compare them. Tile registers are
    arrays here, whatever the processor has (tile_shim).
    """
    level = torch.ops.ikem_ext.available_simd_levels().replace("amx", "").split()[-1]
    program = tmp_path / "sanitized"
    options = ["-std=c++20", *SANITIZE, "-DIKEM_PLAIN_ONLY", "-DIKEM_SIMD_LEVEL=plain"]
    options += [] if level == "plain" else [f"-march=x86-64-{level}"]
    sources = CSRC / family / "cpu.cpp", *(HERE / name for name in programs)
    compiled = subprocess.run(
        ["g++", *options, "-I", HERE / "tile_shim", "-I", CSRC, *sources, "-o", program], capture_output=True, text=True
    )
    assert compiled.returncode == 0, compiled.stderr
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

"""What the tests of the native code share: a compiler for the CUDA kernels on the host."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parent.parent / "csrc"


@pytest.fixture(scope="module")
def compile_for_host(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compiles sources of this folder against the shim that runs CUDA kernels on the host (cuda_runtime.h says how)."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile the CUDA kernels with")
    folder = tmp_path_factory.mktemp("host")

    def compile_(output: str, *options: str | Path) -> Path:
        command = ["g++", "-std=c++20", "-I", HERE / "cuda_host_shim", "-I", CSRC, *options, "-o", folder / output]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return folder / output

    return compile_

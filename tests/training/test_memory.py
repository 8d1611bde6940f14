"""No step writes beyond its memory: steps of every encoder under glibc's own checks."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the checks are glibc's")

# Every block lies in the heap, has its end checked when it is freed, and is filled with something else then.
CHECKS = {
    "LD_PRELOAD": "libc_malloc_debug.so.0",
    "MALLOC_CHECK_": "3",
    "MALLOC_PERTURB_": "165",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "OMP_NUM_THREADS": "1",
}
BEYOND_ITS_MEMORY = """
import ctypes, torch
block = torch.empty(100)
ctypes.memset(block.data_ptr(), 1, 401)
del block
"""


def guarded(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env={**os.environ, **CHECKS}, capture_output=True, text=True, timeout=300)


def test_a_byte_beyond_a_tensor_is_noticed() -> None:
    assert guarded("-c", BEYOND_ITS_MEMORY.replace("401", "400")).returncode == 0
    assert guarded("-c", BEYOND_ITS_MEMORY).returncode < 0


def test_no_step_writes_beyond_its_memory() -> None:
    run = guarded(str(Path(__file__).with_name("guarded_steps.py")))
    last = run.stdout.splitlines()[-1:]
    assert run.returncode == 0, f"{last}: exit code {run.returncode}\n{run.stderr}"

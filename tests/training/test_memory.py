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


# Page faults of twenty rounds that take and free 100 MB, where glibc gives back all that it can, and then keeps it.
ROUNDS = """
import ctypes, os, resource, torch
from ikem.training.memory import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        blocks = [torch.ones(5 * 10**6) for _ in range(5)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
    for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
        ctypes.CDLL(None).mallopt(option, 2**17)
before = faults()
kept = keep_freed_memory()
faults()
print(kept, before, faults())
"""


def test_a_training_takes_its_pages_once() -> None:
    kept, before, after = printed(ROUNDS)
    assert kept == "True"
    assert int(before) > 400_000  # of 4096 bytes; the blocks of a round are 24 414 of them
    assert int(after) < 1000


def test_what_the_environment_says_of_memory_stays() -> None:
    kept, _, after = printed(ROUNDS, MALLOC_TRIM_THRESHOLD_="1000000")
    assert kept == "False"
    assert int(after) > 400_000


def printed(code: str, **environment: str) -> list[str]:
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()

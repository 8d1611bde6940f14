"""What the numbers were measured on."""

from __future__ import annotations

import platform
import re
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .limits import copying, multiplying

CALLS = 20


def machine(device: torch.device, quick: bool, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The machine, its limits (of 20 calls the fastest) and the versions of what runs on it.

    ``gflop_per_s`` has the billions of multiplications and additions per second in ``dtype``: multiply-adds in
    registers of each width, a product of matrices by PyTorch, and a convolution by PyTorch.
    """
    from ikem_ext import _library

    loads = multiplying(device, dtype, quick)
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else _processor().get("model name", platform.machine()),
        "processor": None if on_gpu else _model(),
        "threads": torch.get_num_threads(),
        "copy_gb_per_s": 1e-9 * copying(device, quick).rate(device, CALLS),
        "gflop_per_s": {name: 1e-9 * load.rate(device, CALLS) for name, load in loads.items()},
        "dtype": str(dtype).removeprefix("torch."),
        "simd_level": torch.ops.ikem_ext.simd_level(),
        "cuda_architectures": _library.build_info()["cuda_architectures"],
        "versions": {name: version(name) for name in ("ikem-ext", "torch", "numpy")}
        | _versions_within(torch.__config__.show())
        | {"python": platform.python_version()},
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _processor() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; empty where there is none."""
    cpuinfo = Path("/proc/cpuinfo")
    first, _, _ = cpuinfo.read_text().partition("\n\n") if cpuinfo.exists() else ("", "", "")
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _model() -> str | None:
    """Vendor, family and model of the processor, which tell its generation where its name does not."""
    facts = _processor()
    if not {"vendor_id", "cpu family", "model"} <= facts.keys():
        return None
    return f"{facts['vendor_id']} family {facts['cpu family']} model {facts['model']}"


def _versions_within(configuration: str) -> dict[str, str]:
    """Versions of the libraries that PyTorch was built with, from its own account."""
    patterns = {"oneDNN": r"MKL-DNN v(\S+)", "MKL": r"Math Kernel Library Version ([\d.]+)"}
    found = {name: re.search(pattern, configuration) for name, pattern in patterns.items()}
    return {name: match[1] for name, match in found.items() if match}


def _commit() -> str | None:
    """The commit of the clone that this code runs from, with a star if it was changed; None outside a clone."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(
            ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (
            "*" if git("status", "--porcelain", "--", "..", "../../csrc") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None

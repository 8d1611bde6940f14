"""Finds and loads the native operations, and explains what is wrong where that fails."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import torch

import ikem_ext

_REBUILD = "pip install --no-build-isolation --no-deps --force-reinstall . (in a clone of the project)"

#: Why the CUDA operations are not there; None where they are loaded.
cuda_missing: str | None = None
#: The libraries loaded, by name.
loaded: dict[str, Path] = {}


def build_info() -> dict[str, Any]:
    """Version, compilers, SIMD levels and CUDA architectures of this build, and the torch it was built with.

    Raises:
        ImportError: the native module is not there, or was built for another Python.
    """
    try:
        return importlib.import_module("ikem_ext._native").build_info()
    except ImportError as error:
        raise ImportError(
            f"the native module of ikem_ext was not found for Python {sys.version.split()[0]} in "
            f"{list(ikem_ext.__path__)} ({error}). It is made when the package is installed: {_REBUILD}"
        ) from error


def find(name: str) -> Path | None:
    """The file of the native library ``name``, sought in every folder of the package."""
    for folder in ikem_ext.__path__:
        for suffix in (".so", ".dylib", ".dll"):
            path = Path(folder) / (name + suffix)
            if path.is_file():
                return path
    return None


def load() -> None:
    """Loads the operations for the CPU and, where they were built, for CUDA.

    Raises:
        ImportError: the operations were not built, or do not load with the torch that is installed.
    """
    global cuda_missing
    info = build_info()
    path = find("_ops")
    if path is None:
        raise ImportError(f"the operations of ikem_ext were not found in {list(ikem_ext.__path__)}: {_REBUILD}")
    try:
        torch.ops.load_library(path)
    except OSError as error:
        raise ImportError(
            f"the operations of ikem_ext ({path}) were built with torch {info['torch_version']} for torch "
            f"{info['torch_target_version']} and later, and do not load with the torch {torch.__version__} that is "
            f"installed: {error}. Install torch>={info['torch_target_version']}, or rebuild: {_REBUILD}"
        ) from error
    loaded["_ops"] = path
    cuda_missing = _load_cuda(info)


def _load_cuda(info: dict[str, Any]) -> str | None:
    """Loads the CUDA operations; returns the reason where that cannot be."""
    path = find("_ops_cuda")
    if path is None:
        return f"this ikem_ext was built without CUDA. Rebuild with nvcc on the PATH: IKEM_CUDA=ON {_REBUILD}"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return (
            f"the CUDA operations of ikem_ext ({path}), built with torch {info['torch_version']}, do not load with "
            f"torch {torch.__version__}: {error}. Rebuild: IKEM_CUDA=ON {_REBUILD}"
        )
    loaded["_ops_cuda"] = path
    return None


def require_device(name: str, tensor: torch.Tensor) -> None:
    """Requires that the operations run where ``tensor`` is: nothing falls back to another device in silence.

    Raises:
        RuntimeError: it is on a CUDA device and the CUDA operations are not loaded; says how to get them.
        ValueError: it is neither on the CPU nor on a CUDA device.
    """
    if tensor.device.type == "cuda" and cuda_missing is not None:
        raise RuntimeError(f"{name}: on {tensor.device}, but {cuda_missing}")
    if tensor.device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(
            f"{name}: expected to be on cpu or cuda, got {tensor.device} (ikem_ext.reference has the same in plain "
            "PyTorch, for any device)"
        )


def require_cpu(name: str, tensor: torch.Tensor) -> None:
    """Requires that ``tensor``, an argument of the operation ``name``, is where the operation has a kernel: on the CPU.

    Raises:
        ValueError: it is elsewhere.
    """
    if tensor.device.type not in ("cpu", "meta"):
        raise ValueError(
            f"ikem_ext.{name}: expected tensors on cpu, got {tensor.device}: it is not built for other devices "
            f"(ikem_ext.reference.{name} has the same in plain PyTorch, for any device)"
        )


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What autocast casts to there; None where it is off or, as on the meta device, not known."""
    if device.type not in ("cpu", "cuda"):  # torch.amp.is_autocast_available keeps older torch.compile from tracing
        return None
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def convolutions_in_tf32(device: torch.device) -> bool:
    """Whether convolutions may round float32 to TF32 there, by PyTorch's own flag."""
    if device.type != "cuda":
        return False
    if torch.compiler.is_compiling():  # the newer flag below cannot be traced
        return torch.backends.cudnn.allow_tf32
    return torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]


def runs_on(architectures: list[str], capability: tuple[int, int]) -> bool:
    """Whether code built for CMake's ``architectures`` runs on a GPU of this compute capability.

    Machine code runs on later GPUs of the same generation; an architecture without the suffix ``-real`` also holds PTX,
    which the driver translates for any later GPU.

    Example:
        >>> runs_on(["80-real", "90"], (8, 6)), runs_on(["80-real"], (9, 0)), runs_on(["80"], (9, 0))
        (True, False, True)
    """
    for architecture in architectures:
        number = re.match(r"(\d+)(\d)", architecture)
        if number is None:  # "native", "all" and the like
            return True
        built = int(number[1]), int(number[2])
        if built <= capability and (built[0] == capability[0] or not architecture.endswith("-real")):
            return True
    return False


load()

"""``python -m ikem_ext``: what is installed, what is in use, and what to do about anything missing."""

from __future__ import annotations

import sys
from importlib.metadata import version

import torch

from . import _library


def report() -> list[tuple[str, str]]:
    """Name and state of each part, in the order to print them."""
    info = _library.build_info()
    operations = torch.ops.ikem_ext
    architectures = info["cuda_architectures"]
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    rows = [
        ("ikem_ext", version("ikem-ext")),
        ("Python", f"{sys.version.split()[0]} ({sys.executable})"),
        ("torch in use", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        ("built with", f"torch {info['torch_version']} for torch {info['torch_target_version']} and later"),
        ("compiler", info["compiler"]),
        ("SIMD level", f"{operations.simd_level()} (this processor has: {operations.available_simd_levels()})"),
        ("CUDA build", f"nvcc {info['cuda_compiler']} for {' '.join(architectures)}" if architectures else "none"),
        ("GPU", ", ".join(f"{gpu.name} (sm_{gpu.major}{gpu.minor})" for gpu in gpus) or "none"),
    ]
    rows += [("library", str(path)) for path in _library.loaded.values()]
    if _library.cuda_missing:
        rows.append(("missing", _library.cuda_missing))
    if torch.version.cuda is None:
        rows.append(("missing", "CUDA in torch: to use a GPU, install a CUDA build of torch (see pytorch.org)"))
    elif not gpus:
        rows.append(("missing", "a GPU: torch was built for CUDA but finds none; is the driver installed?"))
    for gpu in gpus:
        if architectures and not _library.runs_on(architectures, (gpu.major, gpu.minor)):
            advice = f"rebuild with TORCH_CUDA_ARCH_LIST={gpu.major}.{gpu.minor}"
            rows.append(("missing", f"code for {gpu.name} (sm_{gpu.major}{gpu.minor}): {advice}"))
    return rows


def main() -> None:
    """Prints the report."""
    for name, state in report():
        print(f"{name:<14}{state}")


if __name__ == "__main__":
    main()

"""Refuses a wheel that would not run with every PyTorch that it says it runs with.

The libraries of operations may use PyTorch's stable ABI alone, and of that only what the oldest PyTorch that the wheel
asks for has; the native module nothing of PyTorch; no part of PyTorch or CUDA may have been copied into the wheel; and
one labelled as for CUDA has to hold the operations for CUDA.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from email.parser import BytesParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename
from packaging.version import Version
from torch_abi_audit import inspect_extension

OPERATIONS = ("_ops", "_ops_cuda")
LIBRARY = re.compile(r"\.(so|dylib)(\.\d+)*$")
FOREIGN = re.compile(r"^lib(torch|c10|cuda|cudart|cublas|cudnn)\w*[-.]")


def oldest_torch(archive: zipfile.ZipFile) -> Version:
    """The oldest PyTorch that the wheel's metadata allow."""
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    lines = BytesParser().parsebytes(archive.read(metadata)).get_all("Requires-Dist") or []
    (torch,) = (requirement for requirement in map(Requirement, lines) if requirement.name == "torch")
    (oldest,) = (bound.version for bound in torch.specifier if bound.operator == ">=")
    return Version(oldest)


def is_cuda_variant(wheel: Path) -> bool:
    """Whether the wheel's version is labelled as one for CUDA, such as 1.2.0+cu13."""
    label = parse_wheel_filename(wheel.name)[1].local
    return label is not None and label.startswith("cu")


def faults_of_library(path: Path, oldest: Version) -> list[str]:
    """What is wrong with one library of the wheel."""
    if FOREIGN.match(path.name):
        return [f"{path.name} belongs to PyTorch or CUDA and must not be copied into the wheel"]
    report = inspect_extension(path)
    if report.error:
        return [f"{path.name}: {report.error}"]
    torch = report.torch
    if path.name.split(".")[0] not in OPERATIONS:
        return [f"{path.name} must not use PyTorch, but does"] if torch.uses_torch else []
    if not torch.uses_torch:
        return [f"{path.name} uses nothing of PyTorch: no library of operations, or one that cannot be read"]
    faults = [f"{path.name} uses {name}, which is not in PyTorch's stable ABI" for name in torch.unstable_symbols]
    faults += [f"{path.name} uses {name}, of which no PyTorch is known" for name in torch.unknown_shim_symbols]
    if torch.min_torch_version and Version(torch.min_torch_version) > oldest:
        names = ", ".join(torch.version_defining_symbols)
        faults.append(f"{path.name} needs torch {torch.min_torch_version} ({names}), but the wheel asks for {oldest}")
    return faults


def faults_of_wheel(wheel: Path) -> list[str]:
    """What is wrong with a wheel; empty where all is well."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        oldest = oldest_torch(archive)
        libraries = [Path(archive.extract(name, folder)) for name in archive.namelist() if LIBRARY.search(name)]
        expected = {"_ops", "_native"} | ({"_ops_cuda"} if is_cuda_variant(wheel) else set())
        missing = expected - {path.name.split(".")[0] for path in libraries}
        faults = [f"{name} is missing" for name in sorted(missing)]
        return faults + [fault for path in libraries for fault in faults_of_library(path, oldest)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what is wrong; the exit status says whether anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", nargs="+", type=Path, metavar="WHEEL")
    status = 0
    for wheel in parser.parse_args(arguments).wheels:
        faults = faults_of_wheel(wheel)
        for fault in faults:
            print(f"{wheel.name}: {fault}", file=sys.stderr)
            status = 1
        if not faults:
            print(f"{wheel.name}: PyTorch's stable ABI alone")
    return status


if __name__ == "__main__":
    sys.exit(main())

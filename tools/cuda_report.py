"""Registers, shared memory and spills of every CUDA kernel, as the compiler reports them.

Ends with an error if a main kernel spills registers to memory; those for float64 are not main ones. What a kernel is
given of shared memory at its launch is not the compiler's to know.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Kernel:
    """What the compiler says of one kernel; memory in bytes."""

    name: str
    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int

    @property
    def spills(self) -> bool:
        """Whether it keeps in memory what does not fit into registers."""
        return self.spill_stores + self.spill_loads > 0

    @property
    def is_main(self) -> bool:
        """Whether speed is asked of it: float64 is there for checks."""
        return re.search(r"\bdouble\b", self.name) is None


def sources() -> list[Path]:
    """The CUDA sources, one per family."""
    return sorted(ROOT.glob("csrc/*/cuda.cu"))


def compile_verbosely(source: Path, architecture: str) -> str:
    """What nvcc and ptxas print while they compile a source for an architecture such as "90".

    Raises:
        RuntimeError: nvcc is missing, or the source does not compile.
    """
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    if nvcc is None:
        raise RuntimeError("no nvcc: put it on the PATH, or name it in the environment variable CUDACXX")
    target = f"arch=compute_{architecture},code=sm_{architecture}"
    command = [nvcc, "-std=c++17", "-gencode", target, "-Xptxas", "-v", "-I", str(ROOT / "csrc"), "-cubin"]
    result = subprocess.run([*command, str(source), "-o", os.devnull], capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{source} does not compile for sm_{architecture}:\n{result.stderr}")
    return result.stdout + result.stderr


def parse(text: str) -> list[Kernel]:
    """The kernels that ptxas reports, in its order."""
    kernels = []
    name, stack = "", [0, 0, 0]
    for line in text.splitlines():
        if found := re.search(r"Compiling entry function '(\S+)'", line):
            name, stack = found[1], [0, 0, 0]
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            # A function that was not inlined into the kernel has its own line.
            stack = [total + int(more) for total, more in zip(stack, found.groups(), strict=True)]
        elif found := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            kernels.append(Kernel(name, int(found[1]), int(shared[1]) if shared else 0, *stack))
    return kernels


def readable(names: Sequence[str]) -> list[str]:
    """Demangled names without namespaces, return types and arguments; as they are where there is no demangler."""
    demangler = shutil.which("cu++filt") or shutil.which("c++filt")
    if demangler is None:
        return list(names)
    lines = subprocess.run([demangler], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return [_shortened(line) for line in lines.splitlines()]


def _shortened(name: str) -> str:
    name = re.sub(r"\(anonymous namespace\)::|\b\w+::", "", name).removeprefix("void ")
    depth = 0
    for end, letter in enumerate(name):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0:
            return name[:end]
    return name


def report(source: Path, architecture: str) -> list[Kernel]:
    """The kernels of a source by their readable names, in alphabetical order."""
    kernels = parse(compile_verbosely(source, architecture))
    names = readable([kernel.name for kernel in kernels])
    named = [Kernel(**{**vars(kernel), "name": name}) for kernel, name in zip(kernels, names, strict=True)]
    return sorted(named, key=lambda kernel: kernel.name)


def table(family: str, kernels: Sequence[Kernel]) -> str:
    """Rows of text, one per kernel."""
    width = max([len(kernel.name) for kernel in kernels] + [len(family)])
    rows = [f"{family:{width}}  registers  shared  stack  spilled (stored, loaded)"]
    for kernel in kernels:
        spilled = f"{kernel.spill_stores}, {kernel.spill_loads}" if kernel.spills else ""
        numbers = f"{kernel.registers:9}  {kernel.shared:6}  {kernel.stack:5}"
        rows.append(f"{kernel.name:{width}}  {numbers}  {spilled}".rstrip())
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables of all families for one architecture after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("architectures", nargs="*", default=["90"], help="such as 90 (the default), 100 or 90a")
    options = parser.parse_args(arguments)
    spilling = []
    for architecture in options.architectures:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            reports = list(pool.map(lambda source, for_=architecture: report(source, for_), sources()))
        print(f"sm_{architecture}, bytes of memory per thread or block")
        for source, kernels in zip(sources(), reports, strict=True):
            print(f"\n{table(source.parent.name, kernels)}")
            spilling += [f"{kernel.name} (sm_{architecture})" for kernel in kernels if kernel.spills and kernel.is_main]
        print()
    if spilling:
        print(f"registers spill in {', '.join(spilling)}", file=sys.stderr)
    return 1 if spilling else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RuntimeError as error:
        sys.exit(f"cuda-report: {error}")

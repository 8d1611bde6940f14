"""Modules of the tests that run as programs of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType


def run_script(module: ModuleType, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a module as a program, which sees no GPU and so can be forked."""
    command = [sys.executable, str(module.__file__), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=_environment(module))


def run_on_nodes(
    module: ModuleType, *arguments: object, nodes: int = 2, patience: float = 300
) -> list[subprocess.CompletedProcess[str]]:
    """Run a module as a program of one process on each of some nodes, which torchrun connects on loopback.

    Who is not done after some seconds of patience hangs: that is an error.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = f"--nnodes {nodes} --nproc-per-node 1 --master-addr 127.0.0.1 --master-port {port} --node-rank"
    torchrun = [sys.executable, "-m", "torch.distributed.run", *where.split()]
    script = [str(module.__file__), *map(str, arguments), "--num_nodes", str(nodes)]
    launchers = [
        subprocess.Popen(
            [*torchrun, str(node), *script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(module),
        )
        for node in range(nodes)
    ]
    try:
        said = [launcher.communicate(timeout=patience) for launcher in launchers]
    finally:
        for launcher in launchers:
            launcher.terminate()  # those that are left end their processes too
    return [
        subprocess.CompletedProcess(launcher.args, launcher.returncode, *out)
        for launcher, out in zip(launchers, said, strict=True)
    ]


def _environment(module: ModuleType) -> dict[str, str]:
    tests = str(Path(str(module.__file__)).parents[1])
    paths = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}

"""Modules of the tests that run as programs of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType


def run_script(module: ModuleType, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a module as a program, which sees no GPU and so can be forked."""
    script = Path(str(module.__file__))
    paths = os.pathsep.join([str(script.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

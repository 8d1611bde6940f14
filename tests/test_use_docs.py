"""The examples of docs/use.md, in bash and in Python, run in order on a small run in the place of the demo's."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from use.conftest import demo  # noqa: F401 (the fixture)

from ikem.cli import main

PAGE = Path(__file__).parent.parent / "docs" / "use.md"
SHELL = re.compile(r"[|<>$&;*`(]")


def commands() -> list[str]:
    """The command lines of the fenced blocks of bash."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def test_examples_run(
    demo: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(demo, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    shim = tmp_path / "bin" / "ikem"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ikem.cli "$@"\n')
    shim.chmod(0o755)
    environment = {**os.environ, "PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}"}
    assert commands()
    for line in commands():
        if line.startswith("ikem ") and not SHELL.search(line):
            main(shlex.split(line, comments=True)[1:])
        else:  # what needs a shell
            subprocess.run(["bash", "-euo", "pipefail", "-c", line], check=True, env=environment)
    for example in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(example, PAGE.name, "exec"), {})
    capsys.readouterr()

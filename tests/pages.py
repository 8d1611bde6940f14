"""The pages that people read, and their examples, run as a reader would run them: from top to bottom in one folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from ikem.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [path for pattern in ("*.md", "docs/**/*.md", "results/*.md") for path in sorted(ROOT.glob(pattern))]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_NEEDS_A_SHELL = re.compile(r"[|<>$&;*`(]")


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        language: as its fence names it, or nothing.
        text: what it holds.
    """

    language: str
    text: str


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page that are in one of some languages."""
    found = [Block(*match) for match in _BLOCK.findall(page.read_text(encoding="utf-8"))]
    return [block for block in found if block.language in languages]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def run_examples(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a page's blocks of bash and Python in their order in a folder; those of Python share their variables."""
    monkeypatch.chdir(folder)
    environment = _with_the_command(folder / "bin")
    variables: dict[str, object] = {}
    examples = blocks(page, "bash", "python")
    assert examples
    for language, text in examples:
        if language == "python":
            exec(compile(text, page.name, "exec"), variables)
        elif "<<" in text:  # a file within it
            _run_in_a_shell(text, environment)
        else:
            for line in _lines(text):
                if line.startswith("ikem ") and not _NEEDS_A_SHELL.search(line):
                    main(shlex.split(line, comments=True)[1:])
                else:
                    _run_in_a_shell(line, environment)


def commands(page: Path) -> list[list[str]]:
    """The arguments of every `ikem` command in a page's blocks of bash."""
    lines = (line for block in blocks(page, "bash") for line in _lines(block.text) if line.startswith("ikem "))
    return [shlex.split(line, comments=True)[1:] for line in lines]


def _lines(text: str) -> list[str]:
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def _with_the_command(folder: Path) -> dict[str, str]:
    """An environment in which `ikem` is the one that is tested."""
    shim = folder / "ikem"
    folder.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ikem.cli "$@"\n')
    shim.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def _run_in_a_shell(text: str, environment: dict[str, str]) -> None:
    subprocess.run(["bash", "-euo", "pipefail", "-c", text], check=True, env=environment)

"""The `ikem` command as tests call it: what it prints, and how it refuses."""

from __future__ import annotations

import pytest
import yaml

from ikem.cli import main


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command line."""
    code = 0
    try:
        main(argv)
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line with which a command line is refused."""
    code, _, error = run(capsys, *argv)
    assert code == 2
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    return error


def resolved(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, object]:
    code, out, error = run(capsys, *argv, "--print_config")
    assert code == 0, error
    return yaml.safe_load(out)

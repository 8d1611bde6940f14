"""Command lines, called as a user does."""

from __future__ import annotations

import pytest

from ikem.cli import main


def called(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[str, str]:
    """What a command that succeeds prints: standard output and standard error."""
    capsys.readouterr()
    main([str(word) for word in argv])
    captured = capsys.readouterr()
    return captured.out, captured.err


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The one line with which a command is refused."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in argv])
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.err.count("\n") == 1, captured.err
    assert not captured.out, captured.out
    return captured.err

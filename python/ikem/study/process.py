"""A step in a process of its own: it gives all memory back, and may die without the study."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from ikem.config import Config, store_config
from ikem.study.steps import STEPS

POLL_SECONDS = 0.5
#: Signals that are passed on to the process: it saves its training and ends, and the study after it.
PASSED_ON = (signal.SIGINT, signal.SIGTERM)


class StepFailedError(Exception):
    """A step has not come to its end; the message says why."""


class StudyStopped(SystemExit):
    """A signal has stopped the study, and what it was running before."""


def run_step(step: str, config: Config, held: int, watch: Callable[[], None]) -> None:
    """Run a step's command with a run's configuration; what it prints goes to ``log.txt`` in the run's folder.

    Args:
        step: its name.
        config: of the run, which is stored as ``config.yaml`` in its folder.
        held: a file descriptor that the process holds open as long as it lives.
        watch: called every now and then.

    Raises:
        StepFailedError: if it fails, or something ends it.
        StudyStopped: if a signal came, with 128 + its number, after the process has ended.
    """
    store_config(config, "evaluate")
    command = [STEPS[step].command, "--config", str(config.run / "config.yaml"), *STEPS[step].options]
    log = config.run / "log.txt"
    with log.open("ab") as output, _PassingOn() as signals:
        start = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "ikem.study.child", *command, "--trainer.progress", "false"],
            stdin=subprocess.PIPE,  # the process ends when nobody holds the other end
            stdout=output,
            stderr=output,
            start_new_session=True,  # what is typed at the terminal comes from here alone
            pass_fds=(held,),
            env={**os.environ, "PYTHONSAFEPATH": "1", "IKEM_TRACEBACK": "1"},
        )
        with process:  # at the end closes the pipe, then waits
            signals.pass_on_to(process)
            while process.poll() is None:
                watch()
                _wait(process)
    if signals.came:
        raise StudyStopped(128 + signals.came)
    if process.returncode:
        raise StepFailedError(_reason(process.returncode, log, start))


def _wait(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(POLL_SECONDS)


class _PassingOn:
    """While it is entered, signals that would stop this process go to another one, which may be still to come."""

    def __init__(self) -> None:
        self.came = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.before: dict[int, Any] = {}

    def pass_on_to(self, process: subprocess.Popen[bytes]) -> None:
        """Name the process."""
        self.process = process
        if self.came:
            process.send_signal(self.came)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = number
        if self.process is not None:
            self.process.send_signal(number)

    def __enter__(self) -> _PassingOn:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in PASSED_ON}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def _reason(code: int, log: Path, start: int) -> str:
    """Say why a process has ended: by which signal, or what its last line says."""
    if code < 0:
        hint = ", as where memory runs out" if -code == signal.SIGKILL else ""
        return f"ended by {signal.Signals(-code).name}{hint}"
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), f"ended with code {code}")
    return last.partition(": error: ")[2] or last if last.startswith("ikem ") else last

"""What a terminal shows of the step that is running."""

from __future__ import annotations

import time
from datetime import timedelta

from rich.console import Console

from ikem.study.plan import Run
from ikem.study.steps import leftovers


class Status:
    """A line with the epochs of the latest training and the time, as long as it is entered; none without a terminal.

    Args:
        step: that is running.
        run: of which.
    """

    def __init__(self, step: str, run: Run) -> None:
        self.step = step
        self.run = run
        self.console = Console()
        self.status = self.console.status("")
        self.started = time.monotonic()

    def __enter__(self) -> Status:
        if self.console.is_terminal:
            self.status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.status.stop()

    def update(self) -> None:
        """Look how far it is."""
        if self.console.is_terminal:
            self.status.update(f"{self.step}{self._epochs()}, {clock(time.monotonic() - self.started)}")

    def _epochs(self) -> str:
        tables = [path / "metrics.csv" for path in leftovers(self.run.folder, self.step)]
        tables = [path for path in tables if path.is_file()]
        if not tables:
            return ""
        latest = max(tables, key=lambda path: path.stat().st_mtime)
        done = latest.read_text().count("\n") - 1
        return f" ({latest.parent.relative_to(self.run.folder)}): {done} epochs done"


def clock(seconds: float) -> str:
    """Return a time as hours, minutes and seconds.

    Example:
        >>> clock(3671.8)
        '1:01:11'
    """
    return str(timedelta(seconds=int(seconds)))

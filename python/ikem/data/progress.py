"""The progress of work on clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

__all__ = ["track"]

Item = TypeVar("Item")


class _RateColumn(ProgressColumn):
    """How many clips a second are done."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.0f} clips/s")


def track(items: Sequence[Item], description: str, console: Console | None = None) -> Iterator[Item]:
    """Yields the items, one per clip, and shows how far that has come, at what rate, and how long it will take."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(items, description=description)

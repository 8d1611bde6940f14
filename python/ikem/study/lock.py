"""Who is at work on a study, and on its runs: locks of the operating system, which no dead process can hold."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def in_study(folder: Path, *, beside: bool = False) -> Iterator[None]:
    """Hold a study's folder, alone or ``beside`` others that do so too.

    Raises:
        ValueError: if another study holds the folder, and not both do so beside others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".study.lock").open("w") as lock:
        if not _takes(lock.fileno(), fcntl.LOCK_SH if beside else fcntl.LOCK_EX):
            raise ValueError(
                f"out: another study is at work in {folder}; wait until it has ended, give another out, or start both "
                "with --beside"
            )
        yield


@contextlib.contextmanager
def at_run(folder: Path, *, wait: bool = False) -> Iterator[int | None]:
    """Hold a run, and yield a file descriptor that the processes of its steps are to hold open.

    None where another process is at work on the run, unless that is waited for. The process of a step outlives a study
    that was killed for as long as it takes to save a training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".step.lock").open("w") as lock:
        taken = _takes(lock.fileno(), fcntl.LOCK_EX)
        if wait and not taken:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno() if taken or wait else None


def is_at_work(folder: Path) -> bool:
    """Return whether another process is at work on a run."""
    with at_run(folder) as held:
        return held is None


def _takes(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

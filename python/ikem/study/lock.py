"""One study in a folder at a time."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[int]:
    """Hold a study's folder, and yield a file descriptor that the processes of its steps are to hold open.

    The operating system lets go of both locks as the processes die, however they do. The process of a step outlives a
    study that was killed for as long as it takes to save a training: that is waited for.

    Raises:
        ValueError: if another study holds the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".study.lock").open("w") as study, (folder / ".step.lock").open("w") as step:
        if not _takes(study.fileno()):
            raise ValueError(f"out: another study is at work in {folder}; wait until it has ended, or give another out")
        if not _takes(step.fileno()):
            print("study: waits for a step that a killed study has left to save itself", flush=True)
            fcntl.flock(step, fcntl.LOCK_EX)
        yield step.fileno()


def _takes(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

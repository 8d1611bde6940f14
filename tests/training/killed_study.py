"""Kills a study at random moments: `killed_study.py WHOLE.yaml KILLED.yaml`.

The first study is one that nobody disturbs, the second the same in another folder, begun again after each death until
it is complete. Each life is a fork of this process, which has imported everything and takes the steps itself, and kills
itself by SIGKILL at the n-th function call, n drawn at random, so that a moment can be found again.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import torch
from training.killed_training import Calls
from training.study_steps import run_in_process

import ikem.study.run
from ikem.study import study

DEATHS = 5  # after which a life is as long as it takes
SHARE = 5  # a life is at most the whole study's calls through this


def live(file: Path, moment: int) -> bool:
    """Run a study in a process of its own up to a moment, and return whether it was killed."""
    process = os.fork()
    if process == 0:
        sys.setprofile(Calls(moment, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        try:
            study(file)
        finally:
            os._exit(int(sys.exc_info()[0] is not None))
    _, status = os.waitpid(process, 0)
    if not os.WIFSIGNALED(status) and status != 0:
        raise RuntimeError(f"a life ended with status {status}")
    return os.WIFSIGNALED(status)


def main(whole: Path, killed: Path) -> None:
    ikem.study.run.run_step = run_in_process
    torch.set_num_threads(1)  # a fork has only the thread that made it
    calls = Calls()
    sys.setprofile(calls)
    study(whole)
    sys.setprofile(None)
    draw = random.Random(0)
    deaths = 0
    while live(killed, draw.randrange(calls.count // SHARE) if deaths < DEATHS else -1):
        deaths += 1
    print(deaths, "deaths")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

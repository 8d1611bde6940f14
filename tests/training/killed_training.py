"""Kills trainings at random moments until ten have died: `killed_training.py DATASET FOLDER`.

`FOLDER/whole` is a run that nobody disturbs; `FOLDER/killed1`, `FOLDER/killed2`, ... are begun again after each death
until they are complete. Each life is a fork of this process, which has imported everything. It kills itself by SIGKILL
at the n-th function call, n drawn at random, so that a moment can be found again: in the middle of a step, of a
checkpoint's writing, between two files. A life is long enough for four steps at most; an epoch has five.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training.tiny import tiny_config

from ikem.config import Config, TrainerConfig
from ikem.distill import Distillation, distill
from ikem.pretrain import Pretraining, pretrain
from ikem.training import ContrastiveModule

COMMANDS = {"pretrain": pretrain, "distill": distill}
METHODS: dict[str, type[ContrastiveModule]] = {"pretrain": Pretraining, "distill": Distillation}
DEATHS = 10
LIVES = 60  # of one training, before it is given up


class Calls:
    """Counts function calls, Python's and C's, and does something at a chosen one."""

    def __init__(self, moment: int = -1, then: Callable[[], None] = lambda: None) -> None:
        self.count, self.moment, self.then = 0, moment, then

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            self.count += 1
            if self.count == self.moment:
                self.then()


class Enough(Exception):  # noqa: N818 (no error)
    """Ends a training."""


def calls_until_steps(command: str, config: Config, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Begin a training, and go on with it; return the calls until its first and its second step began this time."""
    training_step = METHODS[command].training_step
    for _ in range(2):
        calls, begun = Calls(), []

        def noted(*arguments: Any, calls: Calls = calls, begun: list[int] = begun) -> Any:
            begun.append(calls.count)
            if len(begun) == 2:
                raise Enough
            return training_step(*arguments)

        with monkeypatch.context() as patch, contextlib.suppress(Enough):
            patch.setattr(METHODS[command], "training_step", noted)
            sys.setprofile(calls)
            COMMANDS[command](config)
        sys.setprofile(None)
    first, second = begun
    return first, second


def live(command: str, config: Config, moment: int) -> bool:
    """Train in a process of its own up to a moment, and return whether it was killed."""
    process = os.fork()
    if process == 0:
        sys.setprofile(Calls(moment, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        try:
            COMMANDS[command](config)
        finally:
            os._exit(int(sys.exc_info()[0] is not None))
    _, status = os.waitpid(process, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if not killed and status != 0:
        raise RuntimeError(f"a life ended with status {status}")
    return killed


def main(dataset: Path, folder: Path) -> None:
    torch.set_num_threads(1)  # a fork has only the thread that made it
    trainer = TrainerConfig(accelerator="cpu", progress=False, accuracy_every=2, checkpoint_minutes=0)
    modalities = {"modalities": ("joint", "bone")}
    config = tiny_config(folder / "whole", dataset, modalities, trainer=trainer)
    config = replace(config, data=replace(config.data, batch_size=4))
    draw = random.Random(0)
    deaths = runs = 0
    begins = {}
    for command, function in COMMANDS.items():
        function(config)
        begins[command] = calls_until_steps(command, replace(config, run=folder / "counted"), pytest.MonkeyPatch())
        if command == "pretrain":
            pretrain(replace(config, run=folder / "counted"))
    while deaths < DEATHS:
        runs += 1
        run = replace(config, run=folder / f"killed{runs}")
        for command, (first, second) in begins.items():
            lives = 1
            while live(command, run, draw.randrange(first + 4 * (second - first))):
                deaths, lives = deaths + 1, lives + 1
                if lives > LIVES:
                    raise RuntimeError(f"{command} does not end in {LIVES} lives")
    print(deaths, "deaths")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

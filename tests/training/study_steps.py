"""A step of a study within the process that asks for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from ikem.config import Config, store_config
from ikem.distill import distill
from ikem.evaluate import evaluate
from ikem.finetune import finetune
from ikem.pretrain import pretrain
from ikem.study.steps import STEPS, config_of_step

COMMANDS: dict[str, Callable[[Config], object]] = {
    "pretrain": pretrain,
    "distill": distill,
    "evaluate": evaluate,
    "finetune": finetune,
}


def run_in_process(step: str, config: Config, held: int, watch: Callable[[], None]) -> None:
    """Stand in for `ikem.study.process.run_step`."""
    store_config(config, "evaluate")
    with (config.run / "log.txt").open("a") as log, contextlib.redirect_stdout(log):
        COMMANDS[STEPS[step].command](config_of_step(config, step))

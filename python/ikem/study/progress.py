"""What is done of a run: kept in its folder after every step, so that a study may end at any moment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ikem.files import write_text
from ikem.finetune import finetunings
from ikem.study.plan import Run
from ikem.study.steps import STEPS, config_of_step, leftovers


class Progress:
    """What a run's folder says of its steps, in ``steps.json``: from what they were begun, and which are finished.

    Of each step it has ``key``, ``finished``, ``seconds``, and ``taken_over``, the run whose results, or whose stage 1,
    it began with, if so. The seconds are those of all its processes, but for what ran when the study itself was killed.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.path = run.folder / "steps.json"
        self.steps: dict[str, dict[str, Any]] = json.loads(self.path.read_text()) if self.path.is_file() else {}

    def is_finished(self, step: str) -> bool:
        """Whether the step was done, from what it is to be done from now."""
        return self._is_begun(step) and self.steps[step]["finished"]

    def _is_begun(self, step: str) -> bool:
        return step in self.steps and self.steps[step]["key"] == self.run.keys[step]

    @property
    def finished(self) -> list[str]:
        """The steps that are done."""
        return [step for step in self.run.steps if self.is_finished(step)]

    @property
    def pending(self) -> list[str]:
        """The steps that are still to be done."""
        return [step for step in self.run.steps if not self.is_finished(step)]

    def changed(self) -> list[str]:
        """Return the steps that were begun from something else than now, or by something else than a study."""
        return [
            step
            for step in STEPS  # one that is no longer to be taken has no key
            if self.steps.get(step, {}).get("key") != self.run.keys.get(step)
            and (step in self.steps or leftovers(self.run.folder, step))
        ]

    def discard(self, steps: Sequence[str]) -> None:
        """Forget steps, then remove what they have left: what is half removed counts as begun by something else."""
        for step in steps:
            self.steps.pop(step, None)
        self._write()
        for step in steps:
            for path in leftovers(self.run.folder, step):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def begin(self, step: str) -> None:
        """Note from what a step is done."""
        if not self._is_begun(step):
            self.steps[step] = {"key": self.run.keys[step], "finished": False, "seconds": 0.0, "taken_over": None}
            self._write()

    def take_over(self, step: str, what: str) -> None:
        """Note what a step that was begun takes over."""
        self.steps[step]["taken_over"] = what
        self._write()

    def spend(self, step: str, seconds: float, *, finished: bool) -> None:
        """Note how long a step took, this time, and whether it is finished."""
        self.steps[step]["seconds"] += seconds
        self.steps[step]["finished"] = finished
        self._write()

    def _write(self) -> None:
        write_text(self.path, json.dumps(self.steps, indent=1) + "\n")


def result_files(run: Run, step: str) -> list[Path]:
    """Return the files of rows that a step writes."""
    if step == "evaluate":
        return [run.folder / "evaluation.json"]
    if STEPS[step].command != "finetune":
        return []
    singles = finetunings(config_of_step(run.config, step))
    return [run.folder / "finetune" / single.finetune.name / "evaluation.json" for single in singles]

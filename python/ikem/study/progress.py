"""What is done of a run: kept in its folder after every step, so that a study may end at any moment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence

from ikem.files import write_text
from ikem.study.plan import STEPS, Run

OUTPUTS = {"pretrain": "pretrain", "distill": "distill", "evaluate": "evaluation.json"}  # in the run's folder


class Progress:
    """What a run's folder says of its steps, in ``steps.json``: from what they were begun, and which are finished.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.folder = run.config.run
        self.path = self.folder / "steps.json"
        stored = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self.keys: dict[str, str] = stored.get("keys", {})  # of steps that have begun
        self.seconds: dict[str, float] = stored.get("seconds", {})  # of steps that are finished

    def is_finished(self, step: str) -> bool:
        """Whether the step was done, from what it is to be done from now."""
        return step in self.seconds and self.keys[step] == self.run.keys()[step]

    def changed(self) -> list[str]:
        """Return the steps that were begun from something else than now, or by something else than a study."""
        keys = self.run.keys()  # a step that is no longer to be taken has none
        return [
            step
            for step in STEPS
            if self.keys.get(step) != keys.get(step) and (step in self.keys or (self.folder / OUTPUTS[step]).exists())
        ]

    def discard(self, steps: Sequence[str]) -> None:
        """Forget steps, then remove what they have left: what is half removed counts as begun by something else."""
        for step in steps:
            self.keys.pop(step, None)
            self.seconds.pop(step, None)
        self._write()
        for step in steps:
            path = self.folder / OUTPUTS[step]
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)

    def begin(self, step: str) -> None:
        """Note from what a step is done."""
        self.keys[step] = self.run.keys()[step]
        self._write()

    def finish(self, step: str, seconds: float) -> None:
        """Note that a step is finished."""
        self.seconds[step] = seconds
        self._write()

    def _write(self) -> None:
        write_text(self.path, json.dumps({"keys": self.keys, "seconds": self.seconds}, indent=1) + "\n")

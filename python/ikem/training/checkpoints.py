"""When a training is saved, how, and how it is stopped from outside."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from ikem.checkpoint import first_non_finite, read_torch_file
from ikem.files import replacing
from ikem.training.log import NonFiniteError

if TYPE_CHECKING:
    from ikem.training.loop import TrainingModule

LAST_CHECKPOINT = "last.ckpt"

#: On a GPU, which may be done with an epoch of a small data set in less time than saving it takes, epochs that end
#: sooner after the last saving are not saved, but for the last one and those that are kept.
LEAST_SECONDS = 10

#: The signals at which a training is saved and ends, and what each does when it comes a second time.
STOPPING: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


def device_type(trainer: lightning.Trainer) -> str:
    """What the training runs on."""
    return trainer.strategy.root_device.type


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside the one that it replaces, and maps it to read it.

    Lightning's own way is by the folder for temporary files, and by memory that holds all of the file, queues included,
    beside the module that takes it over.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write and rename."""
        with replacing(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Map the file; it holds tensors and plain values alone."""
        return read_torch_file(Path(path))


class Checkpoints(Checkpoint):
    """Saves the whole training every so many minutes, at the end of an epoch, and under other names at chosen ones.

    Everything random follows from the seed and the step, so what a step leaves behind, with the epoch's sums so far,
    is all that an exact resumption needs. A state with numbers that are not finite is not saved; it ends the training.

    The first SIGINT or SIGTERM lets the step end, saves, and exits with 128 + the signal's number, as shells say it;
    a second one acts at once.

    Args:
        folder: receives ``last.ckpt``.
        keep: number of epochs done -> name of the file to keep.
        minutes: between two savings within an epoch; 0 saves after every step.
    """

    def __init__(self, folder: Path, keep: Mapping[int, str], minutes: float) -> None:
        self.folder = folder
        self.keep = keep
        self.minutes = minutes
        self.saved_step = 0
        self.stopped_by = 0  # a signal's number

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock and listen; what was listening before is put back by the Trainer, however it ends."""
        self.saved_step, self.saved_time = trainer.global_step, time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                signal.signal(number, self._note_signal)

    def _note_signal(self, number: int, frame: Any) -> None:
        self.stopped_by = number
        signal.signal(number, STOPPING[number])

    def on_step_end(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        """Save if it is time to, unless the epoch is about to end.

        Not a hook of Lightning's: those of callbacks are called before the module's own, where the queues are not yet
        what the step makes of them.
        """
        if trainer.global_step % trainer.num_training_batches == 0:
            return
        due = time.monotonic() - self.saved_time >= 60 * self.minutes or self.stopped_by > 0
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self._save(trainer, module)

    def on_train_epoch_end(  # type: ignore[override]
        self, trainer: lightning.Trainer, pl_module: TrainingModule
    ) -> None:
        """Save, unless it was done a moment ago."""
        kept = self.keep.get(trainer.current_epoch + 1)
        due = kept is not None or self.stopped_by > 0 or not self._saved_just_now(trainer)
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self._save(trainer, pl_module, kept)

    def _saved_just_now(self, trainer: lightning.Trainer) -> bool:
        if device_type(trainer) == "cpu" or trainer.current_epoch + 1 == trainer.max_epochs:
            return False
        return time.monotonic() - self.saved_time < LEAST_SECONDS

    def _save(self, trainer: lightning.Trainer, module: TrainingModule, also: str | None = None) -> None:
        module.steps.settle()
        state = {"weights": module.state_dict(), "optimizer": [each.state_dict() for each in trainer.optimizers]}
        if name := trainer.strategy.broadcast(first_non_finite(state)):
            raise NonFiniteError(
                f"the training is not finite after epoch {trainer.current_epoch}, step {trainer.global_step}: "
                f"its {name} is not"
            )
        for file in (also, LAST_CHECKPOINT):
            if file is not None:
                trainer.save_checkpoint(self.folder / file, weights_only=False)
        self.saved_step, self.saved_time = trainer.global_step, time.monotonic()
        self._stop_if_told(trainer)

    def _stop_if_told(self, trainer: lightning.Trainer) -> None:
        told = torch.tensor(self.stopped_by, device=trainer.strategy.root_device)
        if number := int(trainer.strategy.reduce(told, reduce_op="max")):
            if trainer.is_global_zero:
                name, last = signal.Signals(number).name, self.folder / LAST_CHECKPOINT
                said = f"stopped by {name} after step {trainer.global_step}; the same command goes on from {last}"
                print(f"{self.folder.name}: {said}", file=sys.stderr)
            raise SystemExit(128 + number)

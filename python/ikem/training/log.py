"""What a training says of itself: the numbers of its steps, watched and averaged, metrics.csv and the progress bar."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback, RichProgressBar
from torch import Tensor

from ikem import cuda_graphs
from ikem.files import write_text

if TYPE_CHECKING:
    from ikem.data.batches import TrainingData
    from ikem.training.loop import TrainingModule


class NonFiniteError(ValueError):
    """A training has left the finite numbers."""


@torch.no_grad()
def contrastive_accuracy(q: Tensor, k: Tensor, queue: Tensor, tile: int = 2048) -> Tensor:
    """Return the fraction of queries that are nearer to their own key than to every entry of the queue.

    Args:
        q: queries, (G, N, C).
        k: their keys, (G, N, C).
        queue: (G, K, C).
        tile: entries of the queue that are compared at a time, so that no (N, K) array is made.

    Returns:
        (G,), one number per modality.

    Example:
        >>> q = torch.eye(2).expand(1, 2, 2)
        >>> contrastive_accuracy(q, q, torch.tensor([[[0.0, 2.0]]]))
        tensor([0.5000])
    """
    positive = (q * k).sum(-1)
    nearest = torch.stack([(q @ part.to(q.dtype).mT).amax(-1) for part in queue.split(tile, dim=1)]).amax(0)
    return (positive > nearest).float().mean(-1)


class _Reading:
    """The numbers of one step, over all processes, on their way from the device: (losses and accuracy) x modalities.

    A copy from a GPU is only launched here, and by the time that the next step's is, it has come: nothing waits.
    """

    def __init__(self, epoch: int, step: int, losses: Mapping[str, Tensor], accuracy: Tensor | None) -> None:
        self.epoch, self.step = epoch, step
        self.losses = list(losses)
        values = torch.stack([*losses.values(), *([] if accuracy is None else [accuracy])]).detach()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(values)
            values /= dist.get_world_size()
        later = values.device.type == cuda_graphs.DEVICE
        self.values = values.to("cpu", non_blocking=later)
        self.copied: torch.cuda.Event | None = None
        if later:
            self.copied = torch.cuda.Event()
            self.copied.record()

    def rows(self) -> list[list[float]]:
        """Return the numbers, once they are there."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.values.tolist()


class StepLog:
    """Averages what the steps of an epoch measure, and stops the training at the first loss that is not finite.

    On the CPU a step's losses are looked at before anything follows from them; those of a GPU when the next step has
    been launched, or when :meth:`settle` is called. The sums are kept in Python's floats, and so a training that goes
    on within an epoch ends with the same means.

    Args:
        modalities: that the numbers of a step belong to.

    Example:
        >>> log = StepLog(("joint", "bone"))
        >>> log.add(0, 1, {"contrast": torch.tensor([1.0, 2.0])})
        >>> log.add(0, 2, {"contrast": torch.tensor([3.0, 2.0])}, accuracy=torch.tensor([0.5, 1.0]))
        >>> log.means()
        {'loss/joint': 2.0, 'loss/bone': 2.0, 'loss': 4.0, 'accuracy/joint': 0.5, 'accuracy/bone': 1.0}
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        self.modalities = tuple(modalities)
        self.pending: _Reading | None = None
        self.reset()

    def reset(self) -> None:
        """Begin a new epoch."""
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.skipped_steps = 0

    def add(self, epoch: int, step: int, losses: Mapping[str, Tensor], accuracy: Tensor | None = None) -> None:
        """Take in a step.

        Args:
            epoch: that it is part of, from 0.
            step: its number, from 1.
            losses: its parts by name, (G,) each; their sum is logged too.
            accuracy: (G,), where it was measured.

        Raises:
            NonFiniteError: if a loss is not finite, of this step or the one before.
        """
        reading = _Reading(epoch, step, losses, accuracy)
        self.settle()
        self.pending = reading
        if reading.copied is None:
            self.settle()

    def settle(self) -> None:
        """Wait for what is on its way from the device.

        Raises:
            NonFiniteError: if one of the losses is not finite.
        """
        if self.pending is None:
            return
        reading, self.pending = self.pending, None
        rows = reading.rows()
        losses = dict(zip(reading.losses, rows, strict=False))
        self._require_finite(reading, losses)
        for name, value in self._named(losses, rows[len(losses) :]):
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def _named(self, losses: Mapping[str, list[float]], accuracy: list[list[float]]) -> Iterator[tuple[str, float]]:
        totals = [sum(parts) for parts in zip(*losses.values(), strict=True)]
        columns = {
            "loss": totals,
            **(losses if len(losses) > 1 else {}),
            **({"accuracy": accuracy[0]} if accuracy else {}),
        }
        for name, values in columns.items():
            yield from ((f"{name}/{modality}", value) for modality, value in zip(self.modalities, values, strict=True))
            if name == "loss":
                yield name, sum(totals)

    def _require_finite(self, reading: _Reading, losses: Mapping[str, list[float]]) -> None:
        bad = [
            f"{name} of {modality} is {value}"
            for name, values in losses.items()
            for modality, value in zip(self.modalities, values, strict=True)
            if not math.isfinite(value)
        ]
        if bad:
            raise NonFiniteError(
                f"the loss is not finite in epoch {reading.epoch}, step {reading.step}: {', '.join(bad)}"
            )

    def means(self) -> dict[str, float]:
        """Return the means over the steps so far, each over those in which it was measured."""
        self.settle()
        return {name: total / self.counts[name] for name, total in self.sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch so far as plain values."""
        self.settle()
        return {"sums": dict(self.sums), "counts": dict(self.counts), "skipped_steps": self.skipped_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with an epoch."""
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
        self.skipped_steps = state["skipped_steps"]


class SkippedSteps(Callback):
    """Counts the steps that the scaling of 16-bit gradients leaves out because a gradient is not finite.

    Some are normal: by them the scale finds its size.
    """

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Have the optimizer say when it makes a step."""
        self.stepped = False
        if trainer.scaler is not None:
            trainer.optimizers[0].register_step_post_hook(self._note)

    def _note(self, *_: Any) -> None:
        self.stepped = True

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: lightning.Trainer, pl_module: TrainingModule, *_: Any
    ) -> None:
        """Count."""
        pl_module.steps.skipped_steps += trainer.scaler is not None and not self.stepped
        self.stepped = False


class MetricsTable(Callback):
    """Writes one row per epoch into ``metrics.csv``: means over the epoch, learning rate and clips per second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take over the rows of an interrupted run up to where it is resumed, which may be within an epoch."""
        if self.path.is_file() and trainer.current_epoch > 0:
            with self.path.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < trainer.current_epoch]
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock, and note the learning rate before the schedule moves on."""
        self.started = self.ended = time.perf_counter()
        self.first_step = trainer.global_step
        self.learning_rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time: what is measured between epochs is no part of their speed."""
        self.ended = time.perf_counter()

    def on_train_epoch_end(  # type: ignore[override]
        self, trainer: lightning.Trainer, pl_module: TrainingModule
    ) -> None:
        """Write the table anew; it is small."""
        metrics: dict[str, Any] = dict(sorted((pl_module.steps.means() | pl_module.measured).items()))
        if trainer.scaler is not None:
            metrics["skipped_steps"] = pl_module.steps.skipped_steps
        pl_module.steps.reset()
        pl_module.measured = {}
        data: TrainingData = trainer.datamodule  # type: ignore[attr-defined]
        clips = (trainer.global_step - self.first_step) * data.batches.batch_size
        metrics |= {"lr": self.learning_rate, "clips_per_second": clips / (self.ended - self.started)}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
        self.rows.append({"epoch": trainer.current_epoch, "step": trainer.global_step, **metrics})
        if trainer.is_global_zero:
            table = io.StringIO()
            columns = dict.fromkeys(column for row in self.rows for column in row)
            writer = csv.DictWriter(table, list(columns), restval="")
            writer.writeheader()
            writer.writerows(self.rows)
            write_text(self.path, table.getvalue())


class ProgressBar(RichProgressBar):
    """Shows the epoch's mean loss so far, and under the scaling of 16-bit gradients the steps that it left out."""

    def get_metrics(  # type: ignore[override]
        self, trainer: lightning.Trainer, pl_module: TrainingModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return what stands beside the bar; of a GPU, up to the step before the last."""
        steps = pl_module.steps
        shown: dict[str, Any] = {"loss": steps.sums["loss"] / steps.counts["loss"]} if steps.sums else {}
        if trainer.scaler is not None:
            shown["skipped_steps"] = steps.skipped_steps
        return shown

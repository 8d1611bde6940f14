"""What pretraining and distillation share: the training loop around a method, its log and its checkpoints."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import math
import shutil
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import Tensor

from ikem.checkpoint import export_encoders
from ikem.config import Config, EncoderConfig, OptimizationConfig, store_config, write_text
from ikem.cuda_graphs import CapturedModule
from ikem.data.batches import Batch, ContrastiveData
from ikem.data.dataset import PreparedDataset
from ikem.data.views import View
from ikem.encoders import Encoder
from ikem.seeding import derive_seed
from ikem_ext import SkeletonLayout

LAST_CHECKPOINT = "last.ckpt"
ENCODERS = "encoders.safetensors"


def learning_rate_factor(options: OptimizationConfig, epoch: int) -> float:
    """Return what the peak learning rate is multiplied by in an epoch.

    Example:
        >>> options = OptimizationConfig(epochs=300, milestones=(250,), decay=0.1)
        >>> learning_rate_factor(options, 249), learning_rate_factor(options, 250)
        (1.0, 0.1)
    """
    if epoch < options.warmup_epochs:
        return (epoch + 1) / (options.warmup_epochs + 1)
    if options.schedule == "step":
        return options.decay ** sum(epoch >= milestone for milestone in options.milestones)
    progress = (epoch - options.warmup_epochs) / max(1, options.epochs - options.warmup_epochs)
    return 0.5 * (1 + math.cos(math.pi * progress))


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
    nearest = torch.stack([(q @ part.mT).amax(-1) for part in queue.to(q.dtype).split(tile, dim=1)]).amax(0)
    return (positive > nearest).float().mean(-1)


class ContrastiveModule(lightning.LightningModule):
    """Base of the two trainings: derives views, seeds each step, logs per modality, sets up SGD.

    Args:
        options: of the optimization.
        encoder_config: of the encoders that are trained.
        layout: of the skeletons.
        seed: of the run.
        accuracy_every: contrastive accuracy is measured every so many steps.
        cuda_graphs: launch what is between the views and the losses, and its backward pass, as CUDA graphs.
    """

    def __init__(
        self,
        options: OptimizationConfig,
        encoder_config: EncoderConfig,
        layout: SkeletonLayout,
        seed: int,
        accuracy_every: int,
        cuda_graphs: bool,
    ) -> None:
        super().__init__()
        self.options = options
        self.encoder_config = encoder_config
        self.layout = layout
        self.seed = seed
        self.accuracy_every = accuracy_every
        self.captured = CapturedModule(self) if cuda_graphs else None

    @property
    @abstractmethod
    def encoders(self) -> dict[str, Encoder]:
        """The encoders that are trained, by modality."""

    @property
    def stage(self) -> int:
        """The part of the training, from 1; within one, every step does the same."""
        return 1

    @abstractmethod
    def forward(self, first_view: Tensor, second_view: Tensor) -> tuple[Any, ...]:
        """Map two views to the losses by name, (G,) each, and to what the log and the queues need beside them.

        All that a step does between its views and the backward pass: tensors in, tensors out, and nothing read that
        changes within a stage but tensors in their place.
        """

    def compare(self, first_view: Tensor, second_view: Tensor) -> tuple[Any, ...]:
        """Call `forward`, or launch the graph that was captured of it."""
        if self.captured is None:
            return self(first_view, second_view)
        return self.captured(self.stage, first_view, second_view)

    def derive(self, batch: Batch, view: View, modalities: tuple[str, ...]) -> Tensor:
        """Apply a view to a batch and derive modalities, (len(modalities), N, 3, T, V, M)."""
        return view.derive(batch.joints, batch.num_frames, self.layout, modalities, batch.clips)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make what dropout draws a function of the step, so that a resumed run draws the same."""
        torch.manual_seed(derive_seed(self.seed, "step", self.global_step, self.global_rank))

    def log_losses(self, losses: Mapping[str, Tensor], modalities: tuple[str, ...], num_clips: int) -> Tensor:
        """Log the losses per modality, (G,) each, their sum and its parts, and return the total."""
        total = torch.stack(list(losses.values())).sum(0)
        named = {"loss": total, **(losses if len(losses) > 1 else {})}
        metrics = {
            f"{name}/{modality}": value
            for name, values in named.items()
            for modality, value in zip(modalities, values.detach(), strict=True)
        }
        metrics["loss"] = total.detach().sum()
        self.log_dict(metrics, on_step=False, on_epoch=True, sync_dist=True, batch_size=num_clips)
        return total.sum()

    def log_accuracy(self, q: Tensor, k: Tensor, queue: Tensor, modalities: tuple[str, ...]) -> None:
        """Log the contrastive accuracy per modality, every so many steps."""
        if self.global_step % self.accuracy_every == 0:
            accuracy = contrastive_accuracy(q, k, queue)
            metrics = {f"accuracy/{m}": value for m, value in zip(modalities, accuracy, strict=True)}
            self.log_dict(metrics, on_step=False, on_epoch=True, sync_dist=True, batch_size=q.shape[1])

    def configure_optimizers(self) -> Any:
        """SGD, its learning rate changed once per epoch."""
        optimizer = torch.optim.SGD(
            [parameter for parameter in self.parameters() if parameter.requires_grad],
            lr=self.options.learning_rate,
            momentum=self.options.sgd_momentum,
            weight_decay=self.options.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: learning_rate_factor(self.options, epoch))
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class EpochCheckpoints(Checkpoint):
    """Saves the whole training at the end of every epoch, and under another name at chosen ones.

    Everything random follows from the seed and the step, so the end of an epoch is all that an exact resumption
    needs: what was trained of the epoch that was interrupted is trained again, with the same result.

    Args:
        folder: receives ``last.ckpt``.
        keep: number of epochs done -> name of the file to keep.
    """

    def __init__(self, folder: Path, keep: Mapping[int, str]) -> None:
        self.folder = folder
        self.keep = keep

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save; Lightning writes beside and renames."""
        if name := self.keep.get(trainer.current_epoch + 1):
            trainer.save_checkpoint(self.folder / name, weights_only=False)
        trainer.save_checkpoint(self.folder / LAST_CHECKPOINT, weights_only=False)


class MetricsTable(Callback):
    """Writes one row per epoch into ``metrics.csv``: means over the epoch, learning rate and clips per second."""

    def __init__(self, path: Path, batch_size: int) -> None:
        self.path = path
        self.batch_size = batch_size
        self.rows: list[dict[str, Any]] = []

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take over the rows of an interrupted run up to where it is resumed."""
        if self.path.is_file() and trainer.current_epoch > 0:
            with self.path.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < trainer.current_epoch]

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock, and note the learning rate before the schedule moves on."""
        self.started = time.perf_counter()
        self.learning_rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the table anew; it is small."""
        clips = trainer.num_training_batches * self.batch_size
        derived = {"lr": self.learning_rate, "clips_per_second": clips / (time.perf_counter() - self.started)}
        for logger in trainer.loggers:
            logger.log_metrics(derived, step=trainer.global_step)
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        self.rows.append({"epoch": trainer.current_epoch, "step": trainer.global_step, **metrics, **derived})
        if trainer.is_global_zero:
            table = io.StringIO()
            columns = dict.fromkeys(column for row in self.rows for column in row)
            writer = csv.DictWriter(table, list(columns), restval="")
            writer.writeheader()
            writer.writerows(self.rows)
            write_text(self.path, table.getvalue())


def build_trainer(config: Config, folder: Path, *, epochs: int, keep: Mapping[int, str]) -> lightning.Trainer:
    """Return the trainer of one of the run's trainings, which writes into ``folder``."""
    callbacks: list[Callback] = [
        EpochCheckpoints(folder, keep),
        MetricsTable(folder / "metrics.csv", config.data.batch_size),
    ]
    if config.trainer.progress:
        callbacks.append(RichProgressBar())
    return lightning.Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        strategy=_strategy(config),
        precision=config.trainer.precision,  # type: ignore[arg-type]
        max_epochs=epochs,
        callbacks=callbacks,
        logger=TensorBoardLogger(folder, name="tensorboard", version=""),
        log_every_n_steps=1,
        enable_checkpointing=True,
        enable_progress_bar=config.trainer.progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _strategy(config: Config) -> Strategy | str:
    """Several processes: the exchange heads have no gradient in stage 1, and the queues must not be broadcast."""
    if config.trainer.devices == 1:
        return "auto"
    return DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)


def open_data(config: Config) -> ContrastiveData:
    """Open the run's prepared dataset for training."""
    return ContrastiveData(config, PreparedDataset(config.data.folder))


def fit(
    module: ContrastiveModule,
    data: ContrastiveData,
    config: Config,
    command: str,
    *,
    keep: Mapping[int, str],
    overwrite: bool,
) -> Path:
    """Train a module in the run's folder, from where an interrupted run of the same configuration stopped.

    Args:
        module: what is trained.
        data: what it is trained on.
        config: of the run.
        command: ``pretrain`` or ``distill``, the name of the folder too.
        keep: number of epochs done -> name of a checkpoint to keep.
        overwrite: start afresh, whatever the folder holds.

    Returns:
        The last checkpoint.

    Raises:
        ValueError: if the folder holds a run with another configuration.
    """
    folder = config.run / command
    last = folder / LAST_CHECKPOINT
    with _quiet_lightning():
        trainer = build_trainer(config, folder, epochs=module.options.epochs, keep=keep)
        if trainer.is_global_zero:
            store_config(config, command, overwrite=overwrite)
            if overwrite:
                shutil.rmtree(folder, ignore_errors=True)
        trainer.fit(module, data, ckpt_path=last if last.is_file() else None, weights_only=True)
    if trainer.is_global_zero:
        export_encoders(folder / ENCODERS, module.encoders, module.encoder_config, module.layout)
        print(f"{command}: {last}")
    return last


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence advice that does not apply: batches are fetched whole, and the teacher is in eval mode on purpose."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    with warnings.catch_warnings():
        for message in (".*does not have many workers.*", ".*in eval mode at the start.*", ".*LeafSpec.*"):
            warnings.filterwarnings("ignore", message)
        logger.setLevel(logging.WARNING)
        yield
        logger.setLevel(level)

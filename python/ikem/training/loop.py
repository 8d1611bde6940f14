"""The training loop around a method."""

from __future__ import annotations

import contextlib
import logging
import shutil
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from ikem.checkpoint import DESCRIPTION, export_modules, read_checkpoint
from ikem.config import Config, EncoderConfig, OptimizationConfig, ScheduleConfig, plain, store_config
from ikem.cuda_graphs import CapturedModule
from ikem.data.batches import Batch, ContrastiveData, TrainingData
from ikem.data.dataset import PreparedDataset
from ikem.data.joined import open_dataset
from ikem.data.recipe import Recipe
from ikem.data.views import View
from ikem.encoders import Encoder
from ikem.seeding import derive_seed
from ikem.training import processes
from ikem.training.checkpoints import LAST_CHECKPOINT, Checkpoints, WholeFiles
from ikem.training.log import MetricsTable, NonFiniteError, ProgressBar, SkippedSteps, StepLog, contrastive_accuracy
from ikem.training.memory import keep_freed_memory
from ikem.training.optimizer import adamw
from ikem.training.schedule import learning_rate_factor, require_same_run
from ikem_ext import SkeletonLayout

ENCODERS = "encoders.safetensors"
EPOCH_SO_FAR = "epoch_so_far"  # the key of a checkpoint under which the sums of the epoch's steps stand


class TrainingModule(lightning.LightningModule):
    """Base of all trainings: derives views, seeds each step, logs per modality, sets up the optimizer.

    Args:
        options: of the optimization.
        modalities: that are trained.
        encoder_config: of the encoders that are trained.
        layout: of the skeletons.
        seed: of the run.
        accuracy_every: accuracy is measured every so many steps.
        cuda_graphs: launch what is between the views and the losses, and its backward pass, as CUDA graphs.

    Attributes:
        measured: what was measured between an epoch's last step and its row in metrics.csv.
    """

    def __init__(
        self,
        options: ScheduleConfig,
        modalities: tuple[str, ...],
        encoder_config: EncoderConfig,
        layout: SkeletonLayout,
        seed: int,
        accuracy_every: int,
        cuda_graphs: bool,
    ) -> None:
        super().__init__()
        self.options = options
        self.modalities = modalities
        self.encoder_config = encoder_config
        self.layout = layout
        self.seed = seed
        self.accuracy_every = accuracy_every
        self.captured = CapturedModule(self) if cuda_graphs else None
        self.steps = StepLog(modalities)
        self.measured: dict[str, float] = {}
        self.checkpoints: Checkpoints | None = None  # to tell that a step has ended, where the training is saved

    @property
    @abstractmethod
    def encoders(self) -> dict[str, Encoder]:
        """The encoders that are trained, by modality."""

    @property
    def stage(self) -> int:
        """The part of the training, from 1; within one, every step does the same."""
        return self.options.stage(self.current_epoch)

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint says of the module beside what all say: ``kind`` and its own options."""

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Map views, and what else a step takes, to the losses by name, (G,) each, and to what else it needs of them.

        All that a step does between its views and the backward pass: tensors in, tensors out, and nothing read that
        changes within a stage but tensors in their place.
        """

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what the optimizer trains, each group at a peak learning rate of its own."""

    def compare(self, *inputs: Tensor) -> tuple[Any, ...]:
        """Call `forward`, or launch the graph that was captured of it."""
        if self.captured is None:
            return self(*inputs)
        return self.captured(self.stage, *inputs)

    def derive(self, batch: Batch, view: View, modalities: tuple[str, ...]) -> Tensor:
        """Apply a view to a batch and derive modalities, (len(modalities), N, 3, T, V, M)."""
        return view.derive(batch.joints, batch.num_frames, self.layout, modalities, batch.clips)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make what dropout draws a function of the step, so that a resumed run draws the same."""
        torch.manual_seed(derive_seed(self.seed, "step", self.global_step, self.global_rank))

    def on_train_start(self) -> None:
        """Take the learning rate from the schedule: it may have been another one when the training was saved."""
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = group["initial_lr"] * learning_rate_factor(self.options, self.current_epoch)

    def on_train_batch_end(self, outputs: dict[str, Tensor], batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        """The step is complete; from here on it may be saved."""
        if self.checkpoints is not None:
            self.checkpoints.on_step_end(self.trainer, self)

    def log_losses(self, losses: Mapping[str, Tensor], accuracy: Callable[[], Tensor]) -> Tensor:
        """Log the losses and, every so many steps, an accuracy; return the total loss.

        Args:
            losses: the parts of the loss by name, (G,) each.
            accuracy: measures it, (G,).
        """
        due = self.global_step % self.accuracy_every == 0
        self.steps.add(self.current_epoch, self.global_step + 1, losses, accuracy() if due else None)
        return torch.stack(list(losses.values())).sum(0).sum()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Describe the module, so that it can be built again from the checkpoint alone, and how far it has come."""
        steps_per_epoch = int(self.trainer.num_training_batches)
        checkpoint[DESCRIPTION] = {
            **self.describe(),
            "encoder": plain(self.encoder_config),
            "layout": self.layout.to_dict(),
            "epochs": self.global_step // steps_per_epoch,
            "step": self.global_step,
            "steps_per_epoch": steps_per_epoch,
        }
        checkpoint[EPOCH_SO_FAR] = self.steps.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the epoch so far."""
        self.steps.load_state_dict(checkpoint[EPOCH_SO_FAR])

    def build_optimizer(self) -> torch.optim.Optimizer:
        """Return what makes the steps: SGD."""
        momentum, decay = self.options.sgd_momentum, self.options.weight_decay
        return torch.optim.SGD(self.parameter_groups(), momentum=momentum, weight_decay=decay)

    def configure_optimizers(self) -> Any:
        """The optimizer, its learning rate changed once per epoch."""
        optimizer = self.build_optimizer()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: learning_rate_factor(self.options, epoch))
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class ContrastiveModule(TrainingModule):
    """Base of the trainings that compare two views of a clip with each other and with queues of earlier ones."""

    options: OptimizationConfig

    @abstractmethod
    def enqueue(self, outputs: Mapping[str, Tensor]) -> None:
        """Let what a step saw replace the oldest entries of the queues, once the gradients are done with them."""

    def on_train_batch_end(self, outputs: dict[str, Tensor], batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        """Complete the step by the queues."""
        self.enqueue(outputs)
        super().on_train_batch_end(outputs, batch, batch_idx)

    def log_step(self, losses: Mapping[str, Tensor], q: Tensor, k: Tensor, queue: Tensor) -> Tensor:
        """Log the losses and, every so many steps, the contrastive accuracy; return the total loss.

        Args:
            losses: the parts of the loss by name, (G,) each.
            q: (G, N, C), of which the accuracy is measured.
            k: (G, N, C).
            queue: (G, K, C).
        """
        return self.log_losses(losses, lambda: contrastive_accuracy(q, k, queue))

    def build_optimizer(self) -> torch.optim.Optimizer:
        """Return what makes the steps: SGD, or AdamW."""
        if self.options.optimizer == "adamw":
            return adamw(self.parameter_groups(), self.options.weight_decay)
        return super().build_optimizer()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """All at one learning rate."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [{"params": trained, "lr": self.options.learning_rate}]


def build_trainer(
    config: Config, folder: Path, *, epochs: int, keep: Mapping[int, str], measures: Sequence[Callback] = ()
) -> lightning.Trainer:
    """Return the trainer of one of the run's trainings, which writes into ``folder``."""
    callbacks: list[Callback] = [
        SkippedSteps(),
        *measures,
        MetricsTable(folder / "metrics.csv"),
        Checkpoints(folder, keep, config.trainer.checkpoint_minutes),
    ]
    if config.trainer.progress:
        callbacks.append(ProgressBar())
    return lightning.Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        num_nodes=config.trainer.num_nodes,
        strategy=processes.strategy(config.trainer),
        precision=config.trainer.precision,  # type: ignore[arg-type]
        max_epochs=epochs,
        callbacks=callbacks,
        plugins=[WholeFiles(), *processes.plugins(config)],
        logger=TensorBoardLogger(folder, name="tensorboard", version=""),
        log_every_n_steps=1,
        enable_checkpointing=True,
        enable_progress_bar=config.trainer.progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def watches(config: Config, dataset: PreparedDataset) -> list[Callback]:
    """Return what looks at the encoders while they are trained, if that was asked for."""
    if not config.trainer.watch_every:
        return []
    from ikem.training.watch import Watch  # scikit-learn, which a training needs for nothing else

    return [Watch(config, dataset)]


def open_data(config: Config, *, key_encoders: bool = False) -> ContrastiveData:
    """Open the dataset or datasets that the run trains on; with or without `key_encoders` for the second view."""
    folders, _ = config.data.trained_on
    return ContrastiveData(config, open_dataset(folders), key_encoders=key_encoders)


def fit(
    module: TrainingModule,
    data: TrainingData,
    config: Config,
    command: str,
    *,
    name: str = "",
    keep: Mapping[int, str],
    measures: Sequence[Callback] = (),
    overwrite: bool,
) -> Path:
    """Train a module in the run's folder, from where an interrupted run of the same configuration stopped.

    Args:
        module: what is trained.
        data: what it is trained on.
        config: of the run.
        command: ``pretrain``, ``distill`` or ``finetune``, the name of the folder too.
        name: of a folder in that one, where a run may hold several such trainings.
        keep: number of epochs done -> name of a checkpoint to keep.
        measures: at the end of an epoch they add to what the module has ``measured``.
        overwrite: start afresh, whatever the folder holds.

    Returns:
        The last checkpoint.

    Raises:
        ValueError: if the folder holds a run with another configuration.
        NonFiniteError: if a loss or a weight is not finite, from where on nothing was saved.
        ConnectionError: if another process that took part has ended.
        SystemExit: if a signal stopped the training, which was saved before.
    """
    folder = config.run / command / name
    last = folder / LAST_CHECKPOINT
    with _quiet_lightning():
        trainer = build_trainer(config, folder, epochs=module.options.epochs, keep=keep, measures=measures)
        with processes.first_prepares(trainer) as first:
            if first and overwrite:
                shutil.rmtree(folder, ignore_errors=True)
            elif first:
                _require_resumable(config, command, last, len(data.batches))
            if first:
                store_config(config, command)
        if trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
        _train(trainer, module, data, last)
    if trainer.is_global_zero:
        recipe = _known_recipe(data.dataset)
        export_modules(folder / ENCODERS, module.encoders, module.encoder_config, module.layout, **recipe)
        print(f"{command}: {last}")
    return last


def _known_recipe(dataset: PreparedDataset) -> dict[str, Any]:
    """Return what an export says of how recordings become clips; nothing where the data set does not say."""
    try:
        return {"recipe": Recipe.of(dataset).to_dict()}
    except ValueError:
        return {}


def _require_resumable(config: Config, command: str, last: Path, steps_per_epoch: int) -> None:
    checkpoint = read_checkpoint(last, command) if last.is_file() else None
    require_same_run(config, command, 0 if checkpoint is None else checkpoint["epoch"] + 1)
    if checkpoint is None:
        return
    before = checkpoint[DESCRIPTION].get("steps_per_epoch")
    if before is None:
        raise ValueError(
            f"run: {config.run} was begun by an earlier version, which this one cannot go on with; choose another "
            "folder, or give --overwrite to start afresh"
        )
    if before != steps_per_epoch:
        raise ValueError(
            f"run: {config.run} was trained in epochs of {before} steps, which are {steps_per_epoch} now: "
            f"{config.data.folders} has changed; choose another folder, or give --overwrite to start afresh"
        )


def _train(trainer: lightning.Trainer, module: TrainingModule, data: TrainingData, last: Path) -> None:
    checkpoints = trainer.checkpoint_callback
    assert isinstance(checkpoints, Checkpoints)
    module.checkpoints = checkpoints
    trainer.precision_plugin.convert_module(module)  # Lightning would load a checkpoint first, and so round it
    try:
        trainer.fit(module, data, ckpt_path=last if last.is_file() else None, weights_only=True)
    except (NonFiniteError, SystemExit) as error:
        if not trainer.is_global_zero:  # all processes stop at the same step; the first one speaks for all
            code = error.code if isinstance(error, SystemExit) else 1
            raise SystemExit(code if processes.were_started(trainer) else 0) from None  # else Lightning ends the first
        if isinstance(error, SystemExit):
            raise
        said = f"{error}; {_saved(checkpoints, last)}; try a lower learning rate, or a precision of more bits"
        raise NonFiniteError(said) from None
    except RuntimeError as error:
        if trainer.world_size == 1 or not processes.is_loss_of_another(error):
            raise
        said = str(error).split(". ")[0]
        raise ConnectionError(
            f"process {trainer.global_rank} of {trainer.world_size} has lost another, which was ended or is out of "
            f"reach ({said}); {_saved(checkpoints, last)}; the same command, on any number of processes, goes on"
        ) from error


def _saved(checkpoints: Checkpoints, last: Path) -> str:
    step = checkpoints.saved_step
    return f"{last} holds the training after step {step}" if step else "nothing was saved before"


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence advice that does not apply.

    Batches are fetched whole, the teacher is in eval mode on purpose, and the plan of the batches knows where to go on;
    and what is to take the place of `broadcast_buffers` the oldest PyTorch does not know.
    """
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*in eval mode at the start.*",
            ".*dataloader is not resumable.*",
            ".*LeafSpec.*",
            ".*`broadcast_buffers` is deprecated.*",
        ):
            warnings.filterwarnings("ignore", message)
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.setLevel(level)

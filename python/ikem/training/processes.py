"""Several processes that train together, on one machine or on more: how they are set up, and what one says of another.

Lightning does the work. Where ``torchrun``, SLURM or another launcher that it knows has started the processes, its
environment for that says who is who; else it starts those of one machine itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import lightning
import torch.distributed as dist
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.plugins import LayerSync
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import nn

from ikem.config import Config, TrainerConfig
from ikem.encoders.norm import synchronize

#: In the order in which Lightning's Trainer looks for them.
LAUNCHERS = (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment)


def strategy(config: TrainerConfig) -> Strategy | str:
    """Return how the processes train together, or Lightning's word for one that is alone.

    The exchange heads have no gradient in stage 1, and the queues must not be broadcast.
    """
    if config.processes == 1:
        return "auto"
    options = config.ddp
    return DDPStrategy(
        process_group_backend=options.process_group_backend,
        timeout=timedelta(minutes=options.timeout_minutes),
        bucket_cap_mb=options.bucket_cap_mb,
        gradient_as_bucket_view=options.gradient_as_bucket_view,
        find_unused_parameters=True,
        broadcast_buffers=False,
    )


def plugins(config: Config) -> list[Any]:
    """Return what else Lightning's Trainer has to know of the processes.

    Raises:
        ValueError: if the processes that were started are not those that the configuration speaks of.
    """
    launcher = _launcher(config.trainer)
    synced = [SyncedNorms()] if config.encoder.batch_norm == "sync" else []
    return [*([launcher] if launcher else []), *synced]


class SyncedNorms(LayerSync):
    """Has the batch norms of a module that is trained normalize by the batches of all processes."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Begin with it."""
        synchronize(model)
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """End it."""
        synchronize(model, together=False)
        return model


def _launcher(config: TrainerConfig) -> ClusterEnvironment | None:
    """Return what started the processes; None if Lightning is to do it."""
    kind = next((each for each in LAUNCHERS if each.detect()), None)
    if kind is None:
        if config.num_nodes > 1:
            raise ValueError(
                f"trainer.num_nodes: expected 1, as nothing has started a process on each of {config.num_nodes} nodes; "
                "start them by torchrun or by SLURM's srun"
            )
        return None
    # Lightning's own way to requeue a job saves in the middle of a step, and elsewhere.
    launcher = SLURMEnvironment(auto_requeue=False) if kind is SLURMEnvironment else kind()
    if launcher.world_size() != config.processes:
        raise ValueError(
            f"trainer.devices: expected trainer.devices times trainer.num_nodes to be {launcher.world_size()}, the "
            f"number of processes that were started ({kind.__name__}), got {config.described_processes}"
        )
    return launcher


@contextmanager
def first_prepares(trainer: lightning.Trainer) -> Iterator[bool]:
    """Let the first process prepare, while the others wait; yields whether it is this one.

    What it refuses ends them all: it says why, the others nothing. Processes that Lightning starts itself do not exist
    before all is prepared.
    """
    if were_started(trainer):
        trainer.strategy.setup_environment()
    refusal: Exception | None = None
    try:
        yield trainer.is_global_zero
    except (ValueError, OSError) as error:
        refusal = error
    if trainer.strategy.broadcast(refusal is not None):
        raise refusal or SystemExit(2)


def were_started(trainer: lightning.Trainer) -> bool:
    """Return whether there are several processes, and something else than Lightning has started them."""
    launcher = getattr(trainer.strategy, "cluster_environment", None)
    return launcher is not None and not isinstance(launcher, LightningEnvironment)


def is_loss_of_another(error: Exception) -> bool:
    """Return whether an error says that another process has ended or cannot be reached.

    Example:
        >>> is_loss_of_another(RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.1]"))
        True
        >>> is_loss_of_another(RuntimeError("shape '[2, 3]' is invalid for input of size 4"))
        False
    """
    return isinstance(error, dist.DistError) or re.search(r"\b(gloo|nccl)\b", str(error), re.IGNORECASE) is not None

"""Where and how a training runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from ikem.config.checks import require, require_at_least, require_positive


@dataclass
class DDPConfig:
    """How several processes train together: options of Lightning's ``DDPStrategy``.

    Attributes:
        process_group_backend: ``nccl``, ``gloo``, ...: what carries the messages; by default what suits the device.
        timeout_minutes: how long a process waits for another before it gives up.
        bucket_cap_mb: gradients are averaged in parts of so many MiB, while the backward pass makes the next.
        gradient_as_bucket_view: keep gradients in these parts alone, which saves the memory of a second copy.
    """

    process_group_backend: str | None = None
    timeout_minutes: float = 30.0
    bucket_cap_mb: int = 25
    gradient_as_bucket_view: bool = False

    def __post_init__(self) -> None:
        require_positive("trainer.ddp.timeout_minutes", self.timeout_minutes)
        require_at_least("trainer.ddp.bucket_cap_mb", self.bucket_cap_mb, 1)


@dataclass
class TrainerConfig:
    """Where and how the training runs; nothing here changes what is computed, but for rounding.

    Several processes draw their own dropout, and normalize as ``encoder.batch_norm`` says.

    Attributes:
        accelerator: ``auto``, ``cpu``, ``gpu``, ...: as Lightning's Trainer takes it.
        devices: number of devices of each machine (processes on a CPU).
        num_nodes: number of machines; more than one are started by ``torchrun``, SLURM's ``srun`` or another launcher
            that Lightning knows.
        precision: as Lightning's Trainer takes it: ``32-true``, ``bf16-mixed``, ``16-mixed``, ...
        accuracy_every: contrastive accuracy is measured every so many steps.
        watch_every: the features of the training clips are measured every so many epochs of pretraining and
            distillation, and after the last one: retrieval on those of held-out subjects, and RankMe; 0 for never.
        checkpoint_minutes: the training is saved every so many minutes, besides the ends of epochs; 0 for every
            step.
        progress: show progress bars.
        resident: keep all clips on the device that trains, from where every step takes its own by index.
        cuda_graphs: launch each step's forward and backward pass as one CUDA graph each; on one GPU only.
        ddp: how several processes train together.
    """

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    precision: str = "32-true"
    accuracy_every: int = 10
    watch_every: int = 0
    checkpoint_minutes: float = 10.0
    progress: bool = True
    resident: bool = False
    cuda_graphs: bool = False
    ddp: DDPConfig = field(default_factory=DDPConfig)

    def __post_init__(self) -> None:
        require_at_least("trainer.devices", self.devices, 1)
        require_at_least("trainer.num_nodes", self.num_nodes, 1)
        require_at_least("trainer.accuracy_every", self.accuracy_every, 1)
        require_at_least("trainer.watch_every", self.watch_every, 0)
        require_at_least("trainer.checkpoint_minutes", self.checkpoint_minutes, 0)
        require(
            self.processes == 1 or not self.cuda_graphs,
            f"trainer.cuda_graphs: expected trainer.devices = 1 with it, got {self.described_processes}",
        )

    @property
    def processes(self) -> int:
        """How many processes train: one for each device of each machine."""
        return self.devices * self.num_nodes

    @property
    def described_processes(self) -> str:
        """Their number, for messages."""
        return str(self.devices) + (f" on each of {self.num_nodes} nodes" if self.num_nodes > 1 else "")

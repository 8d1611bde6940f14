"""Where and how a training runs."""

from __future__ import annotations

from dataclasses import dataclass

from ikem.config.checks import require, require_at_least


@dataclass
class TrainerConfig:
    """Where and how the training runs; nothing here changes what is computed, but for rounding.

    Attributes:
        accelerator: ``auto``, ``cpu``, ``gpu``, ...: as Lightning's Trainer takes it.
        devices: number of devices (processes on a CPU).
        precision: as Lightning's Trainer takes it: ``32-true``, ``bf16-mixed``, ``16-mixed``, ...
        accuracy_every: contrastive accuracy is measured every so many steps.
        watch_every: the features of the training clips are measured every so many epochs of pretraining and
            distillation, and after the last one: retrieval on those of held-out subjects, and RankMe; 0 for never.
        checkpoint_minutes: the training is saved every so many minutes, besides the ends of epochs; 0 for every
            step.
        progress: show progress bars.
        resident: keep all clips on the device that trains, from where every step takes its own by index.
        cuda_graphs: launch each step's forward and backward pass as one CUDA graph each; on one GPU only.
    """

    accelerator: str = "auto"
    devices: int = 1
    precision: str = "32-true"
    accuracy_every: int = 10
    watch_every: int = 0
    checkpoint_minutes: float = 10.0
    progress: bool = True
    resident: bool = False
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        require_at_least("trainer.devices", self.devices, 1)
        require_at_least("trainer.accuracy_every", self.accuracy_every, 1)
        require_at_least("trainer.watch_every", self.watch_every, 0)
        require_at_least("trainer.checkpoint_minutes", self.checkpoint_minutes, 0)
        require(
            self.devices == 1 or not self.cuda_graphs,
            f"trainer.cuda_graphs: expected trainer.devices = 1 with it, got {self.devices}",
        )

"""What all trainings share: the loop around a method, its schedule, log and checkpoints."""

from ikem.training.checkpoints import LAST_CHECKPOINT
from ikem.training.log import NonFiniteError, contrastive_accuracy
from ikem.training.loop import ENCODERS, ContrastiveModule, TrainingModule, build_trainer, fit, open_data, watches
from ikem.training.schedule import learning_rate_factor

__all__ = [
    "ENCODERS",
    "LAST_CHECKPOINT",
    "ContrastiveModule",
    "NonFiniteError",
    "TrainingModule",
    "build_trainer",
    "contrastive_accuracy",
    "fit",
    "learning_rate_factor",
    "open_data",
    "watches",
]

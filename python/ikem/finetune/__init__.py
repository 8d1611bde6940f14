"""Finetuning: whole encoders, each with a new linear head, learn from labels; from random weights, the baseline."""

from ikem.finetune.command import finetune
from ikem.finetune.epochs import EpochTest
from ikem.finetune.module import TESTED, Finetuning
from ikem.finetune.plan import finetunings, labelled_clips
from ikem.finetune.start import initial_weights, pretrained_file

__all__ = [
    "TESTED",
    "EpochTest",
    "Finetuning",
    "finetune",
    "finetunings",
    "initial_weights",
    "labelled_clips",
    "pretrained_file",
]

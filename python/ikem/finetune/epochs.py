"""What is seen of the clips in an epoch of training, and what the test says after it."""

from __future__ import annotations

from typing import cast

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import Tensor

from ikem.config import Config, LearningConfig
from ikem.data.dataset import PreparedDataset
from ikem.data.views import View
from ikem.evaluation.features import extract_between_steps
from ikem.evaluation.looks import RandomLook, middle
from ikem.evaluation.scores import Row, Scoreboard
from ikem.evaluation.split import Split
from ikem.evaluation.streams import Streams
from ikem.finetune.module import Finetuning


class Looks:
    """Draws how training clips are seen without the views of pretraining: cut and turned, or as they are.

    Args:
        learning: how much.
    """

    def __init__(self, learning: LearningConfig) -> None:
        self.learning = learning

    def __call__(self, num_frames: Tensor, generator: torch.Generator) -> View:
        """Draw a view of each of some clips, of these lengths (n,)."""
        return RandomLook(self.learning, generator)(num_frames)


class EpochTest(Callback):
    """Classifies the test clips after every epoch, in eval mode and without chance; the training does not notice.

    Args:
        config: of the run.
        dataset: of the clips.
        split: which clips are tested on.
        stage: of the encoders, for the rows.
        labelled_clips: how many are learned from, for the rows.
    """

    def __init__(self, config: Config, dataset: PreparedDataset, split: Split, stage: str, labelled_clips: int) -> None:
        self.config = config
        self.dataset = dataset
        self.split = split
        self.stage = stage
        self.labelled_clips = labelled_clips

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Put the rows into the module, from where they go into its checkpoints, and the accuracies into the log."""
        if not trainer.is_global_zero:
            return
        module = cast(Finetuning, pl_module)
        look = middle if module.learning.augments else None
        features = extract_between_steps(module.encoders, self.dataset, self.split.test, self.config.trainer, look)
        rows = self.rows(module.classify(features).numpy(), module.modalities)
        best = {_where(row): row["top1_best_epoch"] for row in module.rows}
        for row in rows:
            row["top1_best_epoch"] = max(row["top1"], best.get(_where(row), 0.0))
        module.rows = rows
        module.measured |= {f"{row['part']}_accuracy/{row['stream']}": row["top1"] for row in rows}

    def rows(self, logits: NDArray[np.float32], modalities: tuple[str, ...]) -> list[Row]:
        """Count what logits (G, m, L) get right, of single modalities and averaged."""
        board = Scoreboard(self.dataset.labels[self.split.test], self.split.parts, self.config.seed)
        options = self.config.finetune
        for stream, members in Streams.of(modalities).trained.items():
            board.add(
                "finetune",
                self.stage,
                stream,
                logits[list(members)].mean(0),
                control="supervised" if options.init == "random" else None,
                draw=options.draw if options.labels < 1 else None,
                labels=options.labels,
                labelled_clips=self.labelled_clips,
            )
        return board.rows


def _where(row: Row) -> tuple[str, str]:
    return row["stream"], row["part"]

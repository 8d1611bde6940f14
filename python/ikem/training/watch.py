"""A look at the encoders while they are trained: what their features are worth so far, told by training clips alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import lightning
import numpy as np
from lightning.pytorch.callbacks import Callback

from ikem.config import Config
from ikem.data.dataset import PreparedDataset
from ikem.evaluation.features import extract_between_steps
from ikem.evaluation.folds import Fold, folds, groups
from ikem.evaluation.neighbors import nearest_labels
from ikem.evaluation.rank import rank_me

if TYPE_CHECKING:
    from ikem.training.loop import TrainingModule

RETRIEVAL, RANK = "held_out_retrieval", "rankme"  # columns of metrics.csv, each with a modality


class Watch(Callback):
    """Measures the features of the training clips every so many epochs, and after the last one.

    The training does not notice.

    - Retrieval: how many clips of a fifth of the training subjects have the label of the nearest of the other training
      clips. Where a protocol tests on other cameras or setups, it is those that are held out instead.
    - RankMe, of the features of all training clips, which needs no label.

    Test clips have no part in it.

    Args:
        config: of the run.
        dataset: whose training clips are looked at.
    """

    def __init__(self, config: Config, dataset: PreparedDataset) -> None:
        self.config = config
        self.dataset = dataset
        _, protocol = config.data.trained_on
        self.clips = dataset.split(protocol, "train")
        self.fold = self._fold()

    def _fold(self) -> Fold | None:
        """Return positions in the clips: the bank, and those that are held out; None without the labels for it."""
        labelled = np.flatnonzero(self.dataset.labels[self.clips] >= 0)
        labels = self.dataset.labels[self.clips[labelled]]
        if not len(labels) or np.bincount(labels).max() < 2:
            print("watch: too few of the training clips have a label; RankMe is measured alone")
            return None
        others = np.setdiff1d(np.arange(len(self.dataset.clips)), self.clips)
        known, other = ([self.dataset.clips[clip] for clip in clips] for clips in (self.clips[labelled], others))
        bank, held_out = folds(labels, groups(known, other), self.config.seed)[0]
        return labelled[bank], labelled[held_out]

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Put what was measured into the epoch's row."""
        done = trainer.current_epoch + 1
        due = done % self.config.trainer.watch_every == 0 or done == trainer.max_epochs
        if not due or not trainer.is_global_zero:
            return
        module = cast("TrainingModule", pl_module)
        means = extract_between_steps(module.encoders, self.dataset, self.clips, self.config.trainer)
        if not means.isfinite().all():
            return  # nor are the weights then, and the training is about to stop for that
        labels = self.dataset.labels[self.clips]
        for place, modality in enumerate(module.encoders):
            module.measured[f"{RANK}/{modality}"] = rank_me(means[place])
            if self.fold is not None:
                bank, held_out = self.fold
                found = nearest_labels(means[:, bank], labels[bank], means[:, held_out], (place,), 1)[:, 0]
                module.measured[f"{RETRIEVAL}/{modality}"] = float((found == labels[held_out]).mean())

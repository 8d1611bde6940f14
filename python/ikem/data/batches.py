"""Batches of clips with random views: two of each for contrastive learning, one and the labels for supervised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ikem.config import Config, TrainerConfig
from ikem.data.dataset import PreparedDataset
from ikem.data.views import RandomViews, View
from ikem.seeding import derive_seed, generator


class Batch(NamedTuple):
    """Clips and random views of each.

    Attributes:
        joints: (N, 3, T, V, M) float32, as prepared; the views are not applied yet.
        num_frames: (N,) int64, the clips' original lengths.
        views: of contrastive learning the first (query or teacher) and the second (key or student); else one.
        clips: None; or, where ``joints`` and ``num_frames`` are those of the whole data set, (N,) int64, which of them
            the batch is made of.
        labels: (N,) int64, where the training is supervised.
        numbers: (N,) int64, of the batch's clips in the data set.
        keys: None; or, where the key encoders of several processes see a shuffled batch, this process's share of that,
            with the key view. ``views`` is then the query view alone.
        places: (N,) int64, with ``keys``: where the batch's own clips stand in the shuffled batch of all processes.
    """

    joints: Tensor
    num_frames: Tensor
    views: tuple[View, ...]
    clips: Tensor | None = None
    labels: Tensor | None = None
    numbers: Tensor | None = None
    keys: Batch | None = None
    places: Tensor | None = None

    def looks(self) -> Iterator[tuple[Batch, View]]:
        """Yield all views, each with the batch whose clips it is of."""
        for batch in (self, self.keys):
            yield from ((batch, view) for view in batch.views) if batch is not None else ()


class Draw(NamedTuple):
    """Which clips make up a batch, and random views of each: a batch without its joints."""

    clips: Tensor
    views: tuple[View, ...]
    labels: Tensor | None = None
    keys: Draw | None = None
    places: Tensor | None = None


class BatchPlan(NamedTuple):
    """Which clips make up a step's batch, over all processes together."""

    step: int
    clips: NDArray[np.int64]


class ShuffledBatches(Sampler[BatchPlan]):
    """Plans an epoch's batches: a new order every epoch, which depends on the seed and the epoch alone.

    The clips that would make up an incomplete last batch are left out, as in the published code.

    Args:
        clips: indices of the clips to train on.
        batch_size: clips per step, over all processes together.
        seed: of the run.
        steps: of an epoch; by default as many as the clips make. Where there are more, one order follows on another.

    Raises:
        ValueError: if there are fewer clips than one batch.
    """

    def __init__(self, clips: NDArray[np.int64], batch_size: int, seed: int, steps: int | None = None) -> None:
        if len(clips) < batch_size:
            raise ValueError(f"data.batch_size: expected at most the {len(clips)} training clips, got {batch_size}")
        self.clips = clips
        self.batch_size = batch_size
        self.seed = seed
        self.steps = steps or len(clips) // batch_size
        self.epoch = self.first = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration plans; called by the trainer."""
        self.epoch = epoch

    def go_on_after(self, steps: int) -> None:
        """Have the next iteration begin where a training of so many steps left off, which may be within an epoch."""
        self.epoch, self.first = divmod(steps, len(self))

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[BatchPlan]:
        random = np.random.default_rng(derive_seed(self.seed, "order", self.epoch))
        rounds = -(-self.steps * self.batch_size // len(self.clips))
        order = np.concatenate([random.permutation(self.clips) for _ in range(rounds)])
        first, self.first = self.first, 0
        for index in range(first, len(self)):
            start = index * self.batch_size
            yield BatchPlan(self.epoch * len(self) + index, order[start : start + self.batch_size])


#: Draws a view of each of some clips, whose original lengths (n,) it is told.
Views = Callable[[Tensor, torch.Generator], View]


class ClipViews(Dataset[Batch | Draw]):
    """Fetches this process's share of a planned batch at once and draws ``number`` views of each clip.

    The views are drawn for all processes' clips, and each takes its own, so that W processes see together what one
    process sees. Of a data set that is resident on the device nothing needs to be fetched.

    With ``shuffle_keys`` the last view is of other clips: a random order of the batch, which the seed and the step
    decide, is dealt out to the processes. Since each of them knows the whole plan, it fetches the clips that the others
    would send it.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        views: Views,
        seed: int,
        rank: int,
        world_size: int,
        *,
        number: int = 2,
        labels: NDArray[np.int64] | None = None,
        resident: bool = False,
        shuffle_keys: bool = False,
    ) -> None:
        self.shuffle_keys = shuffle_keys
        self.number = number
        self.labels = labels
        self.resident = resident
        self.dataset = dataset
        self.views = views
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def __getitem__(self, plan: BatchPlan) -> Batch | Draw:
        count = len(plan.clips) // self.world_size
        share = torch.arange(self.rank * count, (self.rank + 1) * count)
        random = generator(self.seed, "views", plan.step)
        num_frames = torch.from_numpy(self.dataset.num_frames[plan.clips])
        views = [self.views(num_frames, random) for _ in range(self.number)]
        if not self.shuffle_keys or self.world_size == 1:
            return self._fetch(plan, share, views)
        order = torch.randperm(len(plan.clips), generator=generator(self.seed, "shuffle", plan.step))
        query, keys = self._fetch(plan, share, views[:-1]), self._fetch(plan, order[share], views[-1:])
        return query._replace(keys=keys, places=order.argsort()[share])  # type: ignore[arg-type]

    def _fetch(self, plan: BatchPlan, chosen: Tensor, views: list[View]) -> Batch | Draw:
        """Return the batch of some of a plan's clips (n,), seen by views of all of them."""
        clips = plan.clips[chosen.numpy()]
        numbers = torch.from_numpy(clips)
        views_of_these = tuple(view.share(chosen) for view in views)
        labels = None if self.labels is None else torch.from_numpy(self.labels[clips])
        if self.resident:
            return Draw(numbers, views_of_these, labels)
        return Batch(
            torch.from_numpy(self.dataset.joints[clips]),
            torch.from_numpy(self.dataset.num_frames[clips]),
            views_of_these,
            labels=labels,
            numbers=numbers,
        )


class TrainingData(lightning.LightningDataModule):
    """Clips of a prepared dataset, in batches with random views.

    Args:
        config: of the run.
        dataset: opened by the caller.
        clips: indices of those that are trained on.
        batch_size: clips per step, over all processes together.
        number: of views of each clip.
        labels: of the dataset's clips, where the training is supervised.
        views: draws them; by default those of the `views` section.
        shuffle_keys: whether the last view is of a shuffled batch, where there are several processes.
        steps: of an epoch; by default as many as the clips make.

    Raises:
        ValueError: if the batch does not fit the clips or the processes, or a mirror is asked for and the skeleton has
            neither left nor right.
    """

    def __init__(
        self,
        config: Config,
        dataset: PreparedDataset,
        clips: NDArray[np.int64],
        batch_size: int,
        number: int,
        labels: NDArray[np.int64] | None = None,
        views: Views | None = None,
        shuffle_keys: bool = False,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        _require_even_shares(batch_size, config.trainer)
        if views is None and config.views.mirror_probability and not dataset.layout.left_right:
            raise ValueError(
                "views.mirror_probability: expected 0, as the layout "
                f"{dataset.layout.name} of {dataset.folder} does not tell left from right (left_right)"
            )
        self.config = config
        self.dataset = dataset
        self.number = number
        self.labels = labels
        self.shuffle_keys = shuffle_keys
        self.batches = ShuffledBatches(clips, batch_size, config.seed, steps)
        self.views = views or RandomViews(config.views, *dataset.joints.shape[2:])
        self.resident: tuple[Tensor, Tensor] | None = None

    def train_dataloader(self) -> DataLoader[Batch | Draw]:
        """Return the loader of this process's batches, from where the trainer goes on."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if self.trainer:
            self.batches.go_on_after(self.trainer.global_step)  # workers begin before the trainer sets the epoch
        return DataLoader(
            ClipViews(
                self.dataset,
                self.views,
                self.config.seed,
                rank,
                world_size,
                number=self.number,
                labels=self.labels,
                resident=self.config.trainer.resident,
                shuffle_keys=self.shuffle_keys,
            ),
            sampler=self.batches,
            batch_size=None,
            num_workers=self.config.data.workers,
            persistent_workers=self.config.data.workers > 0,
        )

    def on_after_batch_transfer(self, batch: Batch | Draw, dataloader_idx: int) -> Batch:
        """Give a draw the joints of the data set, which stay on the device from the first on."""
        if isinstance(batch, Batch):
            return batch
        if self.resident is None:
            device = batch.clips.device
            self.resident = _moved(self.dataset.joints, device), torch.from_numpy(self.dataset.num_frames).to(device)
        keys = None if batch.keys is None else self.on_after_batch_transfer(batch.keys, dataloader_idx)
        return Batch(*self.resident, batch.views, batch.clips, batch.labels, batch.clips, keys, batch.places)


def _moved(joints: NDArray[np.float32], device: torch.device, piece: int = 1024) -> Tensor:
    """Return clips (N, ...) on a device, some at a time: the memory of the host has no room for all of them."""
    moved = torch.empty(joints.shape, device=device)
    for first, part in enumerate(moved.split(piece)):
        clips = first * piece + np.arange(len(part))
        part.copy_(torch.from_numpy(joints[clips]))
    return moved


def _require_even_shares(batch_size: int, trainer: TrainerConfig) -> None:
    if batch_size % trainer.processes:
        raise ValueError(
            "data.batch_size, or finetune.batch_size where it counts: expected a multiple of trainer.devices = "
            f"{trainer.described_processes}, got {batch_size}"
        )


class ContrastiveData(TrainingData):
    """The training part of a prepared dataset, in batches with two views per clip.

    Args:
        config: of the run.
        dataset: opened by the caller.
        key_encoders: whether the second view is for key encoders, whose batches ``encoder.batch_norm`` may shuffle.

    Raises:
        ValueError: if the protocol is unknown or has no training clip, or the batch does not fit the clips or the
            processes.
    """

    def __init__(self, config: Config, dataset: PreparedDataset, *, key_encoders: bool = False) -> None:
        _, protocol = config.data.trained_on
        clips = dataset.split(protocol, "train")
        if not len(clips):
            raise ValueError(
                f"data.protocol: expected one with training clips, but {protocol!r} of {dataset.folder} has none"
            )
        if config.data.share < 1:
            drawn = np.random.default_rng(derive_seed(config.seed, "share of the clips")).permutation(len(clips))
            clips = np.sort(clips[drawn[: round(config.data.share * len(clips))]])
        shuffles = key_encoders and config.encoder.batch_norm == "shuffle"
        super().__init__(config, dataset, clips, config.data.batch_size, number=2, shuffle_keys=shuffles)


class LabelledData(TrainingData):
    """Labelled clips of a prepared dataset, in batches with one view per clip.

    Where there are fewer clips than that many, a batch is made of as many as can be shared out.

    Args:
        config: of the run.
        dataset: opened by the caller.
        clips: indices of those that are learned from; the labels of others are not read.
        batch_size: clips per step, over all processes together.
        views: draws them; by default those of the `views` section.
        all_clips: how many clips an epoch's steps are counted by; by default those that are learned from.
    """

    def __init__(
        self,
        config: Config,
        dataset: PreparedDataset,
        clips: NDArray[np.int64],
        batch_size: int,
        views: Views | None = None,
        all_clips: int | None = None,
    ) -> None:
        processes = config.trainer.processes
        _require_even_shares(batch_size, config.trainer)
        most = max(len(clips) // processes, 1) * processes
        labels = np.full(len(dataset.labels), -1)
        labels[clips] = dataset.labels[clips]
        size = min(batch_size, most)
        steps = None if all_clips is None else max(all_clips // batch_size, len(clips) // size)
        super().__init__(config, dataset, clips, size, number=1, labels=labels, views=views, steps=steps)

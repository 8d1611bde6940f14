"""Finetuning: whole encoders, each with a new linear head, learn from labels; from random weights, the baseline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from ikem.config import Config, EncoderConfig, FinetuneConfig, LearningConfig, plain
from ikem.cuda_graphs import side_by_side
from ikem.data.batches import Batch, LabelledData
from ikem.data.dataset import PreparedDataset
from ikem.data.views import View
from ikem.encoders import Encoder, build_encoder, encoders_of
from ikem.evaluate import environment, subject
from ikem.evaluation.draws import order_of_draw, share_of
from ikem.evaluation.features import extract_between_steps
from ikem.evaluation.looks import RandomLook, middle
from ikem.evaluation.scores import Row, Scoreboard
from ikem.evaluation.split import Indices, Split
from ikem.evaluation.streams import Streams
from ikem.evaluation.table import finetuning_tables
from ikem.files import write_text
from ikem.seeding import derive_seed
from ikem.training import LAST_CHECKPOINT, TrainingModule, fit
from ikem.training.optimizer import adamw
from ikem.use.classifier import CLASSIFIER, ActionClassifier, Classifier, keep_classifier
from ikem.weights import Weights, read_weights
from ikem_ext import SkeletonLayout

TESTED = "tested"  # the key of a checkpoint under which the rows of the last epoch stand


class Finetuning(TrainingModule):
    """A classifier for each modality, trained side by side by cross entropy.

    Args:
        config: of finetuning.
        encoder_config: of the encoders.
        encoders: by modality.
        layout: of the skeletons.
        num_classes: L.
        seed: of the run; the heads follow from it, whatever the encoders are.
        accuracy_every: accuracy is measured every so many steps.
        cuda_graphs: launch what is between the view and the losses, and its backward pass, as CUDA graphs.

    Attributes:
        rows: what the test said after the last epoch, as `Scoreboard` has it.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        encoder_config: EncoderConfig,
        encoders: Mapping[str, Encoder],
        layout: SkeletonLayout,
        num_classes: int,
        *,
        seed: int = 1,
        accuracy_every: int = 10,
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__(config.learning, tuple(encoders), encoder_config, layout, seed, accuracy_every, cuda_graphs)
        self.config = config
        self.learning = config.learning
        torch.manual_seed(derive_seed(seed, "finetune heads"))
        self.streams = nn.ModuleDict(
            {modality: Classifier(encoder, num_classes) for modality, encoder in encoders.items()}
        )
        self.train()  # loaded encoders come in eval mode
        self.rows: list[Row] = []

    @property
    def encoders(self) -> dict[str, Encoder]:
        """The encoders by modality."""
        return encoders_of(self.streams)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step on one view of each clip."""
        assert batch.labels is not None
        losses, logits = self.compare(self.derive(batch, batch.views[0], self.modalities), batch.labels)
        right = logits.argmax(-1) == batch.labels
        return {"loss": self.log_losses(losses, lambda: right.float().mean(-1))}

    def forward(self, view: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Map a view (G, N, 3, T, V, M) and labels (N,) to the losses (G,) and the logits (G, N, L)."""
        calls = [partial(stream, part) for stream, part in zip(self.streams.values(), view, strict=True)]
        logits = torch.stack(side_by_side(calls, view.device)).float()
        smoothing = self.learning.label_smoothing
        losses = torch.stack([functional.cross_entropy(each, labels, label_smoothing=smoothing) for each in logits])
        return {"cross_entropy": losses}, logits.detach()

    @torch.no_grad()
    def classify(self, features: Tensor) -> Tensor:
        """Map features (G, m, F) of clips, on the CPU, to logits (G, m, L)."""
        heads = [cast(Classifier, stream).head for stream in self.streams.values()]
        pairs = zip(heads, features, strict=True)
        return torch.stack([functional.linear(x, head.weight.cpu(), head.bias.cpu()) for head, x in pairs])

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The encoders' layers, from the last to the first, and the heads.

        What is nearer to the skeleton learns slower by `layer_decay`, as in Clark et al., ICLR 2020 (ELECTRA), if it
        has been pretrained: random weights have nothing to keep.
        """
        streams = [cast(Classifier, stream) for stream in self.streams.values()]
        layers = list(zip(*(reversed(stream.encoder.layers()) for stream in streams), strict=True))
        decay = self.learning.layer_decay if self.config.init == "pretrained" else 1.0
        rates = [self.learning.encoder_learning_rate * decay**depth for depth in range(1, len(layers) + 1)]
        groups = [*zip(layers, rates, strict=True), ([s.head for s in streams], self.learning.head_learning_rate)]
        return [{"params": [p for each in same for p in each.parameters()], "lr": rate} for same, rate in groups]

    def build_optimizer(self) -> torch.optim.Optimizer:
        """Return what makes the steps: SGD, or AdamW."""
        groups, options = self.parameter_groups(), self.learning
        if options.optimizer == "adamw":
            return adamw(groups, options.weight_decay)
        return torch.optim.SGD(
            groups, momentum=options.sgd_momentum, weight_decay=options.weight_decay, nesterov=options.nesterov
        )

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint says beside encoder and layout."""
        return {"kind": "finetune", "finetune": plain(self.config)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the test said."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[TESTED] = self.rows

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it over."""
        super().on_load_checkpoint(checkpoint)
        self.rows = checkpoint[TESTED]


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


def finetunings(config: Config) -> list[Config]:
    """Return the single finetunings that a configuration asks for: of each `init`, each share and each draw.

    Each is what ``config.yaml`` in its own folder says, `config_folder(single, "finetune")`, and a finetuning is one
    of those: the same alone and among others.

    Example:
        >>> options = FinetuneConfig(init="both", semi=(0.05, 1.0), draws=2)
        >>> [single.finetune.name for single in finetunings(Config(finetune=options))]
        ['pretrained-0.05-0', 'pretrained-0.05-1', 'pretrained', 'random-0.05-0', 'random-0.05-1', 'random']
    """
    options = config.finetune
    draws = [(share, draw) for share in options.semi for draw in range(options.draws if share < 1 else 1)]
    return [
        replace(
            config,
            finetune=replace(
                options,
                init=init,
                checkpoint=options.checkpoint if init == "pretrained" else None,
                semi=(),
                draws=FinetuneConfig.draws,
                labels=labels,
                draw=draw,
            ),
        )
        for init in (("pretrained", "random") if options.init == "both" else (options.init,))
        for labels, draw in draws or [(options.labels, options.draw)]
    ]


def labelled_clips(
    clips: Indices,
    labels: NDArray[np.int64],
    share: float,
    seed: int,
    draw: int,
    by: Literal["class", "clip"] = "class",
    every_class: bool = True,
) -> Indices:
    """Draw a share of clips as an evaluation does; a smaller share is part of a larger one.

    Args:
        clips: (n,) indices of labelled clips.
        labels: their classes, (n,).
        share: in (0, 1].
        seed: of the run.
        draw: its number.
        by: the share is of each ``class``, or of all clips, ``clip`` by clip.
        every_class: at least one clip of each class.

    Example:
        >>> clips, labels = np.arange(40), np.arange(40) % 2
        >>> few, many = (labelled_clips(clips, labels, share, seed=1, draw=0) for share in (0.05, 0.5))
        >>> sorted(labels[few].tolist()), len(many), set(few) <= set(many)
        ([0, 1], 20, True)
    """
    return clips[share_of(labels, order_of_draw(len(clips), seed, draw), share, by=by, every_class=every_class)]


def pretrained_file(config: Config) -> Path | None:
    """Return the file of the encoders that a finetuning begins with; None where they are random."""
    if config.finetune.init == "random":
        return None
    return config.finetune.checkpoint or config.run / "pretrain" / LAST_CHECKPOINT


def initial_weights(config: Config, dataset: PreparedDataset, path: Path | None) -> Weights:
    """Return the encoders that a finetuning begins with.

    Args:
        config: of the run.
        dataset: what is learned from.
        path: of pretrained encoders; None for random ones, which follow from the run's seed.

    Raises:
        ValueError: if the file is none of encoders, or does not fit.
    """
    options = config.finetune
    if path is None:
        torch.manual_seed(derive_seed(config.seed, "finetune"))
        encoders: dict[str, Encoder] = {
            modality: build_encoder(config.encoder, dataset.layout) for modality in options.modalities
        }
        return Weights("random", encoders, config.encoder, dataset.layout)
    weights = read_weights(path, dataset.layout, config.encoder, options.modalities[0])
    if weights.layout != dataset.layout:
        raise ValueError(
            f"finetune.checkpoint: {path} was trained on the skeleton {weights.layout.name!r}, "
            f"the dataset's is {dataset.layout.name!r}"
        )
    if missing := [modality for modality in options.modalities if modality not in weights.encoders]:
        raise ValueError(
            f"finetune.modalities: {path} has encoders of {', '.join(weights.encoders)}, not of {', '.join(missing)}"
        )
    chosen: dict[str, Encoder] = {modality: weights.encoders[modality] for modality in options.modalities}
    return Weights(weights.stage, chosen, weights.config, weights.layout, weights.epochs)


def finetune(config: Config, *, overwrite: bool = False) -> dict[str, Any]:
    """Train encoders and heads on the labels of the training part, or go on where an interrupted run stopped.

    Args:
        config: of the run; it may ask for several finetunings, one after the other.
        overwrite: start afresh, whatever the folder holds.

    Returns:
        What is written to ``evaluation.json`` in ``<run>/finetune/<init>``, or ``<init>-<labels>-<draw>`` where labels
        were drawn; of several finetunings, with the rows of all. ``classifier.safetensors`` beside it holds encoders,
        heads and the names of the classes.

    Raises:
        ValueError: if the protocol lacks labelled clips to learn from or to test on, or has clips in both parts, a draw
            holds clips of one class alone, the checkpoint does not fit, or the configuration differs from the stored
            one.
    """
    dataset = PreparedDataset(config.data.one_folder)
    split = Split.of(dataset, config.data.protocol)
    for part, count in split.unlabelled.items():
        _say(f"{count} clips of the part {part} have no label and are left out")
    singles = finetunings(config)
    drawn = [_draw(single, dataset, split) for single in singles]  # what cannot be is refused before anything is done
    results = []
    for place, (single, clips) in enumerate(zip(singles, drawn, strict=True), 1):
        if len(singles) > 1:
            _say(f"{place} of {len(singles)}, {single.finetune.name}: {len(clips)} labelled clips")
        results.append(_finetune(single, dataset, split, clips, overwrite))
    result = {
        **results[0],
        "rows": [row for each in results for row in each["rows"]],
        "checkpoints": {stage: origin for each in results for stage, origin in each["checkpoints"].items()},
        "config": plain(config),
    }
    _show(result)
    return result


def _draw(single: Config, dataset: PreparedDataset, split: Split) -> Indices:
    """Return the clips that one finetuning learns from."""
    options, labels = single.finetune, dataset.labels[split.train]
    draw = options.labels, single.seed, options.draw, options.draw_by, options.every_class
    clips = labelled_clips(split.train, labels, *draw)
    if leaked := len(np.intersect1d(clips, split.test)):
        raise ValueError(
            f"data.protocol: {leaked} of the {len(clips)} labelled clips to learn from are test clips too; expected "
            "none in both parts"
        )
    if len(np.unique(dataset.labels[clips])) < 2:
        raise ValueError(
            f"finetune.labels: expected labelled clips of at least two classes, and {options.labels:g} gives "
            f"{len(clips)} of one at most (draw {options.draw})"
        )
    return clips


def _finetune(
    config: Config, dataset: PreparedDataset, split: Split, clips: Indices, overwrite: bool
) -> dict[str, Any]:
    """Do one finetuning on some clips, and return what it writes."""
    options, learning = config.finetune, config.finetune.learning
    path = pretrained_file(config)
    weights = initial_weights(config, dataset, path)
    module = Finetuning(
        options,
        weights.config,
        weights.encoders,
        dataset.layout,
        len(dataset.classes),
        seed=config.seed,
        accuracy_every=config.trainer.accuracy_every,
        cuda_graphs=config.trainer.cuda_graphs,
    )
    batch_size = learning.batch_size or config.data.batch_size
    last = fit(
        module,
        LabelledData(config, dataset, clips, batch_size, None if learning.pretraining_views else Looks(learning)),
        config,
        "finetune",
        name=options.name,
        keep={},
        measures=[EpochTest(config, dataset, split, weights.stage, len(clips))],
        overwrite=overwrite,
    )
    result = {
        **subject(config, dataset, split),
        "rows": module.rows,
        "checkpoints": {} if path is None else {weights.stage: {"file": str(path), "epochs": weights.epochs}},
        "config": plain(config),
        "environment": environment(),
    }
    if module.global_rank == 0:
        origin = {"dataset": dataset.name, "protocol": config.data.protocol, "seed": config.seed}
        streams = {modality: cast(Classifier, stream) for modality, stream in module.streams.items()}
        keep_classifier(
            last.with_name(CLASSIFIER),
            dataset,
            lambda recipe: ActionClassifier(
                streams,
                module.encoder_config,
                dataset.classes,
                recipe,
                origin={"command": "finetune", "stage": weights.stage, **origin},
            ),
        )
        write_text(last.with_name("evaluation.json"), json.dumps(result, indent=1) + "\n")
    return result


@rank_zero_only
def _say(message: str) -> None:
    print(f"finetune: {message}")


@rank_zero_only
def _show(result: Mapping[str, Any]) -> None:
    for table in finetuning_tables(result):
        Console().print(table)

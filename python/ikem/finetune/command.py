"""`ikem finetune`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from ikem.config import Config, plain
from ikem.data.batches import LabelledData
from ikem.data.dataset import PreparedDataset
from ikem.evaluate import environment, subject
from ikem.evaluation.split import Indices, Split
from ikem.evaluation.table import finetuning_tables
from ikem.files import write_text
from ikem.finetune.epochs import EpochTest, Looks
from ikem.finetune.module import Finetuning
from ikem.finetune.plan import clips_of, finetunings
from ikem.finetune.start import initial_weights, pretrained_file
from ikem.training import fit
from ikem.use.classifier import CLASSIFIER, ActionClassifier, Classifier, keep_classifier


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
    drawn = [clips_of(each, dataset, split) for each in singles]  # what cannot be is refused before anything is done
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
    data = LabelledData(
        config,
        dataset,
        clips,
        learning.batch_size or config.data.batch_size,
        None if learning.pretraining_views else Looks(learning),
        len(split.train) if options.equal_steps else None,
    )
    size = data.batches.batch_size
    if not options.equal_steps and len(clips) % size:
        _say(
            f"batches are of {size}: {len(clips) % size} of {len(clips)} labelled clips, others each time, are left "
            "out of an epoch"
        )
    last = fit(
        module,
        data,
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

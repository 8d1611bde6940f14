"""`ikem evaluate`: every protocol on the encoders of a run or of a file, beside the controls, in one file of results.

Encoders are frozen. The published probe and the neighbors see the mean of their features over time and joints, per
modality and fused. For small datasets a second probe, logistic regression, sees joints and parts of time apart. The
same encoders with random weights and linear classifiers on the raw coordinates are always evaluated beside.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from rich.console import Console
from rich.progress import track

import ikem
from ikem.config import Config, Modality, plain
from ikem.data.dataset import PreparedDataset
from ikem.evaluation.evaluation import Evaluation
from ikem.evaluation.split import Split
from ikem.evaluation.stages import stages_of_file, stages_of_run
from ikem.evaluation.table import results_tables
from ikem.files import replacing, write_text
from ikem.use.classifier import CLASSIFIER, keep_classifier


def environment() -> dict[str, Any]:
    """Return what the numbers were made with."""
    commit = subprocess.run(
        ["git", "-C", str(Path(ikem.__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "commit": commit.stdout.strip() or None,
        "ikem": ikem.__version__,
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def subject(config: Config, dataset: PreparedDataset, split: Split) -> dict[str, Any]:
    """Return what the numbers are about: the data set, its protocol, and how many clips have no label."""
    return {
        "dataset": {
            "name": dataset.name,
            "layout": dataset.layout.name,
            "classes": list(dataset.classes),
            "protocol": config.data.protocol,
            "train_clips": len(split.train),
            "test_clips": len(split.parts["test"]),
        },
        "unlabelled": split.unlabelled,
    }


def evaluate(
    config: Config, *, checkpoint: Path | None = None, modality: Modality = "joint", output: Path | None = None
) -> dict[str, Any]:
    """Evaluate the stages that a run has trained, or the encoders of a file, and the controls.

    Args:
        config: of the run; with a checkpoint, of what it is evaluated on and by.
        checkpoint: evaluate the encoders of this file and no run: a checkpoint of `ikem pretrain` or `ikem distill`, an
            encoders.safetensors, or a state dict as CrosSCLR, AimCLR and IKEM release them.
        modality: what a published encoder that stands alone was trained on.
        output: the folder that receives evaluation.json and evaluation.npz; by default the run's, or, with a
            checkpoint, one beside it named after it with -evaluation.

    Returns:
        What is written to ``evaluation.json``. Confusion matrices, features and what each test clip was taken for go to
        ``evaluation.npz``, the encoders of the last stage with the heads of the linear probe to
        ``classifier.safetensors``.

    Raises:
        ValueError: if the run has trained nothing or the checkpoint does not fit, or the protocol is unknown or lacks
            what an evaluation needs: labelled training clips of two classes, and labelled test clips.
    """
    dataset = PreparedDataset(config.data.one_folder)
    if checkpoint is None:
        stages = stages_of_run(config, dataset)
        folder = output or config.run
    else:
        stages = stages_of_file(checkpoint, config, dataset, modality)
        folder = output or checkpoint.with_name(f"{checkpoint.stem}-evaluation")
    folder.mkdir(parents=True, exist_ok=True)
    evaluation = Evaluation(config, dataset, folder)
    if config.evaluate.classes:
        print(f"evaluate: only clips of the classes {', '.join(config.evaluate.classes)}")
    for part, count in evaluation.split.unlabelled.items():
        print(f"evaluate: {count} clips of the part {part} have no label and are left out")
    evaluation.add_raw()
    for stage in track(stages, "evaluating", disable=not config.trainer.progress, transient=True):
        evaluation.add_encoders(stage)
    result = {
        **subject(config, dataset, evaluation.split),
        "rows": evaluation.board.rows,
        "fusion_weights": evaluation.weights,
        "checkpoints": {stage.name: dict(stage.origin) for stage in stages if stage.control is None},
        "config": plain(config),
        "environment": environment(),
    }
    with replacing(folder / "evaluation.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, **evaluation.arrays)  # type: ignore[arg-type]
    write_text(folder / "evaluation.json", json.dumps(result, indent=1) + "\n")
    keep_classifier(folder / CLASSIFIER, dataset, partial(evaluation.classifier, stages[-1]))
    console = Console()
    for table in results_tables(result):
        console.print(table)
        console.print()
    return result

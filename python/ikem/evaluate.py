"""Evaluation of frozen features: linear probes, nearest neighbors, and the controls that they must beat.

Features are extracted once, in eval mode and without augmentation. The published probe and the neighbors see their
mean over time and joints, per modality, fused over three and over all modalities. For small datasets a second probe,
logistic regression, sees joints and parts of time apart. The same encoder with random weights and linear classifiers
on the raw coordinates are always evaluated beside.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

import ikem
from ikem.config import Config, plain
from ikem.data.dataset import PreparedDataset
from ikem.evaluation.controls import random_encoders
from ikem.evaluation.evaluation import Evaluation
from ikem.evaluation.stages import trained_stages
from ikem.evaluation.table import results_table
from ikem.files import write_text


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


def evaluate(config: Config) -> dict[str, Any]:
    """Evaluate the stages that a run has trained, and the controls.

    Args:
        config: of the run.

    Returns:
        What is written to ``<run>/evaluation.json``. Confusion matrices and features go to ``evaluation.npz``.

    Raises:
        ValueError: if the run has trained nothing, or the protocol is unknown or lacks what an evaluation needs:
            labelled training clips of two classes, and labelled test clips.
    """
    dataset = PreparedDataset(config.data.folder)
    stages = list(trained_stages(config))
    if not stages:
        raise ValueError(f"run: {config.run} holds no finished stage of pretraining; run `ikem pretrain` first")
    evaluation = Evaluation(config, dataset)
    for part, count in evaluation.split.unlabelled.items():
        print(f"evaluate: {count} clips of the part {part} have no label and are left out")
    random = random_encoders(config, dataset)
    evaluation.add_raw()
    todo = [("random", random), *((stage, encoders) for stage, encoders, _ in stages)]
    for stage, encoders in track(todo, "evaluating", disable=not config.trainer.progress, transient=True):
        evaluation.add_encoders(stage, encoders)
    result = {
        "dataset": {
            "name": dataset.name,
            "layout": dataset.layout.name,
            "classes": list(dataset.classes),
            "protocol": config.data.protocol,
            "train_clips": len(evaluation.split.train),
            "test_clips": len(evaluation.split.parts["test"]),
        },
        "unlabelled": evaluation.split.unlabelled,
        "rows": evaluation.rows,
        "checkpoints": {stage: origin for stage, _, origin in stages},
        "config": plain(config),
        "environment": environment(),
    }
    _write_arrays(config.run / "evaluation.npz", evaluation.arrays)
    write_text(config.run / "evaluation.json", json.dumps(result, indent=1) + "\n")
    Console().print(results_table(result))
    return result


def _write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    temporary.replace(path)

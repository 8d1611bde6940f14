"""What the folder of a run holds, as the report reads it."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ikem.data.dataset import PreparedDataset
from ikem.data.protocols import lacking_for_evaluation
from ikem.evaluation.scores import Spread, by_stream, origin, over_draws

__all__ = ["Drawn", "Row", "Run", "widest"]

Row = Mapping[str, Any]
Drawn = dict[tuple[str, str, str], dict[float, Spread]]


@dataclass(frozen=True)
class Run:
    """What a run's folder holds.

    Attributes:
        folder: of the run.
        dataset: the recordings it was trained and tested on.
        evaluation: ``evaluation.json``; of a run that cannot be evaluated, the reason why (``lacking``), and no rows.
        arrays: ``evaluation.npz``: confusion matrices and features.
        curves: command -> column of ``metrics.csv`` -> (epochs,), NaN where a quantity was not measured.
        options: ``config.yaml``.
        finetunings: ``evaluation.json`` of every finetuning in it, by folder.
    """

    folder: Path
    dataset: PreparedDataset
    evaluation: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]
    curves: Mapping[str, Mapping[str, NDArray[np.float64]]]
    options: Mapping[str, Any]
    finetunings: Mapping[Path, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, dataset: PreparedDataset) -> Run:
        """Reads a run's folder.

        Raises:
            ValueError: the run has not been evaluated, though it could be.
        """
        path = folder / "config.yaml"
        options = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        evaluation = _not_evaluated(dataset, options)
        evaluation, arrays = (evaluation, {}) if evaluation else _read_evaluation(folder)
        return cls(
            folder=folder,
            dataset=dataset,
            evaluation=evaluation,
            arrays=arrays,
            curves={
                command: _read_metrics(folder / command / "metrics.csv")
                for command in ("pretrain", "distill")
                if (folder / command / "metrics.csv").is_file()
            },
            options=options,
            finetunings={
                path.parent: json.loads(path.read_text(encoding="utf-8"))
                for path in sorted(folder.glob("finetune/*/evaluation.json"))
            },
        )

    @property
    def rows(self) -> list[Row]:
        """The accuracies on the test part itself, extra test parts left aside."""
        return [row for row in by_stream(self.evaluation["rows"]) if row["part"] == "test"]

    def row(self, stage: str, stream: str) -> Row | None:
        """The accuracies of one stream of one stage, if it was evaluated."""
        return next((row for row in self.rows if (row["stage"], row["stream"]) == (stage, stream)), None)

    def few_labels(self, protocol: str) -> Drawn:
        """The accuracies on the test part by ``semi`` or ``fewshot``: stage, stream, classifier -> by labels."""
        return over_draws((row for row in self.evaluation["rows"] if row["part"] == "test"), protocol)

    def finetuning(self) -> Drawn:
        """Likewise those of finetuning, by what it began with: a stage's encoders, or, ``supervised``, random ones."""
        rows = (row for result in self.finetunings.values() for row in result["rows"] if row["part"] == "test")
        return over_draws(({**row, "stage": origin(row), "classifier": "finetune"} for row in rows), "finetune")

    @property
    def last_stage(self) -> str | None:
        """The last stage of the teacher that was evaluated."""
        stages = [row["stage"] for row in self.rows]
        return next((stage for stage in ("stage2", "stage1") if stage in stages), None)

    def widest_stream(self, stage: str) -> str | None:
        """The stream of a stage that fuses most modalities, or the first one."""
        return widest([row["stream"] for row in self.rows if row["stage"] == stage])


def widest(streams: Sequence[str]) -> str | None:
    """The stream that fuses most modalities, or the first one."""
    fused = sorted((s for s in streams if s.startswith("fused")), key=lambda s: int(s.removeprefix("fused")))
    return fused[-1] if fused else next(iter(streams), None)


def _not_evaluated(dataset: PreparedDataset, options: Mapping[str, Any]) -> dict[str, Any]:
    """What stands for the evaluation of a run whose protocol cannot be evaluated; nothing for all others."""
    protocol = options.get("data", {}).get("protocol")
    parts = dataset.protocols.get(protocol, {})
    lacking = lacking_for_evaluation(parts, dataset.labels) if parts else None
    if lacking is None:
        return {}
    data = {
        "name": dataset.name,
        "layout": dataset.layout.name,
        "classes": dataset.classes,
        "protocol": protocol,
        "train_clips": len(parts["train"]),
        "test_clips": len(parts["test"]),
    }
    return {"dataset": data, "rows": [], "lacking": lacking}


def _read_evaluation(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    for name in ("evaluation.json", "evaluation.npz"):
        if not (folder / name).is_file():
            raise ValueError(f"run: {folder} holds no {name}; run `ikem evaluate` first")
    with np.load(folder / "evaluation.npz", allow_pickle=False) as file:
        arrays = dict(file)
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8")), arrays


def _read_metrics(path: Path) -> dict[str, NDArray[np.float64]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in (rows[0] if rows else ())}

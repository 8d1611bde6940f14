"""All scores of the encoders of a run, on one dataset and protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix
from torch import Tensor

from ikem.config import Config
from ikem.data.dataset import PreparedDataset
from ikem.encoders import Encoder
from ikem.evaluation.controls import raw_coordinates, ridge_scores
from ikem.evaluation.features import extract_features, standardize
from ikem.evaluation.linear import linear_probe
from ikem.evaluation.logistic import logistic_probe
from ikem.evaluation.neighbors import nearest_labels, vote
from ikem.evaluation.scores import per_class, score
from ikem.evaluation.split import Split
from ikem.evaluation.streams import Streams


class Evaluation:
    """Scores features of one dataset and protocol, and gathers rows and arrays for the report.

    Args:
        config: of the run.
        dataset: what is evaluated on.
    """

    def __init__(self, config: Config, dataset: PreparedDataset) -> None:
        self.config = config
        self.dataset = dataset
        self.split = Split.of(dataset, config.data.protocol)
        self.fabric = Fabric(
            accelerator=config.trainer.accelerator,
            devices=1,
            precision=config.trainer.precision,  # type: ignore[arg-type]
        )
        self.num_classes = len(dataset.classes)
        self.train_labels = np.asarray(dataset.labels)[self.split.train]
        self.test_labels = np.asarray(dataset.labels)[self.split.test]
        self.rows: list[dict[str, Any]] = []
        self.arrays: dict[str, NDArray[Any]] = {"labels": self.test_labels[self.split.parts["test"]]}

    def add_encoders(self, stage: str, encoders: Mapping[str, Encoder]) -> None:
        """Score the encoders of a stage, alone and fused."""
        options, device = self.config.evaluate, self.fabric.device
        train, test = (
            extract_features(encoders, self.dataset, clips, segments=options.segments, fabric=self.fabric)
            for clips in (self.split.train, self.split.test)
        )
        for modality, features in zip(encoders, test.means, strict=True):
            self.arrays[f"features_{stage}_{modality}"] = features[self.split.parts["test"]].numpy()
        means, test_means = standardize(train.means, test.means) if options.standardize else (train.means, test.means)
        streams = Streams.of(tuple(encoders))
        probe = linear_probe(
            means.to(device),
            torch.from_numpy(self.train_labels).to(device),
            test_means.to(device),
            torch.from_numpy(self.test_labels).to(device),
            self.split.parts,
            streams,
            self.num_classes,
            options,
            self.config.seed,
        )
        logistic = [self._logistic(*parts) for parts in zip(train.parts, test.parts, strict=True) if options.segments]
        for position, (stream, members) in enumerate(streams.all.items()):
            best = {part: float(values[position]) for part, values in probe.best_top1.items()}
            neighbors = averaged = None
            if stream in streams.trained:
                neighbors = nearest_labels(means, self.train_labels, test_means, members)
                if logistic:  # one for each modality; fused, their probabilities are averaged
                    averaged = np.mean([logistic[member] for member in members], axis=0)
            self._add_rows(stage, stream, probe.probabilities[position].numpy(), best, neighbors, averaged)

    def add_raw(self) -> None:
        """Score the controls: linear classifiers on the prepared coordinates, resampled to 32 frames."""
        raw, raw_test = (raw_coordinates(self.dataset, clips) for clips in (self.split.train, self.split.test))
        scores = ridge_scores(raw, self.train_labels, raw_test, self.num_classes)
        logistic = None
        if self.config.evaluate.segments:
            logistic = self._logistic(torch.from_numpy(raw), torch.from_numpy(raw_test))
        self._add_rows("raw", "joint", scores, {}, None, logistic)

    def _logistic(self, train: Tensor, test: Tensor) -> NDArray[np.float64]:
        return logistic_probe(train, self.train_labels, test, self.num_classes, self.config.evaluate.logistic_c)

    def _add_rows(
        self,
        stage: str,
        stream: str,
        scores: NDArray[np.floating[Any]],
        best: Mapping[str, float],
        neighbors: NDArray[np.int64] | None,
        logistic: NDArray[np.float64] | None,
    ) -> None:
        for part, clips in self.split.parts.items():
            labels, some = self.test_labels[clips], scores[clips]
            confusion = confusion_matrix(labels, some.argmax(1), labels=range(self.num_classes))
            row: dict[str, Any] = {
                "stage": stage,
                "stream": stream,
                "part": part,
                "linear": {**score(some, labels), "top1_best_epoch": best.get(part)},
                "logistic": None if logistic is None else score(logistic[clips], labels),
                "knn1": None,
                "knn20": None,
                "per_class": per_class(confusion),
            }
            if neighbors is not None:
                row["knn1"] = float((neighbors[clips, 0] == labels).mean())
                row["knn20"] = float((vote(neighbors[clips], self.num_classes) == labels).mean())
            self.rows.append(row)
            if part == "test":
                self.arrays[f"confusion_{stage}_{stream}"] = confusion

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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sklearn
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.nn import functional

import ikem
from ikem.checkpoint import DESCRIPTION, read_checkpoint
from ikem.config import THREE_STREAMS, Config, EvaluateConfig, plain
from ikem.data.dataset import PreparedDataset
from ikem.data.protocols import lacking_for_evaluation
from ikem.distill import load_student
from ikem.encoders import Encoder, encoders_of
from ikem.files import write_text
from ikem.pretrain import STAGE1_CHECKPOINT, Pretraining, build_pretraining
from ikem.seeding import derive_seed
from ikem.training import LAST_CHECKPOINT
from ikem_ext import derive_modalities

Indices = NDArray[np.int64]

EXTRACTION_BATCH = 128  # clips
RAW_FRAMES = 32  # of the control on raw coordinates
RIDGE_PENALTIES = np.logspace(-3, 4, 8)  # of which that control takes the one that is best in leaving clips out
NEIGHBORS = 20


@dataclass(frozen=True)
class Streams:
    """What is scored: single modalities, modalities fused in training, and separately trained ones fused late.

    Attributes:
        trained: name -> positions of the modalities whose heads are trained together, on their averaged logits.
        late: name -> positions of the modalities whose separately trained heads' probabilities are averaged.
    """

    trained: dict[str, tuple[int, ...]]
    late: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, modalities: Sequence[str]) -> Streams:
        """Return the streams of an ordered list of modalities.

        Example:
            >>> list(Streams.of(["joint", "motion"]).trained)
            ['joint', 'motion', 'fused2']
        """
        fused = {f"fused{len(modalities)}": tuple(range(len(modalities)))} if len(modalities) > 1 else {}
        if set(THREE_STREAMS) < set(modalities):
            fused["fused3"] = tuple(modalities.index(modality) for modality in THREE_STREAMS)
        fused = dict(sorted(fused.items()))
        singles = {modality: (position,) for position, modality in enumerate(modalities)}
        return cls({**singles, **fused}, {f"late_{name}": members for name, members in fused.items()})

    @property
    def all(self) -> dict[str, tuple[int, ...]]:
        """All streams, by name."""
        return {**self.trained, **self.late}


@dataclass(frozen=True)
class Split:
    """Labelled clips of one protocol: the training part, and the test parts as positions among all test clips.

    Attributes:
        train: (n,).
        test: (m,), all clips of a test part.
        parts: positions in ``test``, by name of the part; a part without labelled clips is not among them.
        unlabelled: how many clips were left out for want of a label, by name of the part.
    """

    train: Indices
    test: Indices
    parts: dict[str, Indices]
    unlabelled: dict[str, int]

    @classmethod
    def of(cls, dataset: PreparedDataset, protocol: str) -> Split:
        """Return a dataset's split; every part but ``train`` is a test part.

        Raises:
            ValueError: if the protocol is unknown, or lacks what an evaluation needs.
        """
        names = [part for part in dataset.protocols.get(protocol, {}) if part != "train"]
        clips = {name: dataset.split(protocol, name) for name in ["train", *names]}
        if lacking := lacking_for_evaluation(clips, dataset.labels):
            raise ValueError(f"data.protocol: {protocol!r} of {dataset.folder} cannot be evaluated: {lacking}")
        labelled = {name: indices[dataset.labels[indices] >= 0] for name, indices in clips.items()}
        test = np.unique(np.concatenate([labelled[name] for name in names]))
        return cls(
            labelled["train"],
            test,
            {name: np.searchsorted(test, labelled[name]) for name in names if len(labelled[name])},
            {name: len(clips[name]) - len(labelled[name]) for name in clips if len(labelled[name]) < len(clips[name])},
        )


class Features(NamedTuple):
    """Features of clips by G modalities, on the CPU in float32.

    Attributes:
        means: over time and joints, (G, n, F).
        parts: every joint apart, averaged over each of S parts of time, (G, n, F * S * V); without parts if S = 0.
    """

    means: Tensor
    parts: Tensor


@torch.inference_mode()
def extract_features(
    encoders: Mapping[str, Encoder],
    dataset: PreparedDataset,
    clips: Indices,
    *,
    segments: int = 0,
    fabric: Fabric,
) -> Features:
    """Encode clips in eval mode and without augmentation.

    Args:
        encoders: G encoders by modality.
        dataset: where the clips are.
        clips: (n,) indices into the dataset.
        segments: S, into how many parts of time the features of single joints are averaged.
        fabric: device and precision.
    """
    models = [encoder.to(fabric.device).eval() for encoder in encoders.values()]
    batches = []
    for start in range(0, len(clips), EXTRACTION_BATCH):
        some = clips[start : start + EXTRACTION_BATCH]
        joints, num_frames = (
            torch.from_numpy(values[some]).to(fabric.device) for values in (dataset.joints, dataset.num_frames)
        )
        derived = derive_modalities(joints, num_frames, dataset.layout, modalities=tuple(encoders))
        with fabric.autocast():
            maps = torch.stack([model.feature_map(part) for model, part in zip(models, derived, strict=True)]).float()
        by_parts = functional.adaptive_avg_pool2d(maps.flatten(0, 1), (max(segments, 1), maps.shape[-1]))
        parts = by_parts[:, :, :segments].reshape(*maps.shape[:2], -1)
        batches.append(Features(maps.mean((3, 4)).cpu(), parts.cpu()))
    return Features(*(torch.cat(tensors, dim=1) for tensors in zip(*batches, strict=True)))


def standardize(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Scale every feature to mean 0 and deviation 1 over the training clips (axis 1)."""
    deviation, mean = torch.std_mean(train, dim=1, keepdim=True)
    deviation = deviation.clamp_min(1e-12)  # of a feature that never fires; others may be small
    return (train - mean) / deviation, (test - mean) / deviation


class LinearHeads(nn.Module):
    """All linear classifiers of one evaluation side by side: one per modality of every trained stream.

    A stream's logits are the average of its heads' logits, so that all streams are trained in one batched product.

    Args:
        streams: G modalities and their fusions.
        in_width: D.
        num_classes: L.
        generator: draws the initial weights from N(0, 0.02), as published.
    """

    mixing: Tensor

    def __init__(self, streams: Streams, in_width: int, num_classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.streams = streams
        self.modality_of_head = [modality for members in streams.trained.values() for modality in members]
        heads = len(self.modality_of_head)
        self.weight = nn.Parameter(torch.randn(heads, in_width, num_classes, generator=generator) * 0.02)
        self.bias = nn.Parameter(torch.zeros(heads, 1, num_classes))
        mixing = torch.zeros(len(streams.trained), heads)
        first = 0
        for row, members in zip(mixing, streams.trained.values(), strict=True):
            row[first : first + len(members)] = 1 / len(members)
            first += len(members)
        self.register_buffer("mixing", mixing)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (G, n, D) to the logits of the trained streams, (streams, n, L)."""
        logits = torch.baddbmm(self.bias, features[self.modality_of_head], self.weight)
        return torch.einsum("sh,hnl->snl", self.mixing, logits)

    @torch.inference_mode()
    def predict(self, features: Tensor) -> Tensor:
        """Return the probabilities (streams, n, L) of all streams, the late ones too, a part of the clips at a time."""
        trained = torch.cat([self(part).softmax(-1) for part in features.split(2048, dim=1)], dim=1)
        # The single modalities come first, so modality i alone is stream i.
        late = [trained[list(members)].mean(0) for members in self.streams.late.values()]
        return torch.stack([*trained, *late])


@dataclass(frozen=True)
class ProbeResult:
    """Probabilities (streams, n, L) after the last epoch, and the best epoch's top-1 per test part and stream."""

    probabilities: Tensor
    best_top1: dict[str, Tensor]


def linear_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    parts: Mapping[str, Indices],
    streams: Streams,
    num_classes: int,
    options: EvaluateConfig,
    seed: int,
) -> ProbeResult:
    """Train linear classifiers on frozen features by SGD with momentum 0.9 (Wei et al., arXiv 2309.12009).

    Args:
        train: features of the training clips, (G, n, D).
        train_labels: (n,).
        test: features of all test clips, (G, m, D).
        test_labels: (m,).
        parts: positions in the test clips, by name of the part.
        streams: what is trained and fused.
        num_classes: L.
        options: of the probe.
        seed: of initial weights and order.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "probe"))
    heads = LinearHeads(streams, train.shape[-1], num_classes, generator).to(train.device)
    optimizer = torch.optim.SGD(
        heads.parameters(), lr=options.learning_rate, momentum=0.9, weight_decay=options.weight_decay
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(options.milestones), gamma=0.1)
    best = {part: torch.zeros(len(streams.all), dtype=torch.float64, device=train.device) for part in parts}
    for _ in range(options.epochs):
        for clips in torch.randperm(len(train_labels), generator=generator).split(options.batch_size):
            logits = heads(train[:, clips])
            labels = train_labels[clips].expand(len(logits), -1)
            loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten()) * len(logits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        probabilities = heads.predict(test)
        correct = (probabilities.argmax(-1) == test_labels).double()
        best = {part: best[part].maximum(correct[:, clips].mean(-1)) for part, clips in parts.items()}
    return ProbeResult(probabilities.cpu(), {part: values.cpu() for part, values in best.items()})


def logistic_probe(
    train: Tensor, train_labels: NDArray[np.int64], test: Tensor, num_classes: int, c: float
) -> NDArray[np.float64]:
    """Return the probabilities (m, L) that L2-penalised logistic regression gives to the classes of the test clips.

    Features are scaled to mean 0 and deviation 1 over the training clips (those that hardly vary, to less), and all
    together so that a training clip's squared length is 1 on average.

    Args:
        train: (n, D).
        train_labels: (n,).
        test: (m, D).
        num_classes: L.
        c: inverse strength of the penalty, as scikit-learn counts it.
    """
    deviation, mean = torch.std_mean(train.double(), dim=0)
    deviation = deviation + 0.01 * deviation.mean()
    z, z_test = ((x.double() - mean) / deviation for x in (train, test))
    length = z.square().sum(1).mean().sqrt()
    z, z_test = z / length, z_test / length
    if z.shape[1] > len(z):
        # The penalty keeps the weights in the span of the training clips: coordinates in it say all.
        squares, basis = torch.linalg.eigh(z @ z.mT)
        kept = squares > 1e-10 * squares[-1]
        axes = basis[:, kept] / squares[kept].sqrt()
        z, z_test = z @ (z.mT @ axes), z_test @ (z.mT @ axes)
    model = LogisticRegression(C=c, max_iter=1000).fit(z.numpy(), train_labels)
    probabilities = np.zeros((len(z_test), num_classes))
    probabilities[:, model.classes_] = model.predict_proba(z_test.numpy())
    return probabilities


def nearest_labels(
    train: Tensor, train_labels: NDArray[np.int64], test: Tensor, members: Sequence[int]
) -> NDArray[np.int64]:
    """Return the labels (m, k) of the k = 20 nearest training clips by cosine, nearest first.

    Of several modalities the cosines are averaged: unit vectors are concatenated.

    Args:
        train: (G, n, D).
        train_labels: (n,).
        test: (G, m, D).
        members: the modalities that take part.
    """

    def directions(features: Tensor) -> NDArray[np.float32]:
        units = functional.normalize(features[list(members)], dim=-1) / len(members) ** 0.5
        return units.transpose(0, 1).flatten(1).cpu().numpy()

    # Between unit vectors the Euclidean order is the order of the cosine, and scikit-learn finds it faster.
    neighbors = NearestNeighbors(n_neighbors=min(NEIGHBORS, train.shape[1]), algorithm="brute")
    return train_labels[neighbors.fit(directions(train)).kneighbors(directions(test), return_distance=False)]


def vote(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Return the most frequent label of each row; among equals, that whose nearest member comes first.

    Example:
        >>> vote(np.array([[2, 0, 1, 1], [2, 0, 0, 2]]), 3)
        array([1, 2])
    """
    counts = (labels[:, :, None] == np.arange(num_classes)).sum(1)
    winners = np.take_along_axis(counts, labels, 1) == counts.max(1, keepdims=True)
    return labels[np.arange(len(labels)), winners.argmax(1)]


def score(scores: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> dict[str, float]:
    """Return the fractions of clips whose class is the first, and among the first five."""
    top = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    hits = top == labels[:, None]
    return {"top1": float(hits[:, 0].mean()), "top5": float(hits.any(1).mean())}


def per_class(confusion: NDArray[np.int64]) -> list[float | None]:
    """Return the accuracy of every class; none where a class has no clip."""
    totals = confusion.sum(1)
    return [float(right / total) if total else None for right, total in zip(confusion.diagonal(), totals, strict=True)]


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
        raw, raw_test = self._raw(self.split.train), self._raw(self.split.test)
        classifier = RidgeClassifierCV(alphas=RIDGE_PENALTIES).fit(raw, self.train_labels)
        scores = classifier.decision_function(raw_test)
        if scores.ndim == 1:  # two classes
            scores = np.stack([-scores, scores], axis=1)
        logits = np.full((len(scores), self.num_classes), -np.inf, dtype=scores.dtype)
        logits[:, classifier.classes_] = scores
        logistic = None
        if self.config.evaluate.segments:
            logistic = self._logistic(torch.from_numpy(raw), torch.from_numpy(raw_test))
        self._add_rows("raw", "joint", logits, {}, None, logistic)

    def _logistic(self, train: Tensor, test: Tensor) -> NDArray[np.float64]:
        return logistic_probe(train, self.train_labels, test, self.num_classes, self.config.evaluate.logistic_c)

    def _raw(self, clips: Indices) -> NDArray[np.float32]:
        joints = torch.from_numpy(self.dataset.joints[clips]).movedim(2, -1).flatten(1, -2)
        return functional.interpolate(joints, size=RAW_FRAMES, mode="linear").flatten(1).numpy()

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


def trained_stages(config: Config) -> Iterator[tuple[str, dict[str, Encoder], dict[str, Any]]]:
    """Yield the run's trained stages: name, encoders by modality, and where they come from."""
    folder = config.run / "pretrain"
    for stage, number, name in (("stage1", 1, STAGE1_CHECKPOINT), ("stage2", 2, LAST_CHECKPOINT)):
        if (folder / name).is_file():
            description = read_checkpoint(folder / name, "pretrain")[DESCRIPTION]
            if description["stage"] == number:
                streams = Pretraining.from_checkpoint(folder / name).query
                yield stage, encoders_of(streams), {"file": f"pretrain/{name}", "epochs": description["epochs"]}
    student = config.run / "distill" / LAST_CHECKPOINT
    if student.is_file():
        description = read_checkpoint(student, "distill")[DESCRIPTION]
        origin = {"file": f"distill/{LAST_CHECKPOINT}", "epochs": description["epochs"]}
        yield "student", encoders_of(load_student(student)), origin


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
    random = encoders_of(build_pretraining(config, dataset.layout).query)
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


def results_table(result: Mapping[str, Any]) -> Table:
    """Return the table of an evaluation: one line per stage, stream and test part, accuracies in percent."""
    dataset = result["dataset"]
    name, clips = f"{dataset['name']}, {dataset['protocol']}", dataset["test_clips"]
    table = Table(title=f"{name}: accuracy in % on {clips} test clips")
    several = len({row["part"] for row in result["rows"]}) > 1
    with_logistic = any(row["logistic"] for row in result["rows"])
    for column in ("stage", "stream", *(["part"] if several else [])):
        table.add_column(column)
    for column in ("linear", "top-5", "best epoch", "1-NN", "20-NN", *(["logistic"] if with_logistic else [])):
        table.add_column(column, justify="right")
    stage = None
    for row in result["rows"]:
        if stage not in (None, row["stage"]):
            table.add_section()
        stage, linear = row["stage"], row["linear"]
        numbers = [linear["top1"], linear["top5"], linear["top1_best_epoch"], row["knn1"], row["knn20"]]
        if with_logistic:
            numbers.append(row["logistic"] and row["logistic"]["top1"])
        names = (row["stage"], row["stream"], *([row["part"]] if several else []))
        table.add_row(*names, *("" if number is None else f"{100 * number:.1f}" for number in numbers))
    return table

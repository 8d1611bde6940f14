"""All protocols on the frozen encoders of one stage after another, on one dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix
from torch import Tensor
from torch.nn import functional

from ikem.config import Config
from ikem.data.dataset import PreparedDataset
from ikem.data.recipe import Recipe
from ikem.encoders import Encoder
from ikem.evaluation import fusion
from ikem.evaluation.controls import raw_coordinates, ridge_scores
from ikem.evaluation.draws import Draw, all_draws
from ikem.evaluation.features import Features, Look, Scaling, extract_features
from ikem.evaluation.folds import Fold, cross_fitted, folds, groups
from ikem.evaluation.heads import classifier_of
from ikem.evaluation.linear import LinearHeads, ProbeResult, linear_probe
from ikem.evaluation.logistic import coordinates, logistic_probe, regression, require_few
from ikem.evaluation.looks import RandomLook, beginning, middle
from ikem.evaluation.neighbors import nearest_labels, vote
from ikem.evaluation.scores import Row, Scoreboard, likeliest_classes, per_class
from ikem.evaluation.split import Indices, Split
from ikem.evaluation.stages import Stage
from ikem.evaluation.streams import Streams
from ikem.evaluation.subjects import people, subject_accuracy
from ikem.evaluation.workers import side_by_side
from ikem.seeding import generator
from ikem.use.classifier import ActionClassifier
from ikem_ext.layout_mapping import LayoutMapping

Scores = NDArray[Any]  # (m, L)
Regression = tuple[Scores, Scores]  # probabilities of the test clips, and of the training clips by cross-fitting


@dataclass(frozen=True)
class Encoded:
    """A stage's encoders and what they make of the clips.

    Attributes:
        stage: its name.
        control: which control the encoders are, or None.
        encoders: G encoders by modality.
        mapping: from the dataset's skeleton to theirs, where it is another.
        train: features of the training clips.
        test: features of all test clips.
        test_as_probed: the same as the linear probe sees them: by their middle, if it augments.
        scaling: of mean features before probe and neighbors, if there is one.
    """

    stage: str
    control: str | None
    encoders: Mapping[str, Encoder]
    mapping: LayoutMapping | None
    train: Features
    test: Features
    test_as_probed: Features
    scaling: Scaling | None

    def scale(self, means: Tensor) -> Tensor:
        """Scale mean features (G, n, F) of some clips."""
        return means if self.scaling is None else self.scaling(means)

    @property
    def streams(self) -> Streams:
        """What is scored."""
        return Streams.of(tuple(self.encoders))


class Evaluation:
    """Scores frozen encoders by one dataset's protocol, and gathers rows and arrays for the report.

    Args:
        config: of the run.
        dataset: what is evaluated on.
        folder: for files of features that are too many for the memory; by default they stay there.

    Attributes:
        split: which clips are learned from and tested on.
        draws: of training clips that count as labelled, where not all do.
        board: counts what is classified rightly, and holds the rows.
        arrays: confusion matrices, features, and what single clips were taken for, by name.
        weights: of the streams in a fusion, where they were learned.
        people: the subjects of the training clips, counted from 0, if it is asked how well features tell them.
        probed: the linear probe's heads, and the scaling of the features before them, by stage.
    """

    def __init__(self, config: Config, dataset: PreparedDataset, folder: Path | None = None) -> None:
        self.config = config
        self.options = config.evaluate
        self.dataset = dataset
        self.folder = folder
        self.split = Split.of(dataset, config.data.protocol, config.evaluate.classes)
        self.fabric = Fabric(
            accelerator=config.trainer.accelerator,
            devices=1,
            precision=config.trainer.precision,  # type: ignore[arg-type]
        )
        self.num_classes = len(dataset.classes)
        self.train_labels = dataset.labels[self.split.train]
        self.test_labels = dataset.labels[self.split.test]
        self.draws = all_draws(self.split, self.train_labels, self.options, config.seed)
        self.board = Scoreboard(self.test_labels, self.split.parts, config.seed)
        tested = self.split.parts["test"]
        self.arrays: dict[str, NDArray[Any]] = {"labels": self.test_labels[tested], "clips": self.split.test[tested]}
        self.weights: list[dict[str, Any]] = []
        self.people = people([dataset.clips[clip] for clip in self.split.train]) if self.options.subjects else None
        self.probed: dict[str, tuple[LinearHeads, Scaling | None]] = {}

    def add_encoders(self, stage: Stage) -> None:
        """Score the encoders of a stage by every protocol, alone and fused.

        Raises:
            ValueError: if their skeleton has joints that the dataset's says nothing of, or there are too many clips
                for what was asked for.
        """
        encoders = stage.encoders
        if self.options.segments:
            first = next(iter(encoders.values()))
            width = first.map_width * self.options.segments * first.map_joints
            require_few(len(self.split.train), len(self.split.test), width)
        mapping = stage.mapping_from(self.dataset.layout)
        train, test = (
            self._extract(encoders, clips, mapping, segments=self.options.segments)
            for clips in (self.split.train, self.split.test)
        )
        for modality, features in zip(encoders, test.means, strict=True):
            self.arrays[f"features_{stage.name}_{modality}"] = features[self.split.parts["test"]].numpy()
        scaling = Scaling.of(train.means) if self.options.standardize else None
        augments = self.options.probe.augments
        probed = self._extract(encoders, self.split.test, mapping, look=middle) if augments else test
        encoded = Encoded(stage.name, stage.control, encoders, mapping, train, test, probed, scaling)
        probe, regressions = self._learn(encoded)
        self._add_linear(encoded, probe)
        self._add_neighbors(encoded)
        self._add_draws(encoded)
        self._add_subjects(encoded)
        if regressions:
            self._add_logistic(encoded, regressions)

    def classifier(self, stage: Stage, recipe: Recipe) -> ActionClassifier:
        """Return the encoders of a stage, which were scored before, with their heads: what names actions afterwards.

        The heads are the linear probe's of all modalities, fused by learned weights if those were asked for, else
        trained together. Test clips have no part in the choice.

        Args:
            stage: of the encoders.
            recipe: of the data set.
        """
        heads, scaling = self.probed[stage.name]
        name = ("linear", stage.name, f"learned_{heads.streams.together}")
        learned = {(row["protocol"], row["stage"], row["stream"]): row["weights"] for row in self.weights}
        origin = {"dataset": self.dataset.name, "protocol": self.config.data.protocol, "seed": self.config.seed}
        recipe = replace(recipe, layout=stage.layout)
        return classifier_of(
            stage, heads, self.options.normalize, scaling, learned.get(name), self.dataset.classes, recipe, origin
        )

    def add_raw(self) -> None:
        """Score the controls: linear classifiers and nearest neighbors of the prepared coordinates, of 32 frames."""
        raw, raw_test = (raw_coordinates(self.dataset, clips) for clips in (self.split.train, self.split.test))
        features, test = torch.from_numpy(raw), torch.from_numpy(raw_test)
        streams = {"joint": (0,)}
        scores = ridge_scores(raw, self.train_labels, raw_test, self.num_classes)
        self._count_linear("raw", "joint", scores, control="raw")
        self._count_neighbors("raw", streams, features[None], test[None], control="raw")
        for draw in self.draws:
            scores = ridge_scores(raw[draw.clips], self.train_labels[draw.clips], raw_test, self.num_classes)
            self._count_draw(draw, "linear", "raw", "joint", scores, control="raw")
            self._count_drawn_neighbors(draw, "raw", streams, features[None], test[None], control="raw")
        self._count_subjects("raw", "joint", features, control="raw")
        if self.options.segments:
            scores = logistic_probe(features, self.train_labels, test, self.num_classes, self.options.logistic_c)
            self.board.add("logistic", "raw", "joint", scores, control="raw")

    def _extract(
        self,
        encoders: Mapping[str, Encoder],
        clips: Indices,
        mapping: LayoutMapping | None,
        look: Look | None = None,
        segments: int = 0,
    ) -> Features:
        """Encode clips, with mean features of length 1 where that is asked for."""
        found = extract_features(
            encoders,
            self.dataset,
            clips,
            fabric=self.fabric,
            segments=segments,
            look=look,
            mapping=mapping,
            folder=self.folder,
            dtype=getattr(torch, self.options.parts_dtype),
        )
        return found._replace(means=functional.normalize(found.means, dim=-1)) if self.options.normalize else found

    def _learn(self, encoded: Encoded) -> tuple[ProbeResult, list[Regression]]:
        """Train the linear probe and, where it was asked for, the logistic one of each modality: side by side."""
        probe = partial(self._linear_probe, encoded)
        regressions = [partial(self._regress, encoded, place) for place in range(len(encoded.encoders))]
        if not self.options.segments:
            return probe(), []
        if self.options.probe.augments:  # it encodes clips, by all threads
            return probe(), side_by_side(_call, regressions, torch.device("cpu"))
        work: list[Callable[[], Any]] = [probe, *regressions]
        first, *others = side_by_side(_call, work, torch.device("cpu"))
        return first, others

    # ------------------------------------------------------------------------------------------ linear probe

    def _add_linear(self, encoded: Encoded, probe: ProbeResult) -> None:
        self.probed[encoded.stage] = probe.heads, encoded.scaling
        probabilities = probe.probabilities.numpy()
        for position, stream in enumerate(encoded.streams.all):
            best = {part: float(values[position]) for part, values in probe.best_top1.items()}
            self._count_linear(encoded.stage, stream, probabilities[position], best, control=encoded.control)
        streams = len(encoded.encoders)
        for stream, scores in self._fused("linear", encoded, probabilities[:streams], self._cross_fitted_linear):
            self._count_linear(encoded.stage, stream, scores, control=encoded.control)
        for share in self.options.early:
            self._add_early(encoded, probe.heads, share)

    def _linear_probe(self, encoded: Encoded, draw: Draw | None = None) -> ProbeResult:
        """Train the probe on the labelled clips of a draw, by default on all; the best epoch is told of all alone."""
        options, seed = self.options.probe, self.config.seed
        labelled = draw.clips if draw else np.arange(len(self.split.train))
        as_they_are = None if options.augments else self._on_device(encoded.scale(encoded.train.means[:, labelled]))

        def train(epoch: int) -> Tensor:
            if as_they_are is not None:
                return as_they_are
            random = RandomLook(options, generator(seed, "probe views", epoch))
            augmented = self._extract(encoded.encoders, self.split.train[labelled], encoded.mapping, look=random)
            return self._on_device(encoded.scale(augmented.means))

        return linear_probe(
            train,
            self._on_device(self.train_labels[labelled]),
            self._on_device(encoded.scale(encoded.test_as_probed.means)),
            self._on_device(self.test_labels),
            {} if draw else self.split.parts,
            encoded.streams,
            self.num_classes,
            options,
            seed,
        )

    def _cross_fitted_linear(self, encoded: Encoded, parts: Sequence[Fold]) -> Scores:
        """Probabilities (G, n, L) of the training clips, each by linear probes of clips seen as they are."""
        features, labels = (self._on_device(x) for x in (encoded.scale(encoded.train.means), self.train_labels))

        def classify(learned: Indices, held_out: Indices) -> Scores:
            known = features[:, learned]
            singles = encoded.streams.singles
            result = linear_probe(
                lambda epoch: known,
                labels[learned],
                features[:, held_out],
                labels[held_out],
                {},
                singles,
                self.num_classes,
                self.options.probe,
                self.config.seed,
            )
            return result.probabilities.double().numpy()

        return cross_fitted(classify, parts, (len(features), len(labels), self.num_classes))

    def _add_early(self, encoded: Encoded, heads: LinearHeads, share: float) -> None:
        """Score the linear probe on the first share of the test clips."""
        look = partial(beginning, share) if share < 1 else None
        seen = self._extract(encoded.encoders, self.split.test, encoded.mapping, look=look) if look else encoded.test
        probabilities = heads.predict(self._on_device(encoded.scale(seen.means))).cpu().numpy()
        for stream, scores in zip(encoded.streams.all, probabilities, strict=True):
            self.board.add("early", encoded.stage, stream, scores, control=encoded.control, seen=share)

    def _count_linear(
        self,
        stage: str,
        stream: str,
        scores: Scores,
        best: Mapping[str, float] | None = None,
        *,
        control: str | None,
    ) -> None:
        for row in self.board.add("linear", stage, stream, scores, control=control):
            confusion = self._confusion(row, scores)
            row["top1_best_epoch"] = best and best[row["part"]]
            row["per_class"] = per_class(confusion)
            if row["part"] == "test":
                self.arrays[f"confusion_{stage}_{stream}"] = confusion
                likeliest, their_scores = likeliest_classes(scores[self.split.parts["test"]])
                self.arrays[f"classes_{stage}_{stream}"] = likeliest
                self.arrays[f"scores_{stage}_{stream}"] = their_scores

    def _confusion(self, row: Row, scores: Scores) -> NDArray[np.int64]:
        clips = self.split.parts[row["part"]]
        chosen = scores[clips].argmax(1)
        return np.asarray(confusion_matrix(self.test_labels[clips], chosen, labels=range(self.num_classes)))

    # ---------------------------------------------------------------------------------- nearest neighbors

    def _add_neighbors(self, encoded: Encoded) -> None:
        means, test_means = encoded.scale(encoded.train.means), encoded.scale(encoded.test.means)
        self._count_neighbors(encoded.stage, encoded.streams.trained, means, test_means, control=encoded.control)

    def _count_neighbors(
        self, stage: str, streams: Mapping[str, tuple[int, ...]], train: Tensor, test: Tensor, *, control: str | None
    ) -> None:
        """Score the nearest neighbors of features (G, n, D) and (G, m, D), by the modalities of each stream."""
        if not self.options.neighbors:
            return
        for stream, members in streams.items():
            nearest = nearest_labels(train, self.train_labels, test, members, max(self.options.neighbors))
            for k in self.options.neighbors:
                protocol = "retrieval" if k == 1 else "knn"
                self.board.add(
                    protocol,
                    stage,
                    stream,
                    classes=vote(nearest[:, :k], self.num_classes),
                    control=control,
                    neighbors=k,
                )

    # --------------------------------------------------------------------------- some training clips labelled

    def _add_draws(self, encoded: Encoded) -> None:
        """Score linear probe and retrieval that know the labels of drawn clips alone, on features that all share."""
        means, test_means = encoded.scale(encoded.train.means), encoded.scale(encoded.test.means)
        for draw in self.draws:
            probabilities = self._linear_probe(encoded, draw).probabilities.numpy()
            for stream, scores in zip(encoded.streams.all, probabilities, strict=True):
                self._count_draw(draw, "linear", encoded.stage, stream, scores, control=encoded.control)
            self._count_drawn_neighbors(
                draw, encoded.stage, encoded.streams.trained, means, test_means, control=encoded.control
            )

    def _count_drawn_neighbors(
        self,
        draw: Draw,
        stage: str,
        streams: Mapping[str, tuple[int, ...]],
        train: Tensor,
        test: Tensor,
        *,
        control: str | None,
    ) -> None:
        bank, labels = train[:, draw.clips], self.train_labels[draw.clips]
        for stream, members in streams.items():
            nearest = nearest_labels(bank, labels, test, members, 1)[:, 0]
            self._count_draw(draw, "retrieval", stage, stream, classes=nearest, control=control)

    def _count_draw(
        self, draw: Draw, classifier: str, stage: str, stream: str, scores: Scores | None = None, **more: Any
    ) -> None:
        self.board.add(draw.protocol, stage, stream, scores, classifier=classifier, **draw.fields, **more)

    # ---------------------------------------------------------------------------------- whose clip it is

    def _add_subjects(self, encoded: Encoded) -> None:
        means = encoded.scale(encoded.train.means)
        for stream, members in encoded.streams.trained.items():
            together = means[list(members)].transpose(0, 1).flatten(1)
            self._count_subjects(encoded.stage, stream, together, control=encoded.control)

    def _count_subjects(self, stage: str, stream: str, features: Tensor, *, control: str | None) -> None:
        if self.people is not None:
            top1 = subject_accuracy(features, self.people, self.train_labels, self.options.logistic_c)
            self.board.note("subject", stage, stream, "train", {"top1": top1}, control=control)

    # ---------------------------------------------------------------------------------- logistic probe

    def _regress(self, encoded: Encoded, place: int) -> Regression:
        """Regress on a modality's features; training clips are classified where weights are learned from that."""
        parts = self._folds() if "learned" in self.options.fusion else []
        clips = coordinates(encoded.train.parts[place], encoded.test.parts[place])
        fit = partial(regression, num_classes=self.num_classes, c=self.options.logistic_c)

        def classify(learned: Indices, held_out: Indices) -> Scores:
            return fit(clips.train[learned], self.train_labels[learned], clips.train[held_out])[None]

        shape = (1, len(self.train_labels), self.num_classes)
        return fit(clips.train, self.train_labels, clips.test), cross_fitted(classify, parts, shape)

    def _add_logistic(self, encoded: Encoded, found: Sequence[Regression]) -> None:
        """Score the modalities' regressions; fused, their probabilities are averaged, or pooled by weights."""
        probabilities = np.stack([test for test, _ in found])
        for stream, members in encoded.streams.trained.items():
            averaged = probabilities[list(members)].mean(0)
            self.board.add("logistic", encoded.stage, stream, averaged, control=encoded.control)
        known = np.concatenate([train for _, train in found])
        for stream, scores in self._fused("logistic", encoded, probabilities, lambda *_: known):
            self.board.add("logistic", encoded.stage, stream, scores, control=encoded.control)

    # ---------------------------------------------------------------------------------- fusion by weights

    def _fused(
        self,
        protocol: str,
        encoded: Encoded,
        probabilities: Scores,
        cross_fit: Callable[[Encoded, Sequence[Fold]], Scores],
    ) -> list[tuple[str, Scores]]:
        """Fuse the modalities' probabilities (G, m, L) by the weights that were asked for: name and scores of each."""
        modalities, fused = encoded.streams.modalities, encoded.streams.fused
        found: list[tuple[str, Scores]] = []
        if "learned" in self.options.fusion and fused:
            known = cross_fit(encoded, self._folds())
            for stream, members in fused.items():
                chosen = list(members)
                weights = fusion.learned_weights(known[chosen], self.train_labels)
                found.append((f"learned_{stream}", fusion.pool(probabilities[chosen], weights)))
                names = [modalities[member] for member in members]
                origin = {"protocol": protocol, "stage": encoded.stage, "stream": f"learned_{stream}"}
                self.weights.append({**origin, "weights": dict(zip(names, weights.tolist(), strict=True))})
        if "aimclr" in self.options.fusion and set(fusion.AIMCLR_WEIGHTS) <= set(modalities):
            chosen = [modalities.index(modality) for modality in fusion.AIMCLR_WEIGHTS]
            weights = np.array(list(fusion.AIMCLR_WEIGHTS.values()))
            found.append(("aimclr_fused3", fusion.pool(probabilities[chosen], weights, doubt=0)))
        return found

    def _folds(self) -> list[Fold]:
        train, test = ([self.dataset.clips[clip] for clip in clips] for clips in (self.split.train, self.split.test))
        return folds(self.train_labels, groups(train, test), self.config.seed)

    def _on_device(self, values: Tensor | NDArray[Any]) -> Tensor:
        return torch.as_tensor(values).to(self.fabric.device)


def _call(work: Callable[[], Any]) -> Any:
    return work()

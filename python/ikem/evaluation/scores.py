"""What is counted, and how it is kept: how many clips of each part of the test clips are classified rightly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ikem.evaluation.split import Indices

Row = dict[str, Any]


def score(scores: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> dict[str, float]:
    """Return the fractions of clips whose class is the first, and among the first five."""
    likeliest, _ = likeliest_classes(scores)
    hits = likeliest == labels[:, None]
    return {"top1": float(hits[:, 0].mean()), "top5": float(hits.any(1).mean())}


def likeliest_classes(
    scores: NDArray[np.floating[Any]], count: int = 5
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Return the first classes of each clip and their scores, from scores (n, L): int16 and float32 (n, count).

    Example:
        >>> likeliest_classes(np.array([[0.25, 0.5, 0.25]]), 2)
        (array([[1, 0]], dtype=int16), array([[0.5 , 0.25]], dtype=float32))
    """
    likeliest = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return likeliest.astype(np.int16), np.take_along_axis(scores, likeliest, axis=1).astype(np.float32)


def per_class(confusion: NDArray[np.int64]) -> list[float | None]:
    """Return the accuracy of every class; none where a class has no clip."""
    totals = confusion.sum(1)
    return [float(right / total) if total else None for right, total in zip(confusion.diagonal(), totals, strict=True)]


class Scoreboard:
    """Counts what classifiers get right, one row for each protocol, stream of a stage and part of the test clips.

    A row says by what protocol it came about (``protocol``), of which encoders (``stage``, ``stream``) and test clips
    (``part``), from what ``seed`` and ``draw`` of labelled clips (None where all are), and, of a control, which one
    (``control``: ``random`` weights, ``raw`` coordinates, ``supervised`` training from random weights; else None); then
    what else the protocol has to say, and ``top1`` and ``top5``, fractions.

    Args:
        labels: of all test clips, (m,).
        parts: positions in the test clips, by name of the part.
        seed: of the run.

    Attributes:
        rows: what was counted.
    """

    def __init__(self, labels: NDArray[np.int64], parts: Mapping[str, Indices], seed: int) -> None:
        self.labels = labels
        self.parts = parts
        self.seed = seed
        self.rows: list[Row] = []

    def add(
        self,
        protocol: str,
        stage: str,
        stream: str,
        scores: NDArray[np.floating[Any]] | None = None,
        *,
        classes: NDArray[np.int64] | None = None,
        control: str | None = None,
        draw: int | None = None,
        **more: Any,
    ) -> list[Row]:
        """Count what a classifier gets right, and return the rows, one for each part.

        Args:
            protocol: how the classifier came about.
            stage: of the encoders.
            stream: which modalities.
            scores: of the classes of all test clips, (m, L).
            classes: where there are no scores, the classes that were chosen, (m,).
            control: which one, if it is one.
            draw: of the labelled clips, if they were drawn.
            more: what else the protocol has to say.
        """
        rows = []
        for part, clips in self.parts.items():
            labels = self.labels[clips]
            if scores is not None:
                counted: dict[str, float] = score(scores[clips], labels)
            elif classes is not None:
                counted = {"top1": float((classes[clips] == labels).mean())}
            else:
                raise ValueError("scores: expected them or classes")
            rows.append(self.note(protocol, stage, stream, part, counted, control=control, draw=draw, **more))
        return rows

    def note(
        self,
        protocol: str,
        stage: str,
        stream: str,
        part: str,
        counted: Mapping[str, float],
        *,
        control: str | None = None,
        draw: int | None = None,
        **more: Any,
    ) -> Row:
        """Keep fractions of a part that were counted elsewhere, and return the row."""
        origin = {"protocol": protocol, "stage": stage, "stream": stream, "part": part}
        row = origin | {"seed": self.seed, "draw": draw, "control": control} | more | dict(counted)
        self.rows.append(row)
        return row


def by_stream(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Put side by side what the protocols on frozen features say of the same stream and part.

    Returns:
        One dictionary for each stage, stream and part, in the rows' order: these names, the rows of the protocols
        ``linear`` and ``logistic`` or None, and under ``neighbors`` the accuracies by number of neighbors.
    """
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        if row["protocol"] not in ("linear", "logistic", "retrieval", "knn"):
            continue
        names = {name: row[name] for name in ("stage", "stream", "part")}
        empty = {**names, "linear": None, "logistic": None, "neighbors": {}}
        together = found.setdefault(tuple(names.values()), empty)
        if "neighbors" in row:
            together["neighbors"][row["neighbors"]] = row["top1"]
        else:
            together[row["protocol"]] = row
    return list(found.values())


class Spread(NamedTuple):
    """Accuracies of several draws of labelled clips, in one number and how far they lie apart.

    Attributes:
        mean: of the draws.
        deviation: their sample standard deviation; None of one draw.
    """

    mean: float
    deviation: float | None


def over_draws(rows: Iterable[Mapping[str, Any]], protocol: str) -> dict[tuple[str, str, str], dict[float, Spread]]:
    """Take together what the draws of labelled clips gave by one protocol, ``semi`` or ``fewshot``.

    Returns:
        By stage, stream and classifier, in the rows' order, the top-1 accuracies by ``labels``, ascending.

    Example:
        >>> row = {"protocol": "semi", "stage": "stage1", "stream": "joint", "classifier": "linear", "labels": 0.1}
        >>> drawn = [{**row, "draw": draw, "top1": top1} for draw, top1 in enumerate((0.25, 0.5, 0.75))]
        >>> over_draws(drawn, "semi")
        {('stage1', 'joint', 'linear'): {0.1: Spread(mean=0.5, deviation=0.25)}}
    """
    found: dict[tuple[str, str, str], dict[float, list[float]]] = {}
    for row in rows:
        if row["protocol"] == protocol:
            at = found.setdefault((row["stage"], row["stream"], row["classifier"]), {})
            at.setdefault(row["labels"], []).append(row["top1"])
    return {
        names: {
            labels: Spread(float(np.mean(top1)), float(np.std(top1, ddof=1)) if len(top1) > 1 else None)
            for labels, top1 in sorted(at.items())
        }
        for names, at in found.items()
    }


def origin(row: Mapping[str, Any]) -> str:
    """Return what a finetuning began with, as tables call it: a stage's encoders; or which control it is.

    Example:
        >>> origin({"stage": "stage2", "control": None}), origin({"stage": "random", "control": "supervised"})
        ('stage2', 'supervised')
    """
    return str(row.get("control") or row["stage"])


def number_of(accuracies: Mapping[str, Any] | None, name: str = "top1") -> float | None:
    """Return one accuracy of a row, or None where there is no row."""
    return None if accuracies is None else accuracies.get(name)

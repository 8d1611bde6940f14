"""Which training clips count as labelled, where only some do: a share of all, or so many of each class.

Every draw is one order of the training clips, and its labelled clips are the first in it: those of a smaller share are
among those of a larger one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ikem.config import EvaluateConfig
from ikem.evaluation.split import Indices, Split
from ikem.seeding import derive_seed

Labels = NDArray[np.int64]


class Draw(NamedTuple):
    """Labelled clips that were drawn.

    Attributes:
        protocol: ``semi`` or ``fewshot``.
        labels: the share of the training clips, or how many of each class.
        number: of the draw, from 0.
        clips: positions among the training clips, ascending.
    """

    protocol: str
    labels: float
    number: int
    clips: Indices

    @property
    def fields(self) -> dict[str, Any]:
        """What a row says of the draw."""
        return {"draw": self.number, "labels": self.labels, "labelled_clips": len(self.clips)}


def all_draws(split: Split, labels: Labels, options: EvaluateConfig, seed: int) -> list[Draw]:
    """Return all draws that were asked for.

    Args:
        split: the training clips that are drawn from, and the test clips.
        labels: of the training clips, (n,).
        options: ``semi``, ``fewshot``, ``draws``, ``draw_by`` and ``every_class``.
        seed: of the run.

    Raises:
        ValueError: if a draw holds a test clip or clips of one class alone, or a class has too few clips.
    """
    found = list(_draws(labels, options, seed))
    for draw in found:
        if leaked := len(np.intersect1d(split.train[draw.clips], split.test)):
            raise ValueError(
                f"data.protocol: {leaked} of the {len(draw.clips)} labelled clips drawn for evaluate.{draw.protocol} "
                "are test clips too; expected none in both parts"
            )
        if len(np.unique(labels[draw.clips])) < 2:
            raise ValueError(
                f"evaluate.{draw.protocol}: expected labelled clips of at least two classes, and {draw.labels:g} gives "
                f"{len(draw.clips)} of one at most (draw {draw.number})"
            )
    return found


def _draws(labels: Labels, options: EvaluateConfig, seed: int) -> Iterator[Draw]:
    for number in range(options.draws if options.semi or options.fewshot else 0):
        order = order_of_draw(len(labels), seed, number)
        for share in options.semi:
            drawn = share_of(labels, order, share, by=options.draw_by, every_class=options.every_class)
            yield Draw("semi", share, number, drawn)
        for shots in options.fewshot:
            yield Draw("fewshot", shots, number, clips_of_each_class(labels, order, shots))


def order_of_draw(num_clips: int, seed: int, number: int) -> Indices:
    """Return the order of the clips in one draw, a function of seed and number alone.

    Example:
        >>> order_of_draw(5, seed=1, number=0)
        array([3, 4, 1, 2, 0])
    """
    return np.random.default_rng(derive_seed(seed, "labelled clips", number)).permutation(num_clips)


def share_of(
    labels: Labels, order: Indices, share: float, *, by: Literal["class", "clip"], every_class: bool
) -> Indices:
    """Return the first share of each class's clips, or of all, ``clip`` by clip."""
    draw = share_of_each_class if by == "class" else share_of_all
    return draw(labels, order, share, every_class=every_class)


def share_of_each_class(labels: Labels, order: Indices, share: float, *, every_class: bool = True) -> Indices:
    """Return the first share of each class's clips, rounded class by class as in codes built on AimCLR's.

    Args:
        labels: of the clips, (n,).
        order: of the draw, (n,).
        share: of each class.
        every_class: at least one clip of each.

    Example:
        >>> labels, order = np.array([0, 0, 0, 0, 0, 0, 1, 1]), np.array([7, 5, 0, 6, 2, 1, 3, 4])
        >>> share_of_each_class(labels, order, 0.2)
        array([5, 7])
        >>> share_of_each_class(labels, order, 0.2, every_class=False)
        array([5])
    """
    least = 1 if every_class else 0
    members = _by_class(labels, order)
    return np.sort(np.concatenate([clips[: max(round(share * len(clips)), least)] for clips in members]))


def share_of_all(labels: Labels, order: Indices, share: float, *, every_class: bool = True) -> Indices:
    """Return the first share of all clips, whatever their class, rounded down as in MAMP's code.

    Args:
        labels: of the clips, (n,).
        order: of the draw, (n,).
        share: of all clips.
        every_class: of a class that has none among them, its first clip is labelled besides.

    Example:
        >>> labels, order = np.array([0, 0, 0, 0, 0, 0, 1, 1]), np.array([5, 0, 7, 6, 2, 1, 3, 4])
        >>> share_of_all(labels, order, 0.25)
        array([0, 5, 7])
        >>> share_of_all(labels, order, 0.25, every_class=False)
        array([0, 5])
    """
    first = order[: int(share * len(order))]
    if every_class:
        first = np.union1d(first, [clips[0] for clips in _by_class(labels, order)])
    return np.sort(first)


def clips_of_each_class(labels: Labels, order: Indices, shots: int) -> Indices:
    """Return the first so many clips of each class.

    Args:
        labels: of the clips, (n,).
        order: of the draw, (n,).
        shots: how many of each.

    Raises:
        ValueError: if a class has fewer.

    Example:
        >>> clips_of_each_class(np.array([0, 1, 0, 1, 0]), np.array([4, 3, 2, 1, 0]), 1)
        array([3, 4])
    """
    members = _by_class(labels, order)
    if few := {int(labels[clips[0]]): len(clips) for clips in members if len(clips) < shots}:
        counts = ", ".join(f"class {label} has {count}" for label, count in few.items())
        raise ValueError(f"evaluate.fewshot: expected at least {shots} training clips of each class, and {counts}")
    return np.sort(np.concatenate([clips[:shots] for clips in members]))


def _by_class(labels: Labels, order: Indices) -> list[Indices]:
    """Return the clips of each class that there is, in the order of the draw."""
    return [order[labels[order] == label] for label in np.unique(labels)]

"""Which clips are learned from, and which are tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ikem.data.dataset import PreparedDataset
from ikem.data.protocols import lacking_for_evaluation

Indices = NDArray[np.int64]


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
    def of(cls, dataset: PreparedDataset, protocol: str, classes: Sequence[str] = ()) -> Split:
        """Return a dataset's split; every part but ``train`` is a test part.

        Args:
            dataset: of the clips.
            protocol: which of the dataset's.
            classes: names or labels of those whose clips are among the labelled ones; by default all.

        Raises:
            ValueError: if the protocol or a class is unknown, or clips lack what an evaluation needs.
        """
        clips = dataset.parts(protocol)
        names = [part for part in clips if part != "train"]
        where = f"{protocol!r} of {dataset.folder}"
        if classes:
            chosen = np.isin(dataset.labels, [-1, *_labels_of(classes, dataset.classes)])
            clips = {name: indices[chosen[indices]] for name, indices in clips.items()}
            where += f", classes {', '.join(classes)},"
        if lacking := lacking_for_evaluation(clips, dataset.labels):
            raise ValueError(f"data.protocol: {where} cannot be evaluated: {lacking}")
        labelled = {name: indices[dataset.labels[indices] >= 0] for name, indices in clips.items()}
        test = np.unique(np.concatenate([labelled[name] for name in names]))
        return cls(
            labelled["train"],
            test,
            {name: np.searchsorted(test, labelled[name]) for name in names if len(labelled[name])},
            {name: len(clips[name]) - len(labelled[name]) for name in clips if len(labelled[name]) < len(clips[name])},
        )


def _labels_of(chosen: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Return the labels of classes by their names, or else by their labels in digits."""
    known = {str(label): label for label in range(len(classes))}
    known |= {name: label for label, name in enumerate(classes)}
    if unknown := [name for name in chosen if name not in known]:
        raise ValueError(
            f"evaluate.classes: expected names or labels of the data set's classes, got {', '.join(unknown)}; "
            f"it has {', '.join(classes)}"
        )
    return [known[name] for name in chosen]

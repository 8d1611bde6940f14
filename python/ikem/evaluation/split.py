"""Which clips are learned from, and which are tested on."""

from __future__ import annotations

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

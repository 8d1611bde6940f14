"""What any encoder has to beat, beside its own random weights: a linear classifier of the coordinates themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifierCV
from torch.nn import functional

from ikem.data.dataset import PreparedDataset
from ikem.evaluation.split import Indices

RAW_FRAMES = 32  # of the control on raw coordinates
RIDGE_PENALTIES = np.logspace(-3, 4, 8)  # of which that control takes the one that is best in leaving clips out


def raw_coordinates(dataset: PreparedDataset, clips: Indices) -> NDArray[np.float32]:
    """Return the prepared coordinates of n clips, resampled to 32 frames, (n, 3 * V * M * 32)."""
    joints = torch.from_numpy(dataset.joints[clips]).movedim(2, -1).flatten(1, -2)
    return functional.interpolate(joints, size=RAW_FRAMES, mode="linear").flatten(1).numpy()


def ridge_scores(
    train: NDArray[np.floating[Any]],
    train_labels: NDArray[np.int64],
    test: NDArray[np.floating[Any]],
    num_classes: int,
) -> NDArray[np.floating[Any]]:
    """Return the scores (m, L) that a ridge classifier gives to the classes of the test clips.

    Args:
        train: (n, D).
        train_labels: (n,).
        test: (m, D).
        num_classes: L.
    """
    classifier = RidgeClassifierCV(alphas=RIDGE_PENALTIES).fit(train, train_labels)
    scores = classifier.decision_function(test)
    if scores.ndim == 1:  # two classes
        scores = np.stack([-scores, scores], axis=1)
    all_scores = np.full((len(scores), num_classes), -np.inf, dtype=scores.dtype)
    all_scores[:, classifier.classes_] = scores
    return all_scores

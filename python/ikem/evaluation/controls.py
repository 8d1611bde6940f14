"""What any encoder has to beat, beside its own random weights: classifiers of the coordinates themselves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ikem.data.dataset import PreparedDataset
from ikem.evaluation.products import gram
from ikem.evaluation.split import Indices

RAW_FRAMES = 32  # of the control on raw coordinates
RIDGE_PENALTIES = np.logspace(-3, 4, 8)  # of which that control takes the one that is best in leaving clips out
ROWS = 2048  # clips that are looked at a time


def raw_coordinates(dataset: PreparedDataset, clips: Indices) -> NDArray[np.float32]:
    """Return the prepared coordinates of n clips, resampled to 32 frames, (n, 3 * V * M * 32)."""
    _, channels, _, joints, bodies = dataset.joints.shape
    raw = np.empty((len(clips), channels * joints * bodies * RAW_FRAMES), dtype=np.float32)
    for rows in _slices(len(clips)):
        curves = torch.from_numpy(dataset.joints[clips[rows]]).movedim(2, -1).flatten(1, -2)
        raw[rows] = functional.interpolate(curves, size=RAW_FRAMES, mode="linear").flatten(1)
    return raw


def ridge_scores(
    train: NDArray[np.float32], train_labels: NDArray[np.int64], test: NDArray[np.float32], num_classes: int
) -> NDArray[np.float64]:
    """Return the scores (m, L) that a ridge classifier gives to the classes of the test clips.

    A ridge regression for each class against the others, of targets 1 and -1, with the penalty, of eight, whose squared
    errors on clips that are left out one at a time are least: that is scikit-learn's ``RidgeClassifierCV``, in memory
    for the coordinates and products of two of them.

    Args:
        train: (n, D).
        train_labels: (n,).
        test: (m, D).
        num_classes: L; one without training clips has the score -inf.
    """
    present, places = np.unique(train_labels, return_inverse=True)
    targets = 2.0 * torch.eye(len(present), dtype=torch.float64)[torch.from_numpy(places)] - 1
    x, mean = torch.from_numpy(train), torch.from_numpy(train.mean(0, dtype=np.float64))
    centered = targets - targets.mean(0)
    squares, axes = _axes(x, mean)
    along = axes.mT @ sum(_centered(x[rows], mean).mT @ centered[rows] for rows in _slices(len(x)))
    penalties = torch.from_numpy(RIDGE_PENALTIES)
    errors = torch.zeros(len(penalties), dtype=torch.float64)
    for rows in _slices(len(x)):
        z = _centered(x[rows], mean) @ axes
        for place, penalty in enumerate(penalties):
            leverage = 1 / len(x) + z.square() @ (1 / (squares + penalty))
            residuals = centered[rows] - (z / (squares + penalty)) @ along
            errors[place] += (residuals / (1 - leverage)[:, None]).square().sum()
    weights = axes @ (along / (squares + penalties[errors.argmin()])[:, None])
    scores = torch.cat([_centered(part, mean) @ weights for part in torch.from_numpy(test).split(ROWS)])
    found = np.full((len(test), num_classes), -np.inf)
    found[:, present] = scores + targets.mean(0)
    return found


def _axes(x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return the principal axes (D, r) of clips (n, D), and the sums of squares (r,) along them."""
    clips, width = x.shape
    if width <= clips:
        products = torch.zeros(width, width, dtype=torch.float64)
        for rows in _slices(clips):
            products += gram(_centered(x[rows], mean).mT)
        squares, axes = torch.linalg.eigh(products)
        return squares.clamp_min(0), axes
    z = _centered(x, mean)
    squares, basis = torch.linalg.eigh(gram(z))
    kept = squares > 1e-12 * squares[-1]
    return squares[kept], z.mT @ (basis[:, kept] / squares[kept].sqrt())


def _centered(x: Tensor, mean: Tensor) -> Tensor:
    return x.double() - mean


def _slices(clips: int) -> Iterator[slice]:
    return (slice(start, start + ROWS) for start in range(0, clips, ROWS))

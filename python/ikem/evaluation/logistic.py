"""The logistic probe: penalised regression for small datasets, where features outnumber the clips by far."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from ikem.evaluation.products import gram

COLUMNS = 2048  # features that are looked at a time
MOST_BYTES = 4 << 30  # of the coordinates


class Coordinates(NamedTuple):
    """Clips as the logistic probe sees them: the training clips (n, r) and the test clips (m, r), float32."""

    train: NDArray[np.float32]
    test: NDArray[np.float32]


def require_few(train_clips: int, test_clips: int, features: int) -> None:
    """Refuse what is too large for coordinates of clips to fit into 4 GiB.

    Raises:
        ValueError: if it is; the message names the option.
    """
    needed = 8 * min(train_clips, features) * (train_clips + test_clips)
    if needed > MOST_BYTES:
        raise ValueError(
            f"evaluate.segments: expected 0 for {train_clips} training and {test_clips} test clips with {features} "
            f"features each: logistic regression would need {needed / 2**30:.0f} GiB, it is meant for small datasets"
        )


def coordinates(train: Tensor, test: Tensor) -> Coordinates:
    """Scale features, and give the clips coordinates in the span of the training clips where it is the narrower space.

    Features are scaled to mean 0 and deviation 1 over the training clips (those that hardly vary, to less), and all
    together so that a training clip's squared length is 1 on average. The penalty keeps a regression's weights in the
    span of the training clips, whose products say all. They are summed in float64 over float32 products of a part of
    the features at a time, so that features that are mapped from a file are never held whole. Coordinates are float32,
    which halves the time of a regression and moves probabilities by less than where it stops. Features that are
    the same in all training clips give one coordinate, which is 0.

    Args:
        train: (n, D).
        test: (m, D).
    """
    columns = [slice(start, start + COLUMNS) for start in range(0, train.shape[1], COLUMNS)]
    statistics = [_statistics(train[:, part].double()) for part in columns]
    least = 0.01 * torch.cat([deviation for deviation, _ in statistics]).mean()
    if not least:  # a collapsed encoder: the clips are all at one place, and regression is left with their number
        return Coordinates(*(np.zeros((len(clips), 1), dtype=np.float32) for clips in (train, test)))

    def scaled(features: Tensor, place: int) -> Tensor:
        deviation, mean = statistics[place]
        return (features[:, columns[place]] - mean.float()).div_((deviation + least).float())

    places = range(len(columns))
    if train.shape[1] <= len(train):
        z, z_test = (torch.cat([scaled(x, place) for place in places], dim=1) for x in (train, test))
        length = z.square().sum(1).mean().sqrt()
        return Coordinates(z.div_(length).numpy(), z_test.div_(length).numpy())
    products = torch.zeros(len(train), len(train), dtype=torch.float64)
    test_products = torch.zeros(len(test), len(train), dtype=torch.float64)
    for place in places:
        z, z_test = scaled(train, place), scaled(test, place)
        products += gram(z)
        test_products += z_test @ z.mT
    squared_length = products.diagonal().mean()
    squares, basis = torch.linalg.eigh(products / squared_length)
    kept = squares > 1e-10 * squares[-1]
    basis, lengths = basis[:, kept], squares[kept].sqrt()
    test_coordinates = test_products / squared_length @ (basis / lengths)
    return Coordinates((basis * lengths).float().numpy(), test_coordinates.float().numpy())


def _statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Deviation and mean of each feature, as torch.std_mean has them, in passes over memory in its order."""
    mean = features.mean(0)
    return (features - mean).square_().sum(0).div_(len(features) - 1).sqrt_(), mean


def regression(
    train: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    test: NDArray[np.float32],
    num_classes: int,
    c: float,
) -> NDArray[np.float64]:
    """Return the probabilities (m, L) that L2-penalised logistic regression gives to the classes of the test clips.

    Args:
        train: coordinates (n, r).
        train_labels: (n,).
        test: coordinates (m, r).
        num_classes: L.
        c: inverse strength of the penalty, as scikit-learn counts it.
    """
    # At its usual tolerance of 1e-4 the regression stops far from its end, with probabilities wrong by 0.1.
    model = LogisticRegression(C=c, tol=1e-6, max_iter=10_000).fit(train, train_labels)
    probabilities = np.zeros((len(test), num_classes))
    probabilities[:, model.classes_] = model.predict_proba(test)
    return probabilities


def logistic_probe(
    train: Tensor, train_labels: NDArray[np.int64], test: Tensor, num_classes: int, c: float
) -> NDArray[np.float64]:
    """Return the probabilities (m, L) of :func:`regression` from features (n, D) and (m, D)."""
    clips = coordinates(train, test)
    with threadpool_limits(1, user_api="blas"):  # its products are small, and threads would wait for each other
        return regression(clips.train, train_labels, clips.test, num_classes, c)

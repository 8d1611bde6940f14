"""The logistic probe: penalised regression for small datasets, where wide features outnumber the clips."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor


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

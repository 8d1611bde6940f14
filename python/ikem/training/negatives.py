"""Which entries of a queue are negatives of a query, and with what weight."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ikem_ext import implicit_exchange, info_nce


class Negatives(NamedTuple):
    """Weights w of a queue's entries as negatives: ``log(exp(p) + sum_i w[n, i] exp(s[n, i]))``.

    They depend on groups of entries alone, ``log w[n, i] = sum_e log_weights[n, e] * groups[i, e]``, so that a few more
    components of the vectors express them: with ``q' = [q, t log_weights]``, t the temperature, and
    ``Q' = [Q, groups]``, ``q' Q' / t = q Q / t + log w``. Nothing is added up and taken away again, and no array of
    queries times queue is made: the losses see vectors that are E components wider, which costs about E / C more.

    Attributes:
        log_weights: (N, E); `nothing` for a weight of 0.
        groups: (K, E), of zeros and ones.
    """

    log_weights: Tensor
    groups: Tensor

    def contrast(self, q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
        """Return the InfoNCE (G,) of q, k (G, N, C) and the queue (G, K, C), as `ikem_ext.info_nce` without weights."""
        k, queue = self._keys(k, queue)
        bias = (temperature * self.log_weights).to(q.dtype)
        return info_nce(torch.cat((q, bias.expand(len(q), -1, -1)), dim=-1), k, queue, temperature)

    def implicit(self, h: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
        """Return the implicit exchange (H,) of h (H, N, G * C), as `ikem_ext.implicit_exchange` without weights."""
        k, queue = self._keys(k, queue)
        # The concatenations are divided by sqrt(G); the bias stands in the first modality's part of h.
        bias = (temperature * len(k) ** 0.5 * self.log_weights).to(h.dtype)
        parts = h.unflatten(-1, (len(k), -1))
        biases = functional.pad(bias[:, None], (0, 0, 0, len(k) - 1)).expand(len(h), -1, -1, -1)
        return implicit_exchange(torch.cat((parts, biases), dim=-1).flatten(2), k, queue, temperature)

    def _keys(self, k: Tensor, queue: Tensor) -> tuple[Tensor, Tensor]:
        groups = self.groups.to(queue.dtype).expand(len(queue), -1, -1)
        return functional.pad(k, (0, groups.shape[-1])), torch.cat((queue, groups), dim=-1)

    @staticmethod
    def joined(several: list[Negatives]) -> Negatives:
        """Return what multiplies the weights of several."""
        return Negatives(
            torch.cat([each.log_weights for each in several], dim=1),
            torch.cat([each.groups for each in several], dim=1),
        )


def nothing(temperature: float) -> float:
    """Return the logarithm of a weight that leaves nothing of any similarity within [-1, 1], beside any other.

    It is finite, as it is multiplied by zeros too.
    """
    return -(2 / temperature + 100)


def without_own_clip(clips: Tensor, queue_clips: Tensor, temperature: float) -> Negatives:
    """Let entries of a query's own clip be no negatives of it.

    Args:
        clips: (N,) int64, of the queries, all different.
        queue_clips: (K,) int64, of the entries.
        temperature: of the loss.

    Example:
        >>> own = without_own_clip(torch.tensor([7, 3]), torch.tensor([-1, 3, 5, 7]), temperature=0.5)
        >>> own.log_weights @ own.groups.T
        tensor([[   0.,    0.,    0., -104.],
                [   0., -104.,    0.,    0.]])
    """
    groups = (queue_clips[:, None] == clips).float()
    return Negatives(torch.eye(len(clips), device=clips.device) * nothing(temperature), groups)


def by_subject(
    clips: Tensor,
    queue_clips: Tensor,
    subjects: Tensor,
    num_subjects: int,
    same: float,
    other: float,
    temperature: float,
) -> Negatives:
    """Weigh entries of a query's own subject, and those of others.

    Args:
        clips: (N,) int64, of the queries.
        queue_clips: (K,) int64, of the entries; -1 counts as another subject's.
        subjects: of every clip, int64 from 0 to S - 1.
        num_subjects: S.
        same: weight of the own subject's entries.
        other: weight of the others'.
        temperature: of the loss.

    Source: Yarici et al., "Subject Invariant Contrastive Learning for Human Activity Recognition", arXiv 2507.03250,
    which weighs negatives of the same subject.

    Example:
        >>> weights = by_subject(torch.tensor([0]), torch.tensor([2, 1, -1]), torch.tensor([0, 1, 0]), 2, 0.5, 1.0, 0.1)
        >>> (weights.log_weights @ weights.groups.T).exp()
        tensor([[0.5000, 1.0000, 1.0000]])
    """
    mine, others = (math.log(weight) if weight else nothing(temperature) for weight in (same, other))
    columns = torch.arange(num_subjects + 1, device=clips.device)  # the last one is of entries of no clip
    groups = torch.where(queue_clips < 0, num_subjects, subjects[queue_clips])[:, None] == columns
    own = subjects[clips][:, None] == columns
    return Negatives(torch.where(own, mine, others), groups.float())

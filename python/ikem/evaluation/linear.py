"""The linear probe: linear classifiers on frozen features, one for each stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ikem.config import ProbeConfig
from ikem.evaluation.split import Indices
from ikem.evaluation.streams import Streams
from ikem.evaluation.workers import threads_for
from ikem.seeding import derive_seed


class LinearHeads(nn.Module):
    """All linear classifiers of one evaluation side by side: one per modality of every trained stream.

    A stream's logits are the average of its heads' logits, so that all streams are trained in one batched product.

    Args:
        streams: G modalities and their fusions.
        in_width: D.
        num_classes: L.
        generator: draws the initial weights from N(0, 0.02), as published.
        batch_norm: normalize every feature over the batch, and for predictions by the running mean and variance.
    """

    mixing: Tensor
    modality_of_head: Tensor

    def __init__(
        self,
        streams: Streams,
        in_width: int,
        num_classes: int,
        generator: torch.Generator,
        *,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        width = len(streams.modalities) * in_width
        self.norm = nn.BatchNorm1d(width, eps=1e-6, affine=False) if batch_norm else None
        self.streams = streams
        modality_of_head = torch.tensor([place for members in streams.trained.values() for place in members])
        self.register_buffer("modality_of_head", modality_of_head)
        heads = len(modality_of_head)
        self.weight = nn.Parameter(torch.randn(heads, in_width, num_classes, generator=generator) * 0.02)
        self.bias = nn.Parameter(torch.zeros(heads, 1, num_classes))
        mixing = torch.zeros(len(streams.trained), heads)
        first = 0
        for row, members in zip(mixing, streams.trained.values(), strict=True):
            row[first : first + len(members)] = 1 / len(members)
            first += len(members)
        self.register_buffer("mixing", mixing)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (G, n, D) to the logits of the trained streams, (streams, n, L)."""
        if self.norm is not None:
            modalities, _, width = features.shape
            flat = self.norm(features.transpose(0, 1).flatten(1))
            features = flat.unflatten(1, (modalities, width)).transpose(0, 1)
        logits = torch.baddbmm(self.bias, features.index_select(0, self.modality_of_head), self.weight)
        return torch.einsum("sh,hnl->snl", self.mixing, logits)

    @torch.inference_mode()
    def predict(self, features: Tensor) -> Tensor:
        """Return the probabilities (streams, n, L) of all streams, the late ones too, a part of the clips at a time."""
        self.eval()
        trained = torch.cat([self(part).softmax(-1) for part in features.split(2048, dim=1)], dim=1)
        # The single modalities come first, so modality i alone is stream i.
        late = [trained[list(members)].mean(0) for members in self.streams.late.values()]
        return torch.stack([*trained, *late])


@dataclass(frozen=True)
class ProbeResult:
    """What a linear probe has learned.

    Attributes:
        heads: the classifiers.
        probabilities: of the test clips after the last epoch, (streams, n, L).
        best_top1: the best epoch's top-1, (streams,) for each test part.
    """

    heads: LinearHeads
    probabilities: Tensor
    best_top1: dict[str, Tensor]


def linear_probe(
    train: Callable[[int], Tensor],
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    parts: Mapping[str, Indices],
    streams: Streams,
    num_classes: int,
    options: ProbeConfig,
    seed: int,
) -> ProbeResult:
    """Train linear classifiers on frozen features by SGD with momentum 0.9 (Wei et al., arXiv 2309.12009).

    The test clips have no part in it: after every epoch they are classified, so that the best one can be told, and
    where no part of them asks for that, after the last one alone.

    Args:
        train: maps an epoch to the features of the training clips in it, (G, n, D).
        train_labels: (n,).
        test: features of all test clips, (G, m, D).
        test_labels: (m,).
        parts: positions in the test clips, by name of the part whose best epoch is told.
        streams: what is trained and fused.
        num_classes: L.
        options: of the probe.
        seed: of initial weights and order.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "probe"))
    heads = LinearHeads(streams, test.shape[-1], num_classes, generator, batch_norm=options.batch_norm).to(test.device)
    optimizer = torch.optim.SGD(
        heads.parameters(), lr=options.learning_rate, momentum=0.9, weight_decay=options.weight_decay
    )
    best = {part: torch.zeros(len(streams.all), dtype=torch.float64, device=test.device) for part in parts}
    for epoch in range(options.epochs):
        features = train(epoch)
        order = torch.randperm(len(train_labels), generator=generator).to(test.device)
        with threads_for(options.batch_size * heads.weight.numel()):
            _train_epoch(heads, optimizer, features, train_labels, order, options, epoch)
            if parts or epoch == options.epochs - 1:
                probabilities = heads.predict(test)
                correct = (probabilities.argmax(-1) == test_labels).double()
        best = {part: best[part].maximum(correct[:, clips].mean(-1)) for part, clips in parts.items()}
    return ProbeResult(heads, probabilities.cpu(), {part: values.cpu() for part, values in best.items()})


def _train_epoch(
    heads: LinearHeads,
    optimizer: torch.optim.Optimizer,
    features: Tensor,
    labels: Tensor,
    order: Tensor,
    options: ProbeConfig,
    epoch: int,
) -> None:
    heads.train()
    batches = order.split(options.batch_size)
    for step, clips in enumerate(batches):
        if options.batch_norm and len(clips) == 1 < len(order):
            continue  # one clip has no deviation
        optimizer.param_groups[0]["lr"] = options.learning_rate_at(epoch + step / len(batches))
        logits = heads(features.index_select(1, clips))
        targets = labels[clips].expand(len(logits), -1)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten()) * len(logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

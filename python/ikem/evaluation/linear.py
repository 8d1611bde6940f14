"""The linear probe: linear classifiers on frozen features, one for each stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ikem.config import EvaluateConfig
from ikem.evaluation.split import Indices
from ikem.evaluation.streams import Streams
from ikem.seeding import derive_seed


class LinearHeads(nn.Module):
    """All linear classifiers of one evaluation side by side: one per modality of every trained stream.

    A stream's logits are the average of its heads' logits, so that all streams are trained in one batched product.

    Args:
        streams: G modalities and their fusions.
        in_width: D.
        num_classes: L.
        generator: draws the initial weights from N(0, 0.02), as published.
    """

    mixing: Tensor

    def __init__(self, streams: Streams, in_width: int, num_classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.streams = streams
        self.modality_of_head = [modality for members in streams.trained.values() for modality in members]
        heads = len(self.modality_of_head)
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
        logits = torch.baddbmm(self.bias, features[self.modality_of_head], self.weight)
        return torch.einsum("sh,hnl->snl", self.mixing, logits)

    @torch.inference_mode()
    def predict(self, features: Tensor) -> Tensor:
        """Return the probabilities (streams, n, L) of all streams, the late ones too, a part of the clips at a time."""
        trained = torch.cat([self(part).softmax(-1) for part in features.split(2048, dim=1)], dim=1)
        # The single modalities come first, so modality i alone is stream i.
        late = [trained[list(members)].mean(0) for members in self.streams.late.values()]
        return torch.stack([*trained, *late])


@dataclass(frozen=True)
class ProbeResult:
    """Probabilities (streams, n, L) after the last epoch, and the best epoch's top-1 per test part and stream."""

    probabilities: Tensor
    best_top1: dict[str, Tensor]


def linear_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    parts: Mapping[str, Indices],
    streams: Streams,
    num_classes: int,
    options: EvaluateConfig,
    seed: int,
) -> ProbeResult:
    """Train linear classifiers on frozen features by SGD with momentum 0.9 (Wei et al., arXiv 2309.12009).

    Args:
        train: features of the training clips, (G, n, D).
        train_labels: (n,).
        test: features of all test clips, (G, m, D).
        test_labels: (m,).
        parts: positions in the test clips, by name of the part.
        streams: what is trained and fused.
        num_classes: L.
        options: of the probe.
        seed: of initial weights and order.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "probe"))
    heads = LinearHeads(streams, train.shape[-1], num_classes, generator).to(train.device)
    optimizer = torch.optim.SGD(
        heads.parameters(), lr=options.learning_rate, momentum=0.9, weight_decay=options.weight_decay
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(options.milestones), gamma=0.1)
    best = {part: torch.zeros(len(streams.all), dtype=torch.float64, device=train.device) for part in parts}
    for _ in range(options.epochs):
        for clips in torch.randperm(len(train_labels), generator=generator).split(options.batch_size):
            logits = heads(train[:, clips])
            labels = train_labels[clips].expand(len(logits), -1)
            loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten()) * len(logits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        probabilities = heads.predict(test)
        correct = (probabilities.argmax(-1) == test_labels).double()
        best = {part: best[part].maximum(correct[:, clips].mean(-1)) for part, clips in parts.items()}
    return ProbeResult(probabilities.cpu(), {part: values.cpu() for part, values in best.items()})

"""Heads on top of an encoder's features, and the stream of one modality: encoder and projection."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ikem.cuda_graphs import side_by_side
from ikem.encoders.encoder import Encoder, Initialization


def mlp(
    in_width: int, hidden_width: int, out_width: int, initialization: Initialization = "published"
) -> nn.Sequential:
    """Return the two-layer head of the method, ``in -> hidden -> ReLU -> out``.

    Weights are drawn as for the encoder and biases are 0: ``published`` from N(0, 0.02) (Wei et al.,
    arXiv 2309.12009, published code); ``kaiming`` from N(0, 2 / fan_in). As embeddings are normalized, small weights
    make large steps: heads much narrower than the published ones collapse if they start as small.

    Example:
        >>> mlp(256, 256, 128)(torch.zeros(4, 256)).shape
        torch.Size([4, 128])
    """
    head = nn.Sequential(nn.Linear(in_width, hidden_width), nn.ReLU(), nn.Linear(hidden_width, out_width))
    for layer in head:
        if isinstance(layer, nn.Linear):
            if initialization == "published":
                nn.init.normal_(layer.weight, 0.0, 0.02)
            else:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return head


def unit(x: Tensor) -> Tensor:
    """L2-normalize the last axis in at least float32, whatever precision the network runs in.

    Example:
        >>> unit(torch.tensor([3.0, 4.0]))
        tensor([0.6000, 0.8000])
    """
    return functional.normalize(x if x.dtype == torch.float64 else x.float(), dim=-1)


class Stream(nn.Module):
    """The network of one modality: an encoder and the projection of its features to the unit sphere.

    Args:
        encoder: maps (N, 3, T, V, M) to features (N, F).
        projection: maps features (N, F) to embeddings (N, C).
    """

    def __init__(self, encoder: Encoder, projection: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = projection

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features (N, F) of skeletons (N, 3, T, V, M) and their normalized embeddings (N, C)."""
        features = self.encoder(x)
        return features, unit(self.projection(features))


def embed(streams: nn.ModuleDict, x: Tensor) -> tuple[Tensor, Tensor]:
    """Send each modality through its stream; side by side where the work is captured in a CUDA graph.

    Args:
        streams: G streams.
        x: (G, N, 3, T, V, M), in the order of the streams.

    Returns:
        Features (G, N, F) and normalized embeddings (G, N, C).
    """
    calls = [partial(stream, part) for stream, part in zip(streams.values(), x, strict=True)]
    features, embeddings = zip(*side_by_side(calls, x.device), strict=True)
    return torch.stack(features), torch.stack(embeddings)


def encoders_of(streams: nn.ModuleDict) -> dict[str, Encoder]:
    """Return the encoders of streams, by modality."""
    return {modality: cast(Encoder, stream.encoder) for modality, stream in streams.items()}

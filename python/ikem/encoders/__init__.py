"""Encoders from skeleton sequences to feature vectors, chosen by name in the configuration."""

from __future__ import annotations

from ikem.config import EncoderConfig
from ikem.encoders.agcn import AGCN
from ikem.encoders.ctr_gcn import CTRGCN
from ikem.encoders.encoder import Encoder
from ikem.encoders.hcn import HCN
from ikem.encoders.heads import Stream, embed, encoders_of, mlp, unit
from ikem.encoders.st_gcn import STGCN, load_published_state_dict
from ikem_ext.skeleton import SkeletonLayout

__all__ = [
    "AGCN",
    "CTRGCN",
    "HCN",
    "STGCN",
    "Encoder",
    "Stream",
    "build_encoder",
    "build_stream",
    "embed",
    "encoders_of",
    "load_published_state_dict",
    "mlp",
    "unit",
]

#: By the name that the configuration gives them.
ARCHITECTURES: dict[str, type[Encoder]] = {"st_gcn": STGCN, "agcn": AGCN, "ctrgcn": CTRGCN, "hcn": HCN}


def build_stream(config: EncoderConfig, layout: SkeletonLayout, hidden_width: int, width: int) -> Stream:
    """Build the stream of one modality: an encoder, and the projection of its features to embeddings of a width."""
    encoder = build_encoder(config, layout)
    return Stream(encoder, mlp(encoder.feature_width, hidden_width, width, config.initialization))


def build_encoder(config: EncoderConfig, layout: SkeletonLayout) -> Encoder:
    """Build the encoder that a configuration describes.

    Args:
        config: the encoder's architecture, sizes and initialization.
        layout: the skeleton whose graph the encoder convolves over.

    Returns:
        A freshly initialized encoder that maps (N, 3, T, V, M) to (N, ``encoder.feature_width``).

    Raises:
        ValueError: if the layout does not tell what the pooling needs.

    Example:
        >>> import torch
        >>> from ikem_ext.skeleton import get_layout
        >>> encoder = build_encoder(EncoderConfig(base_width=4, feature_width=24), get_layout("ntu25"))
        >>> encoder(torch.zeros(2, 3, 16, 25, 2)).shape
        torch.Size([2, 24])
        >>> build_encoder(EncoderConfig(feature_width=24, pooling="parts"), get_layout("ntu25")).feature_width
        120
    """
    return ARCHITECTURES[config.architecture](
        layout,
        base_width=config.base_width,
        feature_width=config.feature_width,
        dropout=config.dropout,
        initialization=config.initialization,
        pooling=config.pooling,
    )

"""The encoder of one modality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ikem.config.checks import require, require_one_of


@dataclass
class EncoderConfig:
    """The encoder of one modality.

    Attributes:
        architecture: ``st_gcn``, the method's; ``agcn``, one stream of 2s-AGCN; ``ctrgcn``, CTR-GCN; or
            ``hcn``, HCN, for which joints are channels.
        base_width: channels of the first blocks (of ``hcn``, a quarter of conv1's); a multiple of 4 for ``agcn``, of 8
            for ``ctrgcn``.
        feature_width: channels of the last block, the width of the features unless ``pooling`` says otherwise; likewise
            a multiple.
        dropout: probability.
        initialization: of encoders and heads: ``published``, N(0, 0.02); or ``kaiming``.
        pooling: what of the last block's output are the features that heads and probes see: ``mean``, over time and
            joints; ``joints``, the means over time of every joint, V times as wide; or ``parts``, those of both arms,
            both legs and the trunk (of a hand: fingers and palm), 5 (6) times as wide. ``hcn`` knows ``mean`` alone,
            over time, base_width / 8 times as wide.
        batch_norm: where several processes train, what batch norms take their statistics from: ``local``, the
            process's own share of the batch; ``sync``, the whole batch; or ``shuffle``, ``local`` with the batch dealt
            out to the key encoders of pretraining in another order, as in MoCo. All are one on one process.
    """

    architecture: Literal["st_gcn", "agcn", "ctrgcn", "hcn"] = "st_gcn"
    base_width: int = 16
    feature_width: int = 256
    dropout: float = 0.5
    initialization: Literal["published", "kaiming"] = "published"
    pooling: Literal["mean", "joints", "parts"] = "mean"
    batch_norm: Literal["local", "sync", "shuffle"] = "local"

    def __post_init__(self) -> None:
        multiples = {"st_gcn": 1, "agcn": 4, "ctrgcn": 8, "hcn": 1}
        require(
            self.architecture in multiples,
            f"encoder.architecture: expected one of {', '.join(multiples)}, got {self.architecture}",
        )
        multiple = multiples[self.architecture]
        for name in ("base_width", "feature_width"):
            width = getattr(self, name)
            require(
                width >= 1 and width % multiple == 0,
                f"encoder.{name}: expected a positive multiple of {multiple} for {self.architecture}, got {width}",
            )
        require(0 <= self.dropout < 1, f"encoder.dropout: expected in [0, 1), got {self.dropout}")
        require_one_of("encoder.pooling", self.pooling, ("mean", "joints", "parts"))
        require(
            self.architecture != "hcn" or self.pooling == "mean",
            f"encoder.pooling: expected mean for hcn, whose maps have no joints, got {self.pooling}",
        )
        require_one_of("encoder.batch_norm", self.batch_norm, ("local", "sync", "shuffle"))

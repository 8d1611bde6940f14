"""The whole configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ikem.config.checks import require_at_least
from ikem.config.data import DataConfig
from ikem.config.distill import DistillConfig
from ikem.config.encoder import EncoderConfig
from ikem.config.evaluate import EvaluateConfig
from ikem.config.finetune import FinetuneConfig
from ikem.config.pretrain import PretrainConfig
from ikem.config.trainer import TrainerConfig
from ikem.config.views import ViewsConfig


@dataclass
class Config:
    """A run: pretraining, distillation, finetuning and evaluation on one dataset and protocol.

    Attributes:
        run: the run's folder.
        seed: of everything random.
    """

    run: Path = Path("runs/ntu60-xsub")
    seed: int = 1
    data: DataConfig = field(default_factory=DataConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        require_at_least("seed", self.seed, 0)

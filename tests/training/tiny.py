"""A configuration so small that a whole run takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ikem.config import Config, DataConfig, DistillConfig, EncoderConfig, EvaluateConfig, PretrainConfig, TrainerConfig


def tiny_config(run: Path, folder: Path, pretrain: dict[str, Any] | None = None, **others: Any) -> Config:
    """Two epochs of stage 1 and one of stage 2 on batches of 8, with dropout, so that randomness matters."""
    schedule = {"learning_rate": 0.02, "milestones": (2,), "queue_length": 20}
    return Config(
        run=run,
        data=DataConfig(folder, "halves", batch_size=8),
        encoder=EncoderConfig(base_width=2, feature_width=6, dropout=0.2),
        pretrain=PretrainConfig(
            **{
                "epochs": 3,
                "exchange_epoch": 2,
                "embedding_width": 4,
                "key_momentum": 0.9,
                "modalities": ("joint", "motion", "bone"),
                **schedule,
                **(pretrain or {}),
            }
        ),
        distill=DistillConfig(**{"epochs": 2, "modalities": ("joint", "bone"), **schedule}),
        evaluate=EvaluateConfig(epochs=4, learning_rate=0.1, milestones=(3,), batch_size=8),
        **{"trainer": TrainerConfig(accelerator="cpu", progress=False, accuracy_every=1), **others},
    )

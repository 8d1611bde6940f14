"""A small trained run in the place of the demo's, as a user finds it after training."""

from __future__ import annotations

from pathlib import Path

import pytest

from ikem.config import Config, DataConfig, DistillConfig, EncoderConfig, EvaluateConfig, PretrainConfig, TrainerConfig


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``runs/demo`` in it: recordings, prepared data, six modalities pretrained, distilled, evaluated.

    Its numbers are of no worth, as it was trained for seconds. Not to be written to: what a command makes belongs into
    a folder of the test's own.
    """
    from ikem.data.prepare import prepare
    from ikem.data.synthetic import synthesize
    from ikem.distill import distill
    from ikem.evaluate import evaluate
    from ikem.pretrain import pretrain

    folder = tmp_path_factory.mktemp("demo")
    run = folder / "runs" / "demo"
    run.mkdir(parents=True)
    synthesize(run / "recordings.npz", subjects=4, repetitions=1)
    prepare("npz", run / "recordings.npz", run / "data", frames=25)
    config = demo_config(run)
    pretrain(config)
    distill(config)
    evaluate(config)
    return folder


def demo_config(run: Path) -> Config:
    """The demo's configuration, but narrow and short."""
    return Config(
        run=run,
        data=DataConfig(run / "data", "cross-subject", batch_size=12),
        encoder=EncoderConfig(base_width=2, feature_width=8, dropout=0.0, initialization="kaiming"),
        pretrain=PretrainConfig(epochs=2, exchange_epoch=1, learning_rate=0.05, queue_length=24, embedding_width=4),
        distill=DistillConfig(epochs=1, learning_rate=0.05, queue_length=24),
        evaluate=EvaluateConfig(epochs=20, learning_rate=0.1, milestones=(16,), standardize=True, fusion=("learned",)),
        trainer=TrainerConfig(accelerator="cpu", progress=False),
    )

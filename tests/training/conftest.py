"""A prepared dataset and a configuration so small that a whole run takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from training.tiny import tiny_config

from ikem.config import Config, PretrainConfig
from ikem.data.dataset import Clip, PreparedDataset, write_dataset
from ikem.data.preprocess import Preprocessing
from ikem_ext import get_layout

CLASSES = 3
CLIPS = 40


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 clips of 3 classes, which differ in how the joints move; 20 to train, 20 to test, 10 of them marked."""
    random = np.random.default_rng(0)
    layout = get_layout("sbu15")
    labels = np.arange(CLIPS) % CLASSES
    paths = random.normal(size=(CLASSES, 3, 8, layout.num_joints, 1)).cumsum(2)
    clips = [Clip(f"clip{i}", int(label), i % 4, None, None, None, 30 + i) for i, label in enumerate(labels)]
    folder = tmp_path_factory.mktemp("data") / "prepared"
    test = list(range(20, CLIPS))
    write_dataset(
        folder,
        joints=0.3 * paths[labels] + 0.1 * random.normal(size=(CLIPS, 3, 8, layout.num_joints, 1)),
        clips=clips,
        classes=["walk", "wave", "sit"],
        layout=layout,
        source="npz",
        preprocessing=asdict(Preprocessing(8, 1, center="frame", align="none", lost_frames="interpolate")),
        protocols={"halves": {"train": list(range(20)), "test": test, "test_marked": test[::2]}},
    )
    return folder


@pytest.fixture
def dataset(dataset_folder: Path) -> PreparedDataset:
    return PreparedDataset(dataset_folder)


@pytest.fixture
def config(tmp_path: Path, dataset_folder: Path) -> Callable[..., Config]:
    """Makes tiny configurations of a run in a folder of the test's own."""
    return lambda name="run", **options: tiny_config(tmp_path / name, dataset_folder, **options)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, dataset_folder: Path) -> Config:
    """The configuration of a run of all six modalities that was pretrained, distilled and evaluated."""
    from ikem.distill import distill
    from ikem.evaluate import evaluate
    from ikem.pretrain import pretrain

    run = tmp_path_factory.mktemp("runs") / "finished"
    config = tiny_config(run, dataset_folder, pretrain={"modalities": PretrainConfig().modalities})
    pretrain(config)
    distill(config)
    evaluate(config)
    return config

"""Poses of people in images, from points in pixels to an evaluated student, by the commands that any data takes."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from training.tiny import tiny_config

from ikem.config import PretrainConfig, ViewsConfig
from ikem.data.dataset import Clip, PreparedDataset, write_dataset
from ikem.data.preprocess import Preprocessing
from ikem.data.views import RandomViews
from ikem.distill import distill
from ikem.evaluate import evaluate
from ikem.pretrain import pretrain
from ikem.report import report
from ikem_ext import get_layout

CLIPS, FRAMES = 40, 12


def record(label: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points in pixels (2, frames, 17, 1) of somebody who nods or waves, some lost, and confidences."""
    stand = 100 * np.random.default_rng(0).random(size=(2, 1, 17)) + 300
    swing = 20 * np.sin(np.arange(FRAMES) * (1 + label) / 2 + random.uniform(0, 6))
    points = stand + random.normal(size=(2, FRAMES, 17))
    points[1, :, 9 if label else 0] += swing
    confidence = random.uniform(0.3, 1, size=(FRAMES, 17))
    lost = random.random((FRAMES, 17)) < 0.05
    points[:, lost], confidence[lost] = 0, 0
    return points[..., None], confidence[..., None]


def prepare_poses(folder: Path, third: Literal["zero", "confidence"]) -> None:
    random, layout = np.random.default_rng(1), get_layout("coco17")
    preprocessing = Preprocessing(8, 1, center="frame", align="none", lost_frames="interpolate", third=third)
    clips = [Clip(str(i), i % 2, i // 2 % 4, None, None, None, FRAMES) for i in range(CLIPS)]
    recordings = [record(i % 2, random) for i in range(CLIPS)]
    write_dataset(
        folder,
        joints=[preprocessing(points, layout, confidence=told).joints for points, told in recordings],
        clips=clips,
        classes=["nod", "wave"],
        layout=replace(layout, third=third),
        source="poses",
        preprocessing={},
        protocols={"halves": {"train": list(range(20)), "test": list(range(20, CLIPS))}},
    )


@pytest.mark.parametrize("third", ["zero", "confidence"])
def test_pretrain_distill_and_evaluate(tmp_path: Path, third: Any) -> None:
    prepare_poses(tmp_path / "data", third)
    config = tiny_config(
        tmp_path / "run",
        tmp_path / "data",
        pretrain={"modalities": PretrainConfig().modalities},
        views=ViewsConfig(turn_degrees=20, tilt_degrees=10, bone_jitter=0.1, least_window=0.7),
    )
    for train in (pretrain, distill):
        train(config)
        with (config.run / train.__name__ / "metrics.csv").open(newline="") as file:
            losses = [float(row["loss"]) for row in csv.DictReader(file)]
        assert np.isfinite(losses).all()
    evaluate(config)
    report(config)
    assert "student" in (config.run / "report.md").read_text()


@pytest.mark.parametrize("third", ["zero", "confidence"])
def test_views_stay_in_the_plane(tmp_path: Path, third: Any) -> None:
    prepare_poses(tmp_path / "data", third)
    dataset = PreparedDataset(tmp_path / "data")
    views = RandomViews(ViewsConfig(turn_degrees=40, tilt_degrees=40, bone_jitter=0.2, least_window=0.5), 8, 17)
    joints, num_frames = torch.from_numpy(np.array(dataset.joints)), torch.from_numpy(dataset.num_frames)
    view = views(CLIPS, torch.Generator().manual_seed(0))
    joint, motion, axis = view.derive(joints, num_frames, dataset.layout, ("joint", "motion", "rotation_axis"))
    assert (motion[:, 2] == 0).all()
    limbs = [joint for joint, partner in enumerate(dataset.layout.angle_partners) if partner != dataset.layout.root]
    assert (axis[:, :2, :, limbs] == 0).all()
    assert axis[:, 2, :, limbs].any()
    if third == "zero":
        assert (joint[:, 2] == 0).all()
    else:
        assert 0 <= joint[:, 2].min() < 0.3 < joint[:, 2].max() <= 1

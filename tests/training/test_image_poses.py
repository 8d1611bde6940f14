"""Poses of people in images, from points in pixels to an evaluated student, by the commands that any data takes."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from training.tiny import tiny_config

from ikem.cli import main
from ikem.config import PretrainConfig, ViewsConfig
from ikem.data.dataset import PreparedDataset
from ikem.data.views import RandomViews
from ikem.distill import distill
from ikem.evaluate import evaluate
from ikem.pretrain import pretrain
from ikem.report import report

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


@pytest.fixture
def prepared(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The data set that the command makes of such recordings, as PYSKL has them in a pickle."""
    random = np.random.default_rng(1)
    annotations = []
    for clip in range(CLIPS):
        points, confidence = record(clip % 2, random)
        annotations.append(
            {
                "frame_dir": f"clip{clip}",
                "label": clip % 2,
                "total_frames": FRAMES,
                "img_shape": (480, 640),
                "keypoint": points.transpose(3, 1, 2, 0).astype(np.float16),
                "keypoint_score": confidence.transpose(2, 0, 1).astype(np.float16),
            }
        )
    names = [annotation["frame_dir"] for annotation in annotations]
    split = {"halves_train": names[:20], "halves_val": names[20:]}
    (tmp_path / "poses.pkl").write_bytes(pickle.dumps({"split": split, "annotations": annotations}))
    folder = tmp_path / "data"
    main(["prepare", "pyskl", str(tmp_path / "poses.pkl"), str(folder), "--frames", "8", "--third", request.param])
    return folder


both = pytest.mark.parametrize("prepared", ["zero", "confidence"], indirect=True)


@both
def test_pretrain_distill_and_evaluate(tmp_path: Path, prepared: Path) -> None:
    config = tiny_config(
        tmp_path / "run",
        prepared,
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


@both
def test_views_stay_in_the_plane(prepared: Path) -> None:
    dataset = PreparedDataset(prepared)
    assert (dataset.layout.name, dataset.joints.shape) == ("coco17", (CLIPS, 3, 8, 17, 1))
    changes = {"bone_jitter": 0.2, "least_window": 0.5, "mirror_probability": 0.5, "speed": (0.5, 2), "jitter": 0.1}
    views = RandomViews(ViewsConfig(turn_degrees=40, tilt_degrees=40, scale=(0.8, 1.2), **changes), 8, 17)
    joints, num_frames = torch.from_numpy(np.array(dataset.joints)), torch.from_numpy(dataset.num_frames)
    view = views(CLIPS, torch.Generator().manual_seed(0))
    joint, motion, axis = view.derive(joints, num_frames, dataset.layout, ("joint", "motion", "rotation_axis"))
    assert (motion[:, 2] == 0).all()
    limbs = [joint for joint, partner in enumerate(dataset.layout.angle_partners) if partner != dataset.layout.root]
    assert (axis[:, :2, :, limbs] == 0).all()
    assert axis[:, 2, :, limbs].any()
    if dataset.layout.third == "zero":
        assert (joint[:, 2] == 0).all()
    else:
        assert 0 <= joint[:, 2].min() < 0.3 < joint[:, 2].max() <= 1

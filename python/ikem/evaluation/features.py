"""Features of clips: extracted once, in eval mode and without augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.nn import functional

from ikem.data.dataset import PreparedDataset
from ikem.encoders import Encoder
from ikem.evaluation.split import Indices
from ikem_ext import derive_modalities

EXTRACTION_BATCH = 128  # clips


class Features(NamedTuple):
    """Features of clips by G modalities, on the CPU in float32.

    Attributes:
        means: over time and joints, (G, n, F).
        parts: every joint apart, averaged over each of S parts of time, (G, n, F * S * V); without parts if S = 0.
    """

    means: Tensor
    parts: Tensor


@torch.inference_mode()
def extract_features(
    encoders: Mapping[str, Encoder],
    dataset: PreparedDataset,
    clips: Indices,
    *,
    segments: int = 0,
    fabric: Fabric,
) -> Features:
    """Encode clips in eval mode and without augmentation.

    Args:
        encoders: G encoders by modality.
        dataset: where the clips are.
        clips: (n,) indices into the dataset.
        segments: S, into how many parts of time the features of single joints are averaged.
        fabric: device and precision.
    """
    models = [encoder.to(fabric.device).eval() for encoder in encoders.values()]
    batches = []
    for start in range(0, len(clips), EXTRACTION_BATCH):
        some = clips[start : start + EXTRACTION_BATCH]
        joints, num_frames = (
            torch.from_numpy(values[some]).to(fabric.device) for values in (dataset.joints, dataset.num_frames)
        )
        derived = derive_modalities(joints, num_frames, dataset.layout, modalities=tuple(encoders))
        with fabric.autocast():
            maps = torch.stack([model.feature_map(part) for model, part in zip(models, derived, strict=True)]).float()
        by_parts = functional.adaptive_avg_pool2d(maps.flatten(0, 1), (max(segments, 1), maps.shape[-1]))
        parts = by_parts[:, :, :segments].reshape(*maps.shape[:2], -1)
        batches.append(Features(maps.mean((3, 4)).cpu(), parts.cpu()))
    return Features(*(torch.cat(tensors, dim=1) for tensors in zip(*batches, strict=True)))


def standardize(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Scale every feature to mean 0 and deviation 1 over the training clips (axis 1)."""
    deviation, mean = torch.std_mean(train, dim=1, keepdim=True)
    deviation = deviation.clamp_min(1e-12)  # of a feature that never fires; others may be small
    return (train - mean) / deviation, (test - mean) / deviation

"""Features of clips: what frozen encoders make of them, in eval mode and, unless asked for, without augmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.nn import functional

from ikem.config import TrainerConfig
from ikem.data.dataset import PreparedDataset
from ikem.data.views import View
from ikem.encoders import Encoder
from ikem.evaluation.split import Indices
from ikem.evaluation.workers import side_by_side
from ikem_ext import SkeletonLayout, derive_modalities
from ikem_ext.layout_mapping import LayoutMapping
from ikem_ext.nn import folded

BATCH, BATCH_ON_CPU = 128, 32  # clips; on a CPU what lies between the layers of few clips stays in the caches

#: Maps the original lengths (n,) of clips to how they are seen.
Look = Callable[[Tensor], View]


class Features(NamedTuple):
    """Features of clips by G modalities, on the CPU.

    Attributes:
        means: over time and joints, (G, n, F), float32; or what else the encoders' pooling makes of their maps.
        parts: every joint apart, averaged over each of S parts of time, (G, n, F * S * V); without parts if S = 0.
    """

    means: Tensor
    parts: Tensor


def extract_features(
    encoders: Mapping[str, Encoder],
    dataset: PreparedDataset,
    clips: Indices,
    *,
    fabric: Fabric,
    segments: int = 0,
    look: Look | None = None,
    mapping: LayoutMapping | None = None,
    folder: Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> Features:
    """Encode clips by copies of the encoders in eval mode, whose batch norms are parts of their convolutions.

    Args:
        encoders: G encoders by modality.
        dataset: where the clips are.
        clips: (n,) indices into the dataset.
        fabric: device and precision.
        segments: S, into how many parts of time the features of single joints are averaged.
        look: how the clips are seen; by default as they are.
        mapping: from the dataset's skeleton to that of the encoders, where it is another.
        folder: the features of single joints are in a mapped file there, which has no name and so ends with the
            process; by default they are in memory.
        dtype: of the features of single joints, float32 or float16.

    Raises:
        ValueError: if features are too large for float16.
    """
    first = next(iter(encoders.values()))
    means = torch.empty(len(encoders), len(clips), first.feature_width)
    layout = mapping.target if mapping else dataset.layout
    parts = _empty((len(encoders), len(clips), first.map_width * segments * first.map_joints), dtype, folder)
    view = look(torch.from_numpy(dataset.num_frames[clips])) if look else None
    batch = BATCH_ON_CPU if fabric.device.type == "cpu" else BATCH

    @torch.inference_mode()
    def encode(place: int) -> None:
        modality = list(encoders)[place]
        encoder = folded(encoders[modality]).to(fabric.device)
        for some in (slice(start, start + batch) for start in range(0, len(clips), batch)):
            found = dataset.joints[clips[some]]
            joints = torch.from_numpy(mapping(found) if mapping else found).to(fabric.device)
            num_frames = torch.from_numpy(dataset.num_frames[clips[some]]).to(fabric.device)
            derived = _derive(joints, num_frames, layout, modality, view.share(some) if view else None)
            with fabric.autocast():
                maps = encoder.feature_map(derived).float()
            means[place, some] = encoder.pool(maps).cpu()
            if segments:
                parts[place, some] = _kept(_by_part(maps, segments).flatten(1), dtype)

    side_by_side(encode, range(len(encoders)), fabric.device)
    return Features(means, parts)


def extract_between_steps(
    encoders: Mapping[str, Encoder],
    dataset: PreparedDataset,
    clips: Indices,
    trainer: TrainerConfig,
    look: Look | None = None,
) -> Tensor:
    """Encode clips by encoders that are being trained, on the device and by the precision of the training.

    Args:
        encoders: G encoders by modality.
        dataset: where the clips are.
        clips: (m,) indices into the dataset.
        trainer: device and precision.
        look: how the clips are seen; by default as they are.

    Returns:
        The features' means over time and joints, (G, n, F), on the CPU.
    """
    precision: Any = trainer.precision
    fabric = Fabric(accelerator=trainer.accelerator, devices=1, precision=precision)
    return extract_features(encoders, dataset, clips, fabric=fabric, look=look).means


def _derive(joints: Tensor, num_frames: Tensor, layout: SkeletonLayout, modality: str, view: View | None) -> Tensor:
    if view is None:
        return derive_modalities(joints, num_frames, layout, modalities=(modality,))[0]
    return view.to(joints.device).derive(joints, num_frames, layout, (modality,))[0]


def _by_part(maps: Tensor, segments: int) -> Tensor:
    """Average (n, F, T', V) over parts of time, (n, F, segments, V), which overlap where they do not come out even."""
    if maps.shape[2] % segments == 0:
        return maps.unflatten(2, (segments, -1)).mean(3)
    return functional.adaptive_avg_pool2d(maps, (segments, maps.shape[3]))


def _kept(parts: Tensor, dtype: torch.dtype) -> Tensor:
    kept = parts.to("cpu", dtype)
    if dtype == torch.float16 and kept.isinf().any():
        most = parts.abs().max().item()
        raise ValueError(f"evaluate.parts_dtype: expected float32 for features of up to {most:.3g}, got float16")
    return kept


def _empty(shape: tuple[int, ...], dtype: torch.dtype, folder: Path | None) -> Tensor:
    if folder is None or 0 in shape:
        return torch.empty(shape, dtype=dtype)
    kind = np.float16 if dtype == torch.float16 else np.float32
    with TemporaryFile(dir=folder) as file:
        return torch.from_numpy(np.memmap(file, mode="w+", dtype=kind, shape=shape))


class Scaling(NamedTuple):
    """Scales every feature to mean 0 and deviation 1 over the training clips.

    Attributes:
        mean: (G, 1, F).
        deviation: (G, 1, F).
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, train: Tensor) -> Scaling:
        """Return the scaling that the features (G, n, F) of the training clips ask for."""
        deviation, mean = torch.std_mean(train, dim=1, keepdim=True)
        # What never fires, or varies by its rounding alone, says nothing; others may be small.
        noise = 8 * torch.finfo(train.dtype).eps * mean.abs()
        return cls(mean, deviation.masked_fill(deviation <= noise.clamp_min(1e-12), torch.inf))

    def __call__(self, features: Tensor) -> Tensor:
        """Scale features (G, n, F)."""
        return (features - self.mean) / self.deviation

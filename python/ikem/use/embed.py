"""`ikem embed`: the features of recordings, to search and to cluster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ikem.data.prepare import FormatName
from ikem.use.clips import ClipReader
from ikem.use.devices import require_device
from ikem.use.encoders import digest_of, encoders_file, read_encoders
from ikem.use.features import EmbeddedClip, FeatureTable

__all__ = ["embed"]


def embed(
    checkpoint: Path,
    files: list[str],
    *,
    output: Path,
    format: FormatName | None = None,
    layout: str | None = None,
    skip_damaged: bool = False,
    device: str = "cpu",
) -> FeatureTable:
    """Writes the features of every clip of some recordings: unit vectors, whose products are cosines.

    Args:
        checkpoint: a classifier.safetensors or encoders.safetensors that `ikem evaluate`, `finetune`, `pretrain`,
            `distill` or `import` wrote, or the folder of a classifier.
        files: recordings that `ikem prepare` reads, files or folders, or prepared data sets; FILE:CLIP is one clip.
        output: a folder, which receives features.npy, float32 (n, F) or of G modalities (n, G * F), features.csv with
            file, clip and length of each row, and features.json; or a file .npy, the others beside it.
        format: what the recordings are, as for `ikem prepare`. Default: what they look like.
        layout: their skeleton, a built-in layout by name or a YAML file. Default: as they say.
        skip_damaged: leave out what cannot be used, and say so, instead of refusing all.
        device: what computes, cpu or cuda.

    Returns:
        What was written.

    Raises:
        ValueError: an argument is wrong.
        DamagedClipsError: clips or files cannot be used; all of them are named with the reason.
    """
    require_device(device)
    if output.is_file() and output.suffix != ".npy":
        raise ValueError(f"output: expected a folder or a file .npy, got {output}")
    weights = encoders_file(checkpoint)
    encoders = read_encoders(weights).to(device)
    reader = ClipReader(encoders.recipe, format, layout)
    clips: list[EmbeddedClip] = []
    features: list[np.ndarray] = []
    for batch in reader.batches(files):
        with torch.inference_mode():
            features.append(encoders(batch.joints.to(device), batch.num_frames.to(device)).cpu().numpy())
        clips += [EmbeddedClip(clip.file, clip.name, clip.num_frames) for clip in batch.clips]
    reader.check(skip_damaged)
    if not clips:
        raise ValueError("files: there is no clip to embed")
    table = FeatureTable(np.concatenate(features), clips, weights, digest_of(weights), encoders.modalities)
    table.write(output)
    print(f"embed: {len(clips)} clips, {table.features.shape[1]} features each, in {output}")
    return table

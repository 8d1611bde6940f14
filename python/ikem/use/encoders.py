"""Trained encoders without their heads, and how clips are made ready for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ikem.checkpoint import DESCRIPTION, load_encoders
from ikem.config import Modality
from ikem.data.recipe import Recipe
from ikem.encoders import Encoder, encoders_of, unit
from ikem.use.classifier import CLASSIFIER, load_classifier
from ikem_ext import derive_modalities

__all__ = ["Encoders", "digest_of", "encoders_file", "read_encoders"]


class Encoders(nn.Module):
    """Encoders of G modalities, and the recipe of the clips that they see.

    Args:
        encoders: by modality.
        recipe: how recordings become clips.
    """

    def __init__(self, encoders: Mapping[str, Encoder], recipe: Recipe) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(dict(encoders))
        self.recipe = recipe
        self.eval()

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The G modalities, in their order."""
        return cast("tuple[Modality, ...]", tuple(self.encoders))

    def forward(self, joints: Tensor, num_frames: Tensor) -> Tensor:
        """Map clips to unit vectors, whose products are the cosines by which retrieval goes.

        Of several modalities the cosines are averaged: unit vectors are concatenated, and divided by the root of G.

        Args:
            joints: (N, 3, T, V, M).
            num_frames: how long the clips were when recorded, (N,).

        Returns:
            (N, G * F).
        """
        derived = derive_modalities(joints, num_frames, self.recipe.layout, modalities=self.modalities)
        features = [encoder(part) for encoder, part in zip(self.encoders.values(), derived, strict=True)]
        return unit(torch.stack(features, 1)).flatten(1) / len(features) ** 0.5


def encoders_file(path: Path) -> Path:
    """Return the file of a classifier or of encoders, which may be named by the folder of the classifier.

    Raises:
        ValueError: there is none.
    """
    file = path / CLASSIFIER if path.is_dir() else path
    if not file.is_file():
        raise ValueError(
            f"checkpoint: there is no {file}; expected what `ikem evaluate`, `finetune` or `pretrain` wrote"
        )
    return file


def read_encoders(file: Path) -> Encoders:
    """Read the encoders of a classifier.safetensors or an encoders.safetensors.

    Raises:
        ValueError: it is neither, is damaged, or does not say how recordings become clips.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            description = json.loads((opened.metadata() or {}).get(DESCRIPTION, "{}"))
    except SafetensorError as error:
        raise ValueError(
            f"checkpoint: {file} is no file of safetensors, such as classifier.safetensors or encoders.safetensors "
            f"({error})"
        ) from error
    if "classes" in description:
        classifier = load_classifier(file)
        return Encoders(encoders_of(classifier.streams), classifier.recipe)
    if "modalities" not in description:
        raise ValueError(f"checkpoint: {file} is neither a classifier nor encoders; `ikem import` reads published ones")
    if "recipe" not in description:
        raise ValueError(
            f"checkpoint: {file} does not say how recordings become clips; give a classifier.safetensors, which "
            "`ikem evaluate` writes"
        )
    try:
        return Encoders(load_encoders(file), Recipe.from_dict(description["recipe"]))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"checkpoint: {file} does not fit: {error}") from error


def digest_of(file: Path) -> str:
    """Return the SHA-256 of a file, by which encoders are known again."""
    return hashlib.sha256(file.read_bytes()).hexdigest()

"""Classifiers so small that they take milliseconds, with random weights."""

from __future__ import annotations

from typing import Any

import torch

from ikem.config import EncoderConfig
from ikem.data.bodies import BodySelection
from ikem.data.preprocess import Preprocessing
from ikem.data.recipe import Recipe
from ikem.encoders import build_encoder
from ikem.use.classifier import ActionClassifier, Classifier
from ikem_ext import get_layout

CLASSES = ["wave", "walk", "sit down"]


def tiny_classifier(
    frames: int = 8, bodies: int = 1, keep: Any = "first", track: bool = False, **options: Any
) -> ActionClassifier:
    """Joints and motion of NTU's skeleton, resized to a few frames; options are those of `Preprocessing`."""
    torch.manual_seed(0)
    layout = get_layout("ntu25")
    config = EncoderConfig(base_width=2, feature_width=6, initialization="kaiming")
    steps = {"center": "frame", "align": "none", "lost_frames": "interpolate", **options}
    streams = {name: Classifier(build_encoder(config, layout), len(CLASSES)) for name in ("joint", "motion")}
    for stream in streams.values():
        torch.nn.init.normal_(stream.head.weight, 0.0, 3.0)  # so that different clips get different probabilities
    recipe = Recipe(layout, Preprocessing(frames, bodies, **steps), BodySelection(bodies, keep, track))
    return ActionClassifier(streams, config, CLASSES, recipe).eval()

"""Windows of a stream or of a long recording, classified many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ikem.data.formats import RawClip
from ikem.data.preprocess import NoBodyError, Preprocessed
from ikem.data.recipe import mapping_between
from ikem.use.classifier import ActionClassifier, load_classifier
from ikem_ext.skeleton import SkeletonLayout

__all__ = ["FEWEST_FRAMES", "WindowClassifier", "doubt_of_window", "usual_length"]

FEWEST_FRAMES = 3  # acceleration is a difference of differences
_BATCH = 64  # windows in one forward pass


class WindowClassifier:
    """Maps windows to probabilities, by the steps that made the clips of the training.

    Whatever its length, a window is resized to the T frames that the encoders know, and its length in frames goes with
    it, by which motion, acceleration and angular velocity are scaled.

    Args:
        classifier: the classifier, which is put into eval mode, or its file.
        layout: the skeleton of the windows. Default: that of the classifier.

    Raises:
        ValueError: the file is no classifier, or the skeleton lacks joints.
    """

    def __init__(self, classifier: ActionClassifier | Path | str, layout: SkeletonLayout | None = None) -> None:
        loaded = load_classifier(classifier) if isinstance(classifier, Path | str) else classifier.eval()
        self.classifier = loaded
        self.layout = layout or loaded.layout
        mapping_between(self.layout, loaded.layout)  # refuses what does not fit before anything is seen
        chosen = loaded.recipe.selection
        self._following = (
            loaded.recipe if chosen.heeds_ids else replace(loaded.recipe, selection=replace(chosen, track=True))
        )

    def prepare(self, clip: RawClip, *, by_id: bool = False) -> Preprocessed | None:
        """Makes of a window what the encoders see; None where no body is seen in it.

        Args:
            clip: the window.
            by_id: follow bodies by their ids, whether those of the training's clips were followed or not.
        """
        try:
            return (self._following if by_id else self.classifier.recipe)(clip, self.layout)
        except NoBodyError:
            return None

    @torch.inference_mode()
    def classify(self, windows: Sequence[Preprocessed | None]) -> list[NDArray[np.float32] | None]:
        """Returns probabilities (L,) of each window that was prepared; None where no body is seen."""
        seen = [(place, each) for place, each in enumerate(windows) if each is not None]
        found: list[NDArray[np.float32] | None] = [None] * len(windows)
        device = next(self.classifier.parameters()).device
        for first in range(0, len(seen), _BATCH):
            batch = seen[first : first + _BATCH]
            joints = torch.from_numpy(np.stack([each.joints for _, each in batch])).to(device)
            num_frames = torch.tensor([each.num_frames for _, each in batch], device=device)
            rows = self.classifier(joints, num_frames).cpu().numpy()
            for (place, _), row in zip(batch, rows, strict=True):
                found[place] = row
        return found


def usual_length(classifier: ActionClassifier) -> int:
    """The median length of the clips that a classifier was trained on, in frames; T where it does not say."""
    return int(classifier.origin.get("num_frames", {}).get("median", classifier.frames))


def doubt_of_window(length: int, classifier: ActionClassifier) -> str | None:
    """What speaks against windows of a length, in frames; None where nothing does.

    Any length is resized to the T frames that a classifier sees, but one that is far from those of the training's
    clips shows a part of an action, or several.

    Raises:
        ValueError: nothing moves in so few.
    """
    if length < FEWEST_FRAMES:
        raise ValueError(f"window: expected {FEWEST_FRAMES} frames or more, as motion needs some, got {length}")
    usual, known = usual_length(classifier), classifier.origin.get("num_frames")
    least, most = (usual / 2, 2 * known["longest"]) if known else (usual, length)
    if least <= length <= most:
        return None
    trained_on = f"clips of {known['shortest']} to {known['longest']}" if known else str(usual)
    return (
        f"a window of {length} frames shows {'less' if length < least else 'more'} than the classifier was trained on, "
        f"{trained_on} frames; `ikem segment --concatenate` says what that costs"
    )

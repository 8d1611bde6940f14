"""How a recording becomes a clip: kept with a prepared data set and with what was trained on it, to be done again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

from ikem_ext.layout_mapping import LayoutMapping
from ikem_ext.skeleton import SkeletonLayout

from .bodies import BodySelection
from .dataset import PreparedDataset
from .formats import RawClip
from .preprocess import Preprocessed, Preprocessing

__all__ = ["Recipe", "mapping_between"]


@dataclass(frozen=True)
class Recipe:
    """All that lies between a recording and the array that an encoder sees.

    Args:
        layout: the skeleton of the result.
        preprocessing: what is done to the joints.
        selection: which bodies are kept.

    Example:
        >>> import numpy as np
        >>> from ikem_ext import get_layout
        >>> steps = Preprocessing(frames=50, bodies=2, center="frame", align="frame", lost_frames="keep")
        >>> recipe = Recipe(get_layout("ntu25"), steps, BodySelection(bodies=2))
        >>> recording = RawClip(np.random.default_rng(0).normal(size=(3, 80, 25, 1)))
        >>> recipe(recording, get_layout("ntu25")).joints.shape
        (3, 50, 25, 2)
        >>> Recipe.from_dict(recipe.to_dict()) == recipe
        True
    """

    layout: SkeletonLayout
    preprocessing: Preprocessing
    selection: BodySelection

    @classmethod
    def of(cls, dataset: PreparedDataset) -> Recipe:
        """The recipe by which a data set was prepared.

        Raises:
            ValueError: the data set does not say.
        """
        try:
            steps = Preprocessing(**dataset.preprocessing)
        except TypeError as error:
            raise ValueError(f"folder: {dataset.folder} does not say how its clips were preprocessed") from error
        chosen = dataset.selection
        bodies = BodySelection(steps.bodies, chosen.get("keep_bodies", "first"), chosen.get("track_bodies", False))
        return cls(dataset.layout, steps, bodies)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON's own types."""
        return {
            "layout": self.layout.to_dict(),
            "preprocessing": asdict(self.preprocessing),
            "selection": asdict(self.selection),
        }

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Recipe:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: it is none.
        """
        try:
            return cls(
                SkeletonLayout.from_dict(description["layout"]),
                Preprocessing(**description["preprocessing"]),
                BodySelection(**description["selection"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"recipe: expected layout, preprocessing and selection ({error!r})") from error

    def __call__(self, clip: RawClip, recorded: SkeletonLayout) -> Preprocessed:
        """Choose the bodies of a recording, and preprocess it.

        Args:
            clip: as recorded.
            recorded: its skeleton; where that is another one, joints are taken over by their names.

        Raises:
            ValueError: the recording is damaged, its skeleton lacks joints, or it holds points in an image where joints
                in space are wanted, or the other way round.
            NoBodyError: no body is seen in any frame.
        """
        kept = self.selection(clip).clip
        made = self.preprocessing(
            kept.joints,
            recorded,
            confidence=kept.confidence,
            image_size=kept.image_size,
            mapping=mapping_between(recorded, self.layout),
        )
        if (made.third == "depth") != (self.layout.third == "depth"):
            kinds = {True: "joints in space", False: "points in an image"}
            wanted, got = (kinds[third == "depth"] for third in (self.layout.third, made.third))
            raise ValueError(f"joints: expected {wanted}, got {got}")
        return made if clip.num_frames is None else made._replace(num_frames=clip.num_frames)


@lru_cache(maxsize=64)
def mapping_between(recorded: SkeletonLayout, wanted: SkeletonLayout) -> LayoutMapping | None:
    """How joints of one skeleton are read as those of another; None where they are the same.

    What the third coordinate is, is no part of it: preprocessing decides that.

    Raises:
        ValueError: the first one says nothing of some joints of the other.
    """
    if replace(recorded, third=wanted.third) == wanted:
        return None
    mapping = SkeletonLayout.mapping(recorded, wanted)
    mapping.require_all()
    return mapping

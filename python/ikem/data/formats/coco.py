"""COCO's keypoints: one JSON file per clip that lists the people in its images, as most pose estimators write it."""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .folder import files_below
from .poses import Person, PoseFiles, Poses, read_json

__all__ = ["Coco"]

_BODY_OF = {133: 17, 136: 26}  # the points of the body come before those of feet, face and hands
_RAREST = 100  # at least every so many frames must show somebody, or they are no frames of a clip


class Coco(PoseFiles):
    """COCO's keypoint results (Lin et al., ECCV 2014), also with the points of Halpe (AlphaPose; Fang et al., 2022).

    A clip is a file such as ``wave/clip1.json``, a list with an entry for each person in each image: ``image_id``, a
    number or a file's name with the frame's number; ``keypoints``, x, y and confidence of 17 or 26 points in pixels
    (of the 133 of COCO-WholeBody and the 136 of Halpe, those of the body are taken); and, where people are tracked,
    ``track_id`` or ``idx``. Or it is a file of annotations, with ``images`` and ``annotations``, in which points
    have 0, 1 or 2 for how well they are seen: confidences end at 1, so what is labelled is certain. Images without
    people are not in a file: numbers that are missing between others are frames without people.
    """

    name = "coco"
    example = "wave/clip1.json"
    layouts: ClassVar[Mapping[int, str]] = {17: "coco17", 26: "halpe26"}

    def find(self) -> Iterator[Path]:
        """All JSON files."""
        return (path for path in files_below(self.raw) if path.suffix == ".json")

    def load(self, path: Path) -> Poses:
        """The people in each image from the first with people to the last."""
        content = read_json(path)
        try:
            annotated = isinstance(content, dict)
            entries = content["annotations"] if annotated else content
            numbers = [entry["image_id"] for entry in entries]
            people = [_read_person(entry) for entry in entries]
            size = _image_size(content["images"]) if annotated and "images" in content else None
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{path}: no list of image_id and keypoints ({error!r})") from None
        frames: defaultdict[int, list[Person]] = defaultdict(list)
        for frame, person in zip(_frame_numbers(numbers, path), people, strict=True):
            frames[frame].append(person)
        return Poses([frames[frame] for frame in range(max(frames, default=-1) + 1)], size)


def _read_person(entry: Mapping[str, Any]) -> Person:
    points = np.array(entry["keypoints"], dtype=np.float64).reshape(-1, 3)
    points = points[: _BODY_OF.get(len(points), len(points))]
    track = entry.get("track_id", entry.get("idx"))
    return Person(points, track[0] if isinstance(track, list) else track)


def _image_size(images: list[Mapping[str, Any]]) -> tuple[int, int] | None:
    sizes = {(image["width"], image["height"]) for image in images if "width" in image and "height" in image}
    return sizes.pop() if len(sizes) == 1 else None


def _frame_numbers(images: list[int | str], path: Path) -> list[int]:
    """The images' places in the clip, counted from the first with people."""
    named = [re.fullmatch(r"(.*?)(\d+)\D*", os.path.splitext(str(image))[0]) for image in images]
    if unnumbered := [image for image, match in zip(images, named, strict=True) if match is None]:
        raise ValueError(f"{path}: image_id: expected the number of a frame, got {unnumbered[0]!r}")
    clips = sorted({match[1] for match in named if match})
    if len(clips) > 1:
        raise ValueError(f"{path}: image_id: expected the frames of one clip, got those of {clips[0]!r}, {clips[1]!r}")
    numbers = [int(match[2]) for match in named if match]
    first, last = min(numbers, default=0), max(numbers, default=0)
    step = math.gcd(*(number - first for number in numbers)) or 1
    if (last - first) // step > _RAREST * len(numbers):
        raise ValueError(
            f"{path}: image_id: expected the frames of one clip, got {len(set(numbers))} images from {first} to {last}"
        )
    return [(number - first) // step for number in numbers]

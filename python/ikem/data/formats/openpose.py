"""OpenPose: one JSON file per frame, with the points of all people in pixels of the image."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .folder import walk
from .poses import Person, PoseFiles, Poses, frame_files, read_json

__all__ = ["OpenPose"]

_FRAME = re.compile(r"(?P<video>.*?)_?\d+(_keypoints)?\.json")


class OpenPose(PoseFiles):
    """What OpenPose's ``--write_json`` writes (Cao et al., TPAMI 2019), with its 25 points or, as COCO, 18.

    A clip is a folder of frames, such as ``wave/clip1/clip1_000000000000_keypoints.json``; its class is the folder
    above. Where a folder has the frames of several videos, as their names say before the number, each is a
    clip, and the folder their class. People are told apart by ``person_id`` where OpenPose tracks them.
    """

    name = "openpose"
    example = "clip1/clip1_000000000000_keypoints.json"
    layouts: ClassVar[Mapping[int, str]] = {25: "openpose25", 18: "openpose18"}

    def find(self) -> Iterator[Path]:
        """The folders with frames, or the videos in them."""
        videos = {
            folder: {_video(file) for file in files if file.endswith(".json")} for folder, _, files in walk(self.raw)
        }
        self._frames_of = lru_cache(maxsize=8)(_frames_of)  # clips that follow one another may share a folder
        mixed = any(len(names) > 1 for names in videos.values())
        for folder, names in videos.items():
            yield from (folder / name for name in names) if mixed else (folder for _ in names)

    def load(self, path: Path) -> Poses:
        """The frames in the order of their numbers."""
        frames = self._frames_of(path)[""] if path.is_dir() else self._frames_of(path.parent)[path.name]
        return Poses(map(_read_frame, frames))


def _video(file: str) -> str:
    """The name of a frame's file up to the frame's number."""
    match = _FRAME.fullmatch(file)
    return match["video"] if match else file


def _frames_of(folder: Path) -> dict[str, list[Path]]:
    """The frames of each video in a folder, and those of all under '', in the order of their numbers."""
    frames: defaultdict[str, list[Path]] = defaultdict(list)
    for path in frame_files(folder):
        frames[""].append(path)
        if video := _video(path.name):
            frames[video].append(path)
    return dict(frames)


def _read_frame(path: Path) -> list[Person]:
    content = read_json(path)
    try:
        return [_read_person(person) for person in content["people"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no frame of OpenPose with people and their pose_keypoints_2d ({error!r})") from None


def _read_person(person: dict[str, Any]) -> Person:
    points = np.array(person["pose_keypoints_2d"], dtype=np.float64).reshape(-1, 3)
    (track,) = person.get("person_id") or [-1]
    return Person(points, None if track == -1 else track)

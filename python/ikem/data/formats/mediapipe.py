"""MediaPipe: the landmarks of people or hands, as its results are saved to JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .folder import walk
from .poses import Person, PoseFiles, Poses, frame_files, read_json

__all__ = ["MediaPipe"]


class MediaPipe(PoseFiles):
    """Landmarks of MediaPipe (Lugaresi et al., 2019): 33 of people (BlazePose) or 21 of hands.

    MediaPipe itself writes no files; this takes its results as the usual ways turn them into JSON. A clip is a file
    with a list of frames, bare or as ``frames`` of a mapping, or a folder with a file for each frame. A frame is a
    mapping with ``pose_world_landmarks``, ``world_landmarks``, ``pose_landmarks``, ``landmarks`` or the like, in any
    spelling (``poseWorldLandmarks``), which holds one person or a list of people; or it is these landmarks themselves;
    null or an empty list is a frame without people. A person is a list of landmarks, bare or as ``landmark`` of a
    mapping, and a landmark is a mapping with x, y, z and perhaps visibility, or the list of these numbers.

    World landmarks, in meters around the hips, are taken where the first frame with people has them. They are turned
    by 180 degrees about the viewing axis, so that y goes up and x to the right of a person who faces the camera, as
    with Kinect. Otherwise it is points in the plane: x and y in shares of the image, without the z that is guessed.
    """

    name = "mediapipe"
    bodies = 1
    example = "wave/clip1.json"
    layouts: ClassVar[Mapping[int, str]] = {33: "mediapipe33", 21: "hand21"}

    def __init__(self, raw: Path, labels: Path | None = None) -> None:
        self._world: bool | None = None  # not known before somebody is seen
        super().__init__(raw, labels)

    def find(self) -> Iterator[Path]:
        """The files, but the folder where they are frames: what the first is, all are."""
        for folder, _, names in walk(self.raw):
            files = [folder / name for name in sorted(names) if name.endswith(".json")]
            if files and _is_frame(files[0]):
                yield folder
            else:
                yield from files

    def load(self, path: Path) -> Poses:
        """The frames of a file, or the files of a folder in the order of the numbers in their names."""
        return Poses(self._frames(path))

    def _frames(self, path: Path) -> Iterator[list[Person]]:
        for where, frame in _read_frames(path):
            try:
                yield self._people(frame)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise ValueError(f"{where}: no landmarks of MediaPipe ({error!r})") from None

    def _people(self, frame: Any) -> list[Person]:
        world, image = _landmarks(frame)
        if self._world is None and (world or image):
            self._world = bool(world)
        if self._world and image and not world:
            raise ValueError("expected world landmarks, as in other frames, got those in the image alone")
        return [Person(_points(person, bool(self._world))) for person in (world if self._world else image)]


def _read_frames(path: Path) -> Iterable[tuple[str, Any]]:
    """The frames of a clip, and where each is."""
    if path.is_dir():
        return ((str(file), read_json(file)) for file in frame_files(path))
    content = read_json(path)
    frames = content.get("frames") if isinstance(content, dict) else content
    if not isinstance(frames, list):
        raise ValueError(f"{path}: expected a list of frames, got {type(frames).__name__}")
    return ((f"{path}: frame {number}", frame) for number, frame in enumerate(frames, start=1))


def _is_frame(path: Path) -> bool:
    """Whether a file holds a frame, and not a list of them; one that cannot be read is told of later."""
    try:
        content = read_json(path)
    except (ValueError, OSError):
        return False
    if isinstance(content, dict):
        return "frames" not in content
    return isinstance(content, list) and bool(content) and _is_landmark(content[0])


def _landmarks(frame: Any) -> tuple[list[Any], list[Any]]:
    """The people of a frame by their world landmarks, and by those in the image."""
    if not isinstance(frame, dict):
        return [], _as_people(frame)
    spelled = {key.lower().replace("_", ""): value for key, value in frame.items()}
    found = {key: value for key, value in spelled.items() if key.endswith(("landmark", "landmarks"))}
    found = {key: value for key, value in found.items() if "pose" in key} or found
    world = [value for key, value in found.items() if "world" in key]
    image = [value for key, value in found.items() if "world" not in key]
    if not found or len(world) > 1 or len(image) > 1:
        raise ValueError(f"expected landmarks of one kind, got {sorted(frame)}")
    return _as_people(world[0] if world else None), _as_people(image[0] if image else None)


def _as_people(value: Any) -> list[Any]:
    if not value:
        return []
    if isinstance(value, dict) or _is_landmark(value[0]):
        return [value]
    return list(value)


def _is_landmark(value: Any) -> bool:
    return "x" in value if isinstance(value, dict) else isinstance(value, list) and isinstance(value[0], int | float)


def _points(person: Any, world: bool) -> NDArray[np.float64]:
    """(V, 4) of world landmarks, (V, 3) of those in the image: coordinates and visibility."""
    landmarks = person["landmark"] if isinstance(person, dict) else person
    points = np.array([_numbers(landmark) for landmark in landmarks], dtype=np.float64)
    return points * (-1, -1, 1, 1) if world else points[:, (0, 1, 3)]


def _numbers(landmark: Any) -> list[float]:
    """x, y, z and visibility, which is 1 where it is not said."""
    if isinstance(landmark, dict):
        return [landmark["x"], landmark["y"], landmark.get("z", 0), landmark.get("visibility", 1)]
    x, y, z, *visibility = landmark
    return [x, y, z, *(visibility or [1])][:4]

"""PYSKL's and MMAction2's pickles: a list of annotated clips, and which of them belong to which split."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Align, ClipSource, Discovery, Format, LostFrames, RawClip
from .names import class_names, clip_facts
from .restricted_pickle import load_pickle

__all__ = ["Pyskl", "pair_splits"]

_LAYOUTS = {
    (25, 3): "ntu25",
    (20, 3): "kinect20",
    (17, 3): "h36m17",
    (17, 2): "coco17",
    (18, 2): "openpose18",
    (25, 2): "openpose25",
    (26, 2): "halpe26",
    (21, 2): "hand21",
    (21, 3): "hand21",
}
"""The skeletons by their numbers of joints and axes."""
_ROLE = r"(?P<role>train|val|test)(?P<number>\d*)"
_SPLIT_NAMES = (rf"((?P<rest>.+)[_-])?{_ROLE}", rf"{_ROLE}[_-](?P<rest>.+)")


class Pyskl(Format):
    """The annotations of PYSKL (Duan et al., ACM Multimedia 2022) and MMAction2.

    A pickle of ``{"split": {name: [frame_dir, ...]}, "annotations": [annotation, ...]}``, or of the bare list; or a
    folder of such lists, whose files are the splits. An annotation is a dict with

    - ``frame_dir`` (or ``filename``), the clip's name, and ``label``, an integer, or missing;
    - ``keypoint``, (M, T, V, 3) in meters; or (M, T, V, 2) in pixels, with ``keypoint_score`` (M, T, V) and
      ``img_shape`` (height, width); and ``total_frames``, T;
    - or, compressed, ``keypoint`` (n, V, 3), whose last number is the score, and ``frame_inds`` (n,).

    Every split becomes a protocol, see :func:`pair_splits`.
    """

    name = "pyskl"
    example = "ntu60_3danno.pkl"

    def __init__(self, raw: Path) -> None:
        super().__init__(raw)
        self._splits: dict[str, set[str]] = {}
        self._annotations: dict[str, Mapping[str, Any]] = {}
        self._skipped: defaultdict[str, list[str]] = defaultdict(list)
        for path in sorted(raw.glob("*.pkl")) if raw.is_dir() else [raw]:
            self._load(path)
        if not self._annotations:
            raise ValueError(f"raw: found no annotation of {self.name} in {raw}")
        self.layout = _LAYOUTS.get(self._joints_and_axes())
        is_ntu = self.layout == "ntu25"
        self.align: Align = "frame" if is_ntu else "none"
        self.lost_frames: LostFrames = "keep" if is_ntu else "interpolate"
        # Of compressed annotations, it is the number of poses.
        several = any(len(annotation["keypoint"]) > 1 for annotation in self._annotations.values())
        self.bodies = 2 if is_ntu or several else 1
        self._labels = {name: self._label(name, annotation) for name, annotation in self._annotations.items()}
        count = 1 + max((label for label in self._labels.values() if label is not None), default=-1)
        self.classes = class_names(count, self._labels)

    def discover(self) -> Discovery:
        """One clip per annotation."""
        protocols, others = pair_splits(self._splits)
        parts: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for protocol, pair in protocols.items():
            for name, part in self._parts(protocol, pair):
                parts[name][protocol] = part
        skipped = dict(self._skipped)
        if others:
            skipped["the split is neither for training nor for testing by its name"] = others
        if missing := sorted(set().union(*self._splits.values()) - set(self._annotations)):
            skipped["named in a split, but not annotated"] = missing
        sources = [
            ClipSource(name, self._labels[name], self.raw, parts=parts[name], **clip_facts(name))
            for name in sorted(self._annotations)
        ]
        return Discovery(sources, skipped)

    def read(self, source: ClipSource) -> RawClip:
        """The annotation's arrays."""
        try:
            return _recording(self._annotations[source.name])
        except (TypeError, ValueError, MemoryError) as error:
            raise ValueError(f"{source.path}: {error}") from None

    def _load(self, path: Path) -> None:
        content = load_pickle(path)
        splits = {}
        if isinstance(content, dict):
            missing = {"split", "annotations"} - set(content)
            if missing:
                raise ValueError(f"{path}: missing keys {sorted(missing)}, got {sorted(map(str, content))[:10]}")
            splits, content = content["split"], content["annotations"]
        if not isinstance(content, list | tuple) or not isinstance(splits, dict):
            raise ValueError(f"{path}: expected a list of annotations, or a dict with it and with the splits")
        names = [self._add(path, row, annotation) for row, annotation in enumerate(content)]
        if self.raw.is_dir() and not splits:
            self._splits[path.stem] = {name for name in names if name is not None}
        for split, listed in splits.items():
            if not isinstance(listed, list | tuple | set):
                raise ValueError(f"{path}: the split {split} must be a list of names, got {type(listed).__name__}")
            self._splits[str(split)] = set(map(str, listed))

    def _add(self, path: Path, row: int, annotation: Any) -> str | None:
        if annotation is None:  # which is what the scripts leave of a clip without any body
            self._skipped["the annotation is empty"].append(f"{path.name}, annotation {row}")
            return None
        name = _name(annotation)
        if name is None:
            raise ValueError(f"{path}: annotation {row} is no dict with a frame_dir")
        if "keypoint" not in annotation and "raw_file" in annotation:
            raise ValueError(f"{path}: the keypoints of {name} are in another file, {annotation['raw_file']!r}")
        if len(getattr(annotation.get("keypoint"), "shape", ())) < 3:
            raise ValueError(f"{path}: the annotation of {name} has no array keypoint (M, T, V, axes)")
        if name in self._annotations:
            raise ValueError(f"{path}: two annotations are called {name}")
        self._annotations[name] = annotation
        return name

    def _joints_and_axes(self) -> tuple[int, int]:
        annotation = next(iter(self._annotations.values()))
        shape: tuple[int, ...] = annotation["keypoint"].shape
        return shape[-2], 2 if "frame_inds" in annotation else shape[-1]

    def _label(self, name: str, annotation: Mapping[str, Any]) -> int | None:
        label = annotation.get("label")
        if label is None:
            return None
        if not isinstance(label, int | np.integer):
            raise ValueError(f"{self.raw}: the label of {name} must be an integer, got {type(label).__name__}")
        return int(label) if label >= 0 else None

    def _parts(self, protocol: str, pair: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        listed = {part: self._splits[split] for part, split in pair.items()}
        if len(listed) == 1:  # the other part is the rest
            ((part, names),) = listed.items()
            listed[{"train": "test", "test": "train"}[part]] = set(self._annotations) - names
        if both := listed["train"] & listed["test"]:
            raise ValueError(
                f"{self.raw}: {len(both)} clips of the protocol {protocol} are for training and for testing, "
                f"such as {min(both)}"
            )
        for part, names in listed.items():
            yield from ((name, part) for name in names)


def pair_splits(names: Iterable[str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Which splits are the two parts of a protocol, by their names.

    A split is for training or testing if its name begins or ends with ``train``, ``val`` or ``test``, and maybe a
    number; the rest names the protocol: ``xsub_train`` and ``xsub_val`` are ``xsub``, ``train2`` and ``test2`` are
    ``split2``, and ``train`` and ``val`` are ``given``. Where there are three, ``test`` is what that protocol tests
    on, and a second one, such as ``given_val``, trains on the same and tests on ``val``. A split without a partner is
    one part, and all other clips are the other.

    Returns:
        Protocol -> part (``train``, ``test``) -> split; and the splits that have no such names.

    Example:
        >>> pair_splits(["xsub_train", "xsub_val", "test1", "train1", "all"])
        ({'xsub': {'train': 'xsub_train', 'test': 'xsub_val'}, 'split1': {'train': 'train1', 'test': 'test1'}}, ['all'])
    """
    families: defaultdict[str, dict[str, str]] = defaultdict(dict)
    others = []
    for name in names:
        match = next(filter(None, (re.fullmatch(pattern, name) for pattern in _SPLIT_NAMES)), None)
        if match is None:
            others.append(name)
            continue
        number = match["number"] and f"split{match['number']}"
        families["_".join(filter(None, (match["rest"], number))) or "given"][match["role"]] = name
    protocols: dict[str, dict[str, str]] = {}
    for family, roles in families.items():
        tests = [role for role in ("test", "val") if role in roles]
        train = {"train": roles["train"]} if "train" in roles else {}
        for index, role in enumerate(tests):
            protocols[family if index == 0 else f"{family}_{role}"] = {**train, "test": roles[role]}
        if not tests:
            protocols[family] = train
    return protocols, others


def _name(annotation: Any) -> str | None:
    name = annotation.get("frame_dir", annotation.get("filename")) if isinstance(annotation, dict) else None
    return name if isinstance(name, str) else None


def _recording(annotation: Mapping[str, Any]) -> RawClip:
    keypoint = np.asarray(annotation["keypoint"])
    total = int(annotation.get("total_frames", keypoint.shape[1]))
    score: NDArray[Any] | None
    if "frame_inds" in annotation:
        keypoint, score = _decompress(keypoint, np.asarray(annotation["frame_inds"]).reshape(-1), total)
    else:
        keypoint = keypoint[None] if keypoint.ndim == 3 else keypoint
        score = np.asarray(annotation["keypoint_score"]) if "keypoint_score" in annotation else None
    if keypoint.ndim != 4 or keypoint.shape[1] != total or keypoint.dtype.kind not in "iuf":
        raise ValueError(
            f"keypoint must be numbers (M, {total}, V, axes) as total_frames says, got {keypoint.dtype} "
            f"{keypoint.shape}"
        )
    if score is not None and score.shape not in (keypoint.shape[:3], (*keypoint.shape[:3], 1)):
        raise ValueError(f"keypoint_score must have the shape {keypoint.shape[:3]}, got {score.shape}")
    return RawClip(
        joints=keypoint.astype(np.float32).transpose(3, 1, 2, 0),
        confidence=None if score is None else score.reshape(keypoint.shape[:3]).transpose(1, 2, 0),
        image_size=_image_size(annotation),
    )


def _image_size(annotation: Mapping[str, Any]) -> tuple[int, int] | None:
    if "img_shape" not in annotation:
        return None
    height, width = annotation["img_shape"][:2]
    return int(width), int(height)


def _decompress(
    keypoint: NDArray[Any], frames: NDArray[np.integer], total: int
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Poses one after another -> (M, T, V, 2) and their scores (M, T, V); a frame's poses keep their order."""
    if keypoint.ndim != 3 or keypoint.shape[2] != 3 or frames.shape != keypoint.shape[:1]:
        raise ValueError(f"keypoint must have the shape (n, V, 3) for {len(frames)} frame_inds, got {keypoint.shape}")
    if len(frames) and not 0 <= frames.min() <= frames.max() < total:
        raise ValueError(f"frame_inds must be from 0 to {total - 1}, got {frames.min()} to {frames.max()}")
    order = np.argsort(frames, kind="stable")
    counts = np.bincount(frames, minlength=total)
    body = np.arange(len(frames)) - np.repeat(np.cumsum(counts) - counts, counts)
    poses = np.zeros((max(counts, default=0), total, *keypoint.shape[1:]), np.float32)
    poses[body, frames[order]] = keypoint[order]
    return poses[..., :2], poses[..., 2]

"""Long recordings with a truth: labelled clips of a data set, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ikem.data.dataset import PreparedDataset
from ikem.data.formats import RawClip
from ikem.data.recordings import NamedClip, read_recordings
from ikem.evaluation.detection import Interval

__all__ = ["Concatenation", "concatenated", "concatenations"]


class Concatenation(NamedTuple):
    """Some clips in a row.

    Args:
        named: the recording that they make.
        truth: an interval for each clip.
    """

    named: NamedClip
    truth: list[Interval]


def concatenations(
    path: Path,
    dataset: PreparedDataset,
    protocol: str,
    *,
    clips: int,
    seed: int,
    format: str | None = None,
    layout: str | None = None,
) -> Iterator[Concatenation]:
    """Shuffles the labelled test clips of a data set and puts some at a time in a row.

    Args:
        path: the recordings that the data set was prepared from.
        dataset: says which of them are test clips, and what they show.
        protocol: of the data set.
        clips: in a row; the last row may have fewer.
        seed: of the order.
        format: of the recordings; default: what they look like.
        layout: of the recordings; default: what they say.

    Raises:
        ValueError: there is no such protocol, or the recordings lack clips of the data set.
    """
    wanted = {dataset.clips[index].name: dataset.labels[index] for index in dataset.split(protocol, "test").tolist()}
    labels = {name: int(label) for name, label in wanted.items() if label >= 0}
    found = {named.name: named for named in read_recordings(path, format=format, layout=layout) if named.name in labels}
    if missing := sorted(set(labels) - set(found)):
        raise ValueError(
            f"recording: {path} lacks {len(missing)} of the {len(labels)} test clips of {dataset.folder}, "
            f"such as {missing[0]}"
        )
    if not labels:
        raise ValueError(f"concatenate: {dataset.folder} has no labelled test clip in {protocol}")
    names = np.random.default_rng(seed).permutation(sorted(labels)).tolist()
    for number, first in enumerate(range(0, len(names), clips), start=1):
        row = [found[name] for name in names[first : first + clips]]
        yield concatenated(f"row {number}", row, [labels[named.name] for named in row])


def concatenated(name: str, clips: Sequence[NamedClip], labels: Sequence[int]) -> Concatenation:
    """Puts clips in a row.

    Args:
        name: of the result.
        clips: of one skeleton.
        labels: of the clips.
    """
    raw = [each.clip for each in clips]
    ends = np.cumsum([clip.joints.shape[1] for clip in raw]).tolist()
    bodies = max(clip.joints.shape[3] for clip in raw)
    confidences = [clip.confidence for clip in raw if clip.confidence is not None]
    ids = [clip.body_ids for clip in raw if clip.body_ids is not None]
    recording = RawClip(
        np.concatenate([_padded(clip.joints, bodies) for clip in raw], axis=1),
        np.concatenate([_padded(each, bodies) for each in confidences]) if len(confidences) == len(raw) else None,
        raw[0].image_size,
        None,
        np.concatenate([_padded(each, bodies) for each in ids]) if len(ids) == len(raw) else None,
    )
    truth = [Interval(label, start, end) for label, start, end in zip(labels, [0, *ends[:-1]], ends, strict=True)]
    return Concatenation(NamedClip(name, recording, clips[0].layout), truth)


def _padded(array: NDArray, bodies: int) -> NDArray:
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, bodies - array.shape[-1])])

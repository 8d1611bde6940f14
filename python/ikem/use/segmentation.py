"""Actions in a long recording: a sliding window over it, smoothed and cut into intervals."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ikem.data.formats import RawClip
from ikem.evaluation.detection import Interval
from ikem.use.intervals import frame_probabilities, intervals_of, label_frames
from ikem.use.windows import WindowClassifier

__all__ = ["Segmentation", "Segmenter", "part_of"]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What a recording shows.

    Attributes:
        intervals: one action each, in their order.
        labels: int64 (frames,); -1 where nobody is seen.
        starts: the first frames of the windows.
        windows: what each of them shows: probabilities (L,), or None where nobody is seen.
    """

    intervals: list[Interval]
    labels: NDArray[np.int64]
    starts: list[int]
    windows: list[NDArray[np.float32] | None]


@dataclass(frozen=True)
class Segmenter:
    """Finds the actions in recordings.

    A window slides over the recording and is classified at each place. A frame's probabilities are the mean of those of
    the windows that cover it, weighted by how near their middles are; its label is that of the likeliest labelling
    without actions that are too short (:mod:`ikem.use.intervals`).

    Args:
        classifier: of the windows.
        length: of a window, in frames; a recording that is shorter is one window.
        hop: frames from one window to the next; the last one ends with the recording.
        shortest: frames of an action at least.
        threshold: intervals whose class has a lower mean probability are left out.
    """

    classifier: WindowClassifier
    length: int
    hop: int
    shortest: int
    threshold: float = 0.0

    def __call__(self, clip: RawClip) -> Segmentation:
        """Segments a recording, of the classifier's skeleton and as many frames per second as its training had.

        Raises:
            ValueError: the recording is damaged or has no frame.
        """
        num_frames = clip.joints.shape[1]
        if not num_frames:
            raise ValueError("expected frames, got none")
        length = min(self.length, num_frames)
        starts = [*range(0, num_frames - length, self.hop), num_frames - length]
        prepared = [self.classifier.prepare(part_of(clip, start, start + length)) for start in starts]
        windows = self.classifier.classify(prepared)
        likely = frame_probabilities(windows, starts, length, num_frames, len(self.classifier.classifier.classes))
        labels = label_frames(likely, self.shortest)
        return Segmentation(intervals_of(labels, likely, self.threshold), labels, starts, windows)


def part_of(clip: RawClip, start: int, end: int) -> RawClip:
    """The frames ``start`` to ``end`` - 1 of a recording."""
    return replace(
        clip,
        joints=clip.joints[:, start:end],
        confidence=None if clip.confidence is None else clip.confidence[start:end],
        body_ids=None if clip.body_ids is None else clip.body_ids[start:end],
        num_frames=None,
    )

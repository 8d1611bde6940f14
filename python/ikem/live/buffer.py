"""The last frames of a stream, never more than a window holds, and the windows that are due."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ikem.data.formats import RawClip

from .frames import Frame, Resampler, together

__all__ = ["Window", "WindowBuffer", "forget_those_gone"]


@dataclass(frozen=True, eq=False)
class Window:
    """Some frames in a row.

    Args:
        start, end: from the first frame to the end of the last: in seconds in a stream with time stamps, otherwise in
            frames since it began.
        clip: what they show.
    """

    start: float
    end: float
    clip: RawClip


class WindowBuffer:
    """Takes the frames of one stream and yields a window whenever one is due.

    Args:
        length: frames in a window.
        hop: frames from one window to the next.
        lost_after: a body that was away for more frames is gone, and forgotten.
        shape: (axes, V) of a frame.
        by_id: bodies are known by ids.
        resampler: where frames have time stamps: what makes them equally far apart.
        image_size: width and height in pixels.
    """

    def __init__(
        self,
        length: int,
        hop: int,
        lost_after: int,
        shape: tuple[int, int],
        *,
        by_id: bool = False,
        resampler: Resampler | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        self.length = length
        self.hop = hop
        self.lost_after = lost_after
        self.shape = shape
        self.by_id = by_id
        self.resampler = resampler
        self.image_size = image_size
        self._frames: deque[Frame] = deque(maxlen=length)
        self._count = 0  # frames since the stream began

    def push(self, frames: Sequence[Frame], times: NDArray[np.float64] | None) -> Iterator[Window]:
        """Takes frames, and their time stamps, ascending, where there is a resampler."""
        for number, frame in enumerate(frames):
            for each in self._resampled(frame, None if times is None else float(times[number])):
                self._frames.append(each)
                self._count += 1
                if self._count >= self.length and (self._count - self.length) % self.hop == 0:
                    yield self.window()

    def _resampled(self, frame: Frame, time: float | None) -> list[Frame]:
        if self.resampler is None or time is None:
            return [frame]
        if self.resampler.interrupts(time):
            self._frames.clear()
            self._count = 0
        return self.resampler(frame, time)

    def __len__(self) -> int:
        """How many frames are held."""
        return len(self._frames)

    def window(self) -> Window:
        """The frames that are held, at least one."""
        axes, joints = self.shape
        clip = together(self._frames, axes, joints, by_id=self.by_id, image_size=self.image_size)
        forget_those_gone(clip.joints, self.lost_after)
        first, last = float(self._count - len(self)), float(self._count)
        if self.resampler is not None:
            first, last = (self.resampler.origin + tick / self.resampler.frame_rate for tick in (first, last))
        return Window(first, last, clip)


def forget_those_gone(joints: NDArray[np.float32], lost_after: int) -> None:
    """Takes out, in place, what a body did before it was away for longer.

    Args:
        joints: (axes, frames, V, bodies), zero where a body is not seen.
        lost_after: in frames.

    Example:
        >>> joints = np.zeros((3, 6, 1, 1), np.float32)
        >>> joints[:, [0, 1, 4]] = 1  # away for two frames, and for the last one
        >>> forget_those_gone(joints, 2)
        >>> joints[0, :, 0, 0].tolist()
        [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
        >>> forget_those_gone(joints, 1)
        >>> joints[0, :, 0, 0].tolist()
        [0.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    """
    frames = joints.shape[1]
    for body, present in enumerate(joints.any(axis=(0, 2)).T):
        seen = np.append(np.flatnonzero(present), frames)
        gaps = np.flatnonzero(np.diff(seen) > lost_after + 1)
        if len(gaps):
            joints[:, : seen[gaps[-1]] + 1, :, body] = 0

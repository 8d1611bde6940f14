"""Windows of long recordings, each a clip of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from .formats import ClipSource, RawClip

__all__ = ["Windows"]


class Window(NamedTuple):
    """The frames of a recording from ``start`` on, up to ``stop``."""

    start: int
    stop: int

    def of(self, clip: RawClip) -> RawClip:
        """These frames of what was recorded."""
        part, frames = slice(self.start, self.stop), clip.joints.shape[1]
        return replace(
            clip,
            joints=clip.joints[:, part],
            confidence=None if clip.confidence is None else clip.confidence[part],
            body_ids=None if clip.body_ids is None else clip.body_ids[part],
            num_frames=None
            if clip.num_frames is None
            else max(1, round(clip.num_frames * (self.stop - self.start) / frames)),
        )

    def named(self, source: ClipSource) -> ClipSource:
        """The recording's clip under the window's name, NAME@start."""
        return replace(source, name=f"{source.name}@{self.start}")


@dataclass(frozen=True)
class Windows:
    """Cuts recordings into windows of ``length`` frames, one every ``hop`` frames.

    Where the last of them does not reach the end, there is one more that ends there, so that no frame is lost. A
    recording that is no longer than a window is one.

    Example:
        >>> [tuple(window) for window in Windows.parsed("30,20")(75)]
        [(0, 30), (20, 50), (40, 70), (45, 75)]
        >>> [tuple(window) for window in Windows.parsed("30,20")(12)]
        [(0, 12)]
    """

    length: int
    hop: int

    @classmethod
    def parsed(cls, text: str) -> Windows:
        """The windows that ``LENGTH,HOP`` stands for.

        Raises:
            ValueError: it is something else, or frames would lie between the windows.
        """
        try:
            length, hop = (int(number) for number in text.split(","))
        except ValueError:
            raise ValueError(f"windows: expected LENGTH,HOP in frames, such as 64,32, got {text!r}") from None
        if not 1 <= hop <= length:
            raise ValueError(f"windows: expected 1 <= HOP <= LENGTH, so that no frame is left out, got {text!r}")
        return cls(length, hop)

    def __call__(self, frames: int) -> Iterator[Window]:
        """The windows of a recording of so many frames."""
        last = max(frames - self.length, 0)
        for start in (*range(0, last, self.hop), last):
            yield Window(start, min(start + self.length, frames))

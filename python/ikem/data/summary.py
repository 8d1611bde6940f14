"""What became of the recordings: told on the screen, and kept beside the prepared data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["PrepareSummary"]

_NAMES_SHOWN = 20


@dataclass(frozen=True)
class PrepareSummary:
    """What was read, what was left out and why.

    Args:
        source: the format.
        raw: where the recordings lie.
        clips: how many clips the prepared data set holds.
        classes: how many classes there are.
        shape: (N, 3, T, V, M) of the prepared joints.
        num_frames: the smallest, the median and the largest length of a clip, in frames.
        skipped: the names of the clips left out, by reason.
        notes: what else was done to recordings, or found in them.
        protocols: for each protocol, how many clips each part has.
    """

    source: str
    raw: str
    clips: int
    classes: int
    shape: tuple[int, int, int, int, int]
    num_frames: tuple[int, int, int]
    skipped: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    protocols: dict[str, dict[str, int]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
        return asdict(self)

    def to_markdown(self) -> str:
        """The summary for people; of long lists of names only the beginning."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        least, median, most = self.num_frames
        yield f"# {self.source}, from {self.raw}"
        yield ""
        yield f"- {self.clips} clips of {self.classes} classes, {least} to {most} frames long (median {median})"
        yield f"- stored as (N, 3, T, V, M) = {self.shape}"
        yield from (f"- {note}" for note in self.notes)
        for name, parts in self.protocols.items():
            yield f"- protocol {name}: " + ", ".join(f"{part} {count}" for part, count in parts.items())
        if not self.skipped:
            yield "- nothing was left out"
        for reason, names in self.skipped.items():
            yield ""
            yield f"## {len(names)} left out: {reason}"
            yield ""
            yield from (f"- {name}" for name in names[:_NAMES_SHOWN])
            if len(names) > _NAMES_SHOWN:
                yield f"- and {len(names) - _NAMES_SHOWN} more, all named in summary.json"

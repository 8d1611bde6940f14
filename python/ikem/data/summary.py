"""What became of the recordings: told on the screen, and kept beside the prepared data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["DamagedClipsError", "PrepareSummary", "some_of"]

_NAMES_SHOWN = 20


class DamagedClipsError(ValueError):
    """Clips that cannot be read.

    Args:
        message: how many there are, and what can be done about it.
        damages: for each of them, its name, where the damage is, and what it is.
    """

    def __init__(self, message: str, damages: Sequence[str]) -> None:
        super().__init__(message, damages)
        self.message = message
        self.damages = list(damages)

    def __str__(self) -> str:
        return "\n".join([f"{self.message}:", *self.damages])


def some_of(names: Sequence[str], rest: str = "") -> str:
    """The first names of a list, and how many more there are, with a word on where to find the rest.

    Example:
        >>> some_of([str(number) for number in range(50)])
        '0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19 and 30 more'
    """
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more{rest}" if more > 0 else "")


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
        unlabelled: how many of the clips have no label.
        others: how many clips were found that were not asked for, by what speaks against them: classes, subjects
            or cameras.
        losses: what was left out of clips that are there: a note -> all clips that it holds for, of which the note
            itself names the first.
        warnings: what deserves a second look, such as a protocol that cannot be evaluated.
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
    unlabelled: int = 0
    others: dict[str, int] = field(default_factory=dict)
    losses: dict[str, list[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

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
        yield f"- {self._clips_and_classes()}, {least} to {most} frames long (median {median})"
        yield f"- stored as (N, 3, T, V, M) = {self.shape}"
        yield from (f"- {note}" for note in self.notes)
        for name, parts in self.protocols.items():
            yield f"- protocol {name}: " + ", ".join(f"{part} {count}" for part, count in parts.items())
        for name, count in self.others.items():
            yield f"- {count} clips of other {name} than asked for were passed over"
        if not self.skipped:
            yield "- " + self._nothing_left_out()
        yield from (f"- **warning**: {warning}" for warning in self.warnings)
        for reason, names in self.skipped.items():
            yield ""
            yield f"## {len(names)} left out: {reason}"
            yield ""
            yield from (f"- {name}" for name in names[:_NAMES_SHOWN])
            if len(names) > _NAMES_SHOWN:
                yield f"- and {len(names) - _NAMES_SHOWN} more, all named in summary.json"

    def _clips_and_classes(self) -> str:
        if self.unlabelled == self.clips:
            return f"{self.clips} clips, none of which has a label"
        without = f" ({self.unlabelled} have no label)" if self.unlabelled else ""
        return f"{self.clips} clips of {self.classes} classes{without}"

    def _nothing_left_out(self) -> str:
        but = "nothing else" if any(self.others.values()) else "nothing"
        return f"{but} was left out" if not self.losses else "no clip was left out, but parts of some, as said above"

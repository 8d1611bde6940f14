"""Which of the clips that were found are asked for: some classes, subjects or cameras."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .formats import ClipSource
from .summary import some_of

__all__ = ["ALL", "Chosen", "Only"]

Wanted = int | str | list[int | str] | None


class Chosen(NamedTuple):
    """The clips that are asked for.

    Args:
        sources: these clips, with the labels of the recordings.
        classes: the names of the classes that are asked for, in the order of the recordings.
        labels: the label of the recordings -> the place in ``classes``.
        others: how many clips were found that are not asked for, by what speaks against them.
    """

    sources: list[ClipSource]
    classes: tuple[str, ...]
    labels: Mapping[int, int]
    others: dict[str, int]


@dataclass(frozen=True)
class Only:
    """The clips to take: those that every one of these lists has; without a list, all.

    A list is written ``0-59``, ``1,3,5-8`` or ``clapping,kicking``, or as a list ``["cheers, and drink", 3]``.

    Attributes:
        classes: by name, or by label, counted from 0 (so that NTU's A001 is 0). The prepared data set has these classes
            alone, counted from 0 in the order of the recordings.
        subjects: as the recordings call them.
        cameras: likewise.
    """

    classes: Wanted = None
    subjects: Wanted = None
    cameras: Wanted = None

    def choose(self, sources: Sequence[ClipSource], classes: Sequence[str]) -> Chosen:
        """Takes the clips that are asked for.

        Args:
            sources: all clips that were found.
            classes: the names of all classes.

        Raises:
            ValueError: a class, subject or camera is asked for that there is not.
        """
        labels = range(len(classes)) if self.classes is None else _labels(self.classes, classes)
        rules = {
            "classes": ("label", None if self.classes is None else {str(label) for label in labels}),
            "subjects": ("subject", _values("subjects", self.subjects, {source.subject for source in sources})),
            "cameras": ("camera", _values("cameras", self.cameras, {source.camera for source in sources})),
        }
        taken, others = list(sources), {}
        for name, (attribute, values) in rules.items():
            if values is not None:
                kept = [source for source in taken if str(getattr(source, attribute)) in values]
                others[name] = len(taken) - len(kept)
                taken = kept
        names = tuple(classes[label] for label in labels)
        return Chosen(taken, names, {label: place for place, label in enumerate(labels)}, others)


ALL = Only()
"""Whatever was found."""


def _items(wanted: int | str | Sequence[int | str], known: Container[str]) -> Iterator[str]:
    """The single names and numbers of a list; what is known as it stands is neither taken apart nor a range."""
    if isinstance(wanted, str) and wanted not in known:
        wanted = wanted.split(",")
    for item in [wanted] if isinstance(wanted, int | str) else wanted:
        text = str(item).strip()
        span = None if text in known else re.fullmatch(r"(\d+)-(\d+)", text)
        if span:
            yield from map(str, range(int(span[1]), int(span[2]) + 1))
        else:
            yield str(int(text)) if text.isdecimal() and text not in known else text


def _labels(wanted: int | str | Sequence[int | str], classes: Sequence[str]) -> list[int]:
    labels = {str(label): label for label in range(len(classes))} | {name: label for label, name in enumerate(classes)}
    items = set(_items(wanted, classes))
    _refuse_unknown("classes", items - set(labels), [f"0 to {len(classes) - 1}", *classes])
    return sorted({labels[item] for item in items})


def _values(
    name: str, wanted: int | str | Sequence[int | str] | None, there: Iterable[int | str | None]
) -> set[str] | None:
    if wanted is None:
        return None
    known = {str(value) for value in there if value is not None}
    values = set(_items(wanted, known))
    _refuse_unknown(name, values - known, sorted(known, key=lambda text: (len(text), text)))
    return values


def _refuse_unknown(name: str, unknown: set[str], known: Sequence[str]) -> None:
    if unknown:
        there = some_of(known) or "none, as the recordings do not say"
        raise ValueError(f"only.{name}: expected some of those there are ({there}), got {', '.join(sorted(unknown))}")

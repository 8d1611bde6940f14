"""What a user knows of clips that do not say it themselves: a table of their labels, subjects and parts."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["ClipTable", "read_clip_table"]

_NUMBERS = ("camera", "setup", "replication")
_PARTS = ("train", "test", "")


class ClipTable(NamedTuple):
    """A table of clips."""

    facts: dict[str, dict[str, Any]]
    """Clip -> the fields of a :class:`~ikem.data.formats.ClipSource` that are known of it."""
    classes: tuple[str, ...]
    unused: list[str]
    """Columns that mean nothing here."""


def read_clip_table(path: Path) -> ClipTable:
    """Reads a CSV file with a line for each clip.

    Args:
        path: the file. Its first line names the columns, of which only ``name`` must be there: ``name``, the clip's
            path below the folder of recordings, with or without ``.json``; ``label``, a class by its name, or all
            classes by numbers from 0; ``subject``, a name or a number; the numbers ``camera``, ``setup`` and
            ``replication``; and ``split``, train or test, which is the protocol ``given``. A field that is empty is
            not known.

    Raises:
        ValueError: the file is no such table; the message names file and line.
    """
    facts: dict[str, dict[str, Any]] = {}
    labels: dict[str, str] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, strict=True, restval="")
        try:
            columns = [str(name).strip() for name in rows.fieldnames or ()]
            if "name" not in columns or len(set(columns)) < len(columns):
                raise ValueError(f"expected different columns, and name among them, got {columns}")
            rows.fieldnames = columns
            for row in rows:
                name, label, known = _read_row(row)
                if name in facts:
                    raise ValueError(f"the clip {name} is listed twice")
                facts[name], labels[name] = known, label
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path}:{max(rows.reader.line_num, 1)}: {error}") from None
    classes = _classes(set(labels.values()) - {""})
    index = {label: number for number, label in enumerate(classes)}
    for name, label in labels.items():
        facts[name]["label"] = index[label] if label else None
    return ClipTable(facts, classes, [name for name in columns if name not in _COLUMNS])


_COLUMNS = ("name", "label", "subject", "split", *_NUMBERS)


def _read_row(row: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """A clip's name, its label in words, and what else is known of it."""
    if None in row:
        raise ValueError(f"expected {len(row) - 1} fields, got {len(row) - 1 + len(row[None])}")  # type: ignore[index]
    values = {column: (row.get(column) or "").strip() for column in _COLUMNS}
    if not values["name"]:
        raise ValueError("the clip has no name")
    if values["split"] not in _PARTS:
        raise ValueError(f"split must be train, test or empty, got {values['split']!r}")
    known: dict[str, Any] = {column: int(values[column]) for column in _NUMBERS if values[column]}
    subject = values["subject"]
    known["subject"] = int(subject) if subject.isdecimal() else subject or None
    known["parts"] = {"given": values["split"]} if values["split"] else {}
    return values["name"].removesuffix(".json"), values["label"], known


def _classes(labels: set[str]) -> tuple[str, ...]:
    """The classes in order: up to the highest number if all are numbers, or else the names, sorted."""
    if labels and all(label.isdecimal() for label in labels):
        return tuple(str(number) for number in range(max(map(int, labels)) + 1))
    return tuple(sorted(labels))

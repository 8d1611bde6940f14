"""Rows of results as a file: CSV or JSON, by its name."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ikem.files import write_text

__all__ = ["require_table", "write_table"]


def require_table(output: Path | None, *inputs: str | Path) -> None:
    """Refuse a file of another kind, and one that is read, before any work is done.

    Raises:
        ValueError: the name ends in neither ``.csv`` nor ``.json``, or is that of an input.
    """
    if output is None:
        return
    if output.suffix not in (".csv", ".json"):
        raise ValueError(f"output: expected a file .csv or .json, got {output}")
    if output.resolve() in {Path(path).resolve() for path in inputs}:
        raise ValueError(f"output: {output} is read, and would be replaced")


def write_table(output: Path, rows: Sequence[Mapping[str, Any]], document: Mapping[str, Any]) -> None:
    """Write rows as CSV, or a document as JSON.

    Args:
        output: the file.
        rows: all with the same columns, in the order of the first one.
        document: what JSON says, which need not be flat.
    """
    if output.suffix == ".json":
        write_text(output, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(output, text.getvalue())

"""Text files of numbers: read fast, and refused by file and line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["parse_number_rows", "read_number_rows"]


def read_number_rows(path: Path, columns: int, separator: str | None = None) -> NDArray[np.float64]:
    """Reads a text file of numbers.

    Args:
        path: the file; empty lines at its end are ignored.
        columns: how many numbers each line holds.
        separator: what stands between them; default: white space.

    Returns:
        float64 array (lines, columns).

    Raises:
        ValueError: a line holds anything else, or the file is empty; the message names file and line.
    """
    return parse_number_rows(path.read_bytes().rstrip(), path, columns, separator)


def parse_number_rows(
    content: bytes, path: Path, columns: int, separator: str | None = None, *, first_line: int = 1
) -> NDArray[np.float64]:
    r"""Does the same with some lines of a file that were read already.

    Args:
        content: the lines.
        path: the file, for messages.
        columns: how many numbers each line holds.
        separator: what stands between them; default: white space.
        first_line: the number in the file of the first of these lines, for messages.

    Example:
        >>> parse_number_rows(b"1 2\n3 4\n", Path("two.txt"), columns=2).tolist()
        [[1.0, 2.0], [3.0, 4.0]]
    """
    # Bytes that are no text become characters that are no numbers, and are reported as such.
    lines = content.decode("ascii", errors="replace").splitlines()
    if not lines:
        raise ValueError(f"{path}:{first_line}: the file is empty")
    try:
        rows = np.loadtxt(lines, comments=None, delimiter=separator, ndmin=2)
    except ValueError:
        rows = np.empty((0, 0))
    if rows.shape == (len(lines), columns):
        return rows
    # NumPy skips empty lines and does not say which line is wrong in the words of the other readers.
    return _parse_line_by_line(lines, path, columns, separator, first_line)


def _parse_line_by_line(
    lines: list[str], path: Path, columns: int, separator: str | None, first_line: int
) -> NDArray[np.float64]:
    rows = []
    for number, line in enumerate(lines, start=first_line):
        fields = line.split(separator)
        if len(fields) != columns:
            raise ValueError(f"{path}:{number}: expected {columns} numbers, got {len(fields)} fields")
        try:
            rows.append([float(field) for field in fields])
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None
    return np.array(rows)

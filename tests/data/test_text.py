"""Text files of numbers, on the fast path and on the one that finds the wrong line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ikem.data.formats.text import parse_number_rows, read_number_rows


def test_all_ways_to_write_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes(b" 1 -2.5e-3\r\n\t.5  +7 \r\nnan inf\r\n1_0 2\r\n\r\n\n")
    np.testing.assert_array_equal(
        read_number_rows(path, columns=2), [[1, -0.0025], [0.5, 7], [np.nan, np.inf], [10, 2]]
    )
    path.write_text("1, 2\n3 ,4")
    assert read_number_rows(path, columns=2, separator=",").tolist() == [[1, 2], [3, 4]]


def test_a_file_of_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("\n \n")
    with pytest.raises(ValueError, match=r"rows\.txt:1: the file is empty"):
        read_number_rows(tmp_path / "rows.txt", columns=2)


def test_numbers_are_read_to_the_last_bit() -> None:
    values = np.random.default_rng(0).normal(size=(50, 3))
    content = "\n".join(" ".join(map(repr, row)) for row in values.tolist()).encode()
    np.testing.assert_array_equal(parse_number_rows(content, Path("rows"), columns=3), values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ":7: the file is empty"),
        (b"1 2\n\n", ":8: expected 2 numbers, got 0 fields"),
        (b"1 2\n\n3 4\n", ":8: expected 2 numbers, got 0 fields"),
        (b"1 2\n3 4 5\n", ":8: expected 2 numbers, got 3 fields"),
        (b"1 2 3\n1 2 3\n", ":7: expected 2 numbers, got 3 fields"),
        (b"1 2\n3 # 4\n", ":8: expected 2 numbers, got 3 fields"),
        (b"1 2\n3 x\n", ":8: could not convert string to float: 'x'"),
        (b"1 2\n3 0x10\n", ":8: could not convert string to float: '0x10'"),
        (b"\xff\x00\xfe", ":7: expected 2 numbers, got 1 fields"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"rows.txt{message}")):
        parse_number_rows(content, Path("rows.txt"), columns=2, first_line=7)

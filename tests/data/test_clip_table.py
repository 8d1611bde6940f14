"""The table in which a user says what clips show."""

from __future__ import annotations

from pathlib import Path

import pytest

from ikem.data.formats.clip_table import read_clip_table


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "clips.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_all_that_is_known_of_a_clip(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "\ufeffname, label ,subject,camera,setup,replication,split,fps\n"
        'wave/1.json,"wave, slowly",ann,2,3,4,train,30\n'
        "wave/2,bow,7,,,,test,30\n"
        "3,,,,,,,\n",
    )
    facts, classes, unused = read_clip_table(path)
    assert classes == ("bow", "wave, slowly")
    assert unused == ["fps"]
    assert facts == {
        "wave/1": {
            "label": 1,
            "subject": "ann",
            "camera": 2,
            "setup": 3,
            "replication": 4,
            "parts": {"given": "train"},
        },
        "wave/2": {"label": 0, "subject": 7, "parts": {"given": "test"}},
        "3": {"label": None, "subject": None, "parts": {}},
    }


def test_classes_by_number(tmp_path: Path) -> None:
    facts, classes, _ = read_clip_table(table(tmp_path, "name,label\na,10\nb,2\n"))
    assert classes == tuple(map(str, range(11)))
    assert [facts[name]["label"] for name in "ab"] == [10, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r":1: expected different columns, and name among them, got \[\]"),
        ("clip,label\n", r":1: expected different columns, and name among them"),
        ("name,label,label\n", r":1: expected different columns"),
        ("name,label\na,b\na.json,c\n", ":3: the clip a is listed twice"),
        ("name,label\n,b\n", ":2: the clip has no name"),
        ("name,label\na,b,c\n", ":2: expected 2 fields, got 3"),
        ("name,split\na,val\n", ":2: split must be train, test or empty, got 'val'"),
        ("name,camera\na,left\n", ":2: invalid literal for int"),
        ('name,label\na,"b\n', ":2: unexpected end of data"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"clips\.csv{message}"):
        read_clip_table(table(tmp_path, text))

"""What is known of clips: as a sequence, by columns and as a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ikem.data.clips import MISSING, Clip, Clips, read_clips, write_clips

CLIPS = [
    Clip("S001, with a comma", 0, 1, 2, 3, 4, 60),
    Clip('a "quoted" näme', 1, 2, None, None, None, 80),
    Clip("", None, "Ann, 2nd", None, -1, 0, 1),
    Clip("the same person", None, "Ann, 2nd", 2**62, None, 0, 2),
    Clip("nobody", -1, None, None, None, None, 0),
]


def test_they_are_a_sequence() -> None:
    clips = Clips(CLIPS)
    assert len(clips) == 5
    assert list(clips) == CLIPS
    assert clips == CLIPS and clips == Clips(CLIPS)
    for other in (CLIPS[:4], [*CLIPS[:4], CLIPS[0]], [*CLIPS[:4], "nobody"], 3):
        assert clips != other
    assert [clips[place] for place in (0, -1, np.int64(3))] == [CLIPS[0], CLIPS[4], CLIPS[3]]
    assert clips[1:4:2] == CLIPS[1:4:2]
    for place in (5, -6):
        with pytest.raises(IndexError):
            clips[place]
    assert not len(Clips()) and list(Clips()) == []


def test_columns_are_arrays_of_their_own() -> None:
    clips = Clips(CLIPS[:2])
    setups = clips.column("setup")
    clips.append(CLIPS[2])
    assert setups.tolist() == [3, MISSING]
    assert clips.column("setup").tolist() == [3, MISSING, -1]
    assert clips.column("num_frames").dtype == np.int64


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_clips(tmp_path / "clips.csv", Clips(CLIPS))
    again = read_clips(tmp_path / "clips.csv")
    assert again == CLIPS
    assert [type(clip.subject) for clip in again] == [int, int, str, str, type(None)]


def test_numbers_have_an_end(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    write_clips(path, Clips(CLIPS[:1]))
    path.write_text(path.read_text().replace(",60", f",{2**63}"))
    with pytest.raises(ValueError, match=r"clips.csv:2: not a clip"):
        read_clips(path)

"""`ikem segment` on recordings in which there is nothing to find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from recordings import write_npz

from ikem.use.segment import segment


@pytest.mark.parametrize(
    ("frames", "said"), [(30, "no body is ever seen"), (1, "expected at least 2 frames, as actions move, got 1")]
)
def test_nothing_to_find_is_refused(demo: Path, tmp_path: Path, frames: int, said: str) -> None:
    joints = np.full((1, 3, frames, 25, 1), float(frames == 1))
    file = write_npz(tmp_path, joints=joints, num_frames=np.array([frames]), layout=np.array("ntu25"))
    with pytest.raises(ValueError, match=said):
        segment(demo / "runs/demo", file, output=tmp_path / "found.csv")
    assert not (tmp_path / "found.csv").exists()

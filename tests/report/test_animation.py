"""Animations hold the clip's frames at its speed, of any skeleton."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from matplotlib.animation import PillowWriter
from PIL import Image
from report.made_clips import make_clip

from ikem.report import animation
from ikem.report.animation import animate, require_writer


@pytest.mark.parametrize(("layout", "bodies"), [("ntu25", 2), ("coco17", 1), ("hand22", 1)])
def test_shows_every_moment_at_the_recordings_speed(tmp_path, layout, bodies):
    clip = make_clip(layout, bodies=bodies, frames=7)
    clip.joints[:, 2:4, :, 0] = np.nan
    animate(clip, tmp_path / "clip.gif", dpi=25)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.gif"]
    with Image.open(tmp_path / "clip.gif") as film:
        assert film.n_frames == 4  # of 30 frames a second 15 are drawn
        assert film.info["duration"] == pytest.approx(1000 / 15, abs=10)
        pictures = []
        for frame in range(film.n_frames):
            film.seek(frame)
            pictures.append(np.asarray(film.convert("L")))
    assert all((picture < 200).sum() > 300 for picture in pictures)
    assert (pictures[0] != pictures[-1]).any()


def test_nothing_is_left_of_an_animation_that_was_stopped(tmp_path, monkeypatch):
    def stop(self, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(PillowWriter, "grab_frame", stop)
    (tmp_path / "clip.gif").write_text("the one before")
    with pytest.raises(KeyboardInterrupt):
        animate(make_clip(frames=2), tmp_path / "clip.gif", dpi=25)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.gif"]
    assert (tmp_path / "clip.gif").read_text() == "the one before"


def test_a_film_needs_ffmpeg(tmp_path, monkeypatch):
    monkeypatch.setattr(animation.FFMpegWriter, "isAvailable", lambda: False)
    require_writer(tmp_path / "clip.gif")
    with pytest.raises(ValueError, match=r"output: .*clip\.mp4 needs ffmpeg, which is not found; .*\.gif"):
        require_writer(tmp_path / "clip.mp4")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg")
def test_writes_a_film(tmp_path):
    animate(make_clip(frames=4), tmp_path / "clip.mp4", dpi=40)
    assert b"ftyp" in (tmp_path / "clip.mp4").read_bytes()[:16]

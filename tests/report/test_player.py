"""The player in a real browser: it plays, turns, and shows what the clips hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from report.made_clips import make_clip

from ikem.report.clips import ShownClip, on_stage
from ikem.report.page import page
from ikem.report.player import player
from ikem_ext import MODALITIES

NASTY = "</script><b>bold</b>"


def two_people() -> ShownClip:
    """Two bodies: the second is not seen in two frames, and of the first a joint is lost in one."""
    clip = make_clip(bodies=2, frames=24, name="A050", label="punch", guesses=(("punch", 0.75), ("hug", 0.25)))
    clip.joints[:, 5:7, :, 1] = np.nan
    clip.joints[:, 9, 4, 0] = np.nan
    return clip


CLIPS = [two_people(), make_clip("hand22", name=NASTY, seed=1)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("player") / "page.html"
    path.write_text(page("clips", player({"": CLIPS}), "player"))
    return path


def shown_frame(opened) -> int:
    return int(opened.locator("output").inner_text().split("/")[0])


def eye(opened) -> dict[str, float]:
    return opened.evaluate("document.querySelector('.scene').layout.scene.camera.eye")


def test_plays_and_turns(opened, file, tmp_path):
    window = opened(file)
    scene = window.locator(".scene")
    before, view = scene.screenshot(), eye(window)
    window.get_by_role("button", name="play").click()
    window.wait_for_function("parseInt(document.querySelector('output').textContent) > 3")
    box = scene.bounding_box()
    window.mouse.move(box["x"] + 200, box["y"] + 200)
    window.mouse.down()
    window.mouse.move(box["x"] + 300, box["y"] + 240, steps=5)
    window.mouse.up()
    window.wait_for_function(f"document.querySelector('.scene').layout.scene.camera.eye.x != {view['x']}")
    assert eye(window)["z"] > view["z"]  # drawn downwards: seen from above
    window.get_by_role("button", name="pause").click()
    stopped = shown_frame(window)
    window.wait_for_timeout(300)
    assert shown_frame(window) == stopped
    window.screenshot(path=tmp_path / "player.png", full_page=True)
    print("screenshot:", tmp_path / "player.png")
    assert scene.screenshot() != before


def test_every_control_does_what_it_says(opened, file):
    window = opened(file)
    counter = window.locator("output")
    assert counter.inner_text() == "1 / 24"
    window.get_by_role("button", name="one frame back").click()
    assert counter.inner_text() == "24 / 24"
    window.get_by_role("button", name="one frame on").click()
    assert counter.inner_text() == "1 / 24"
    window.get_by_role("slider", name="frame").fill("11")
    assert counter.inner_text() == "12 / 24"
    window.keyboard.press("Tab")  # from the slider, where arrows are its own
    window.locator(".player").press("ArrowRight")
    assert counter.inner_text() == "13 / 24"
    window.get_by_label("modality").select_option("motion")
    assert "length of motion" in window.locator("h4").inner_text()
    window.locator(".heat .nsewdrag").click(position={"x": 5, "y": 40})
    assert counter.inner_text() == "1 / 24"
    for color in ("sides", "bodies", "value"):
        window.get_by_label("colors").select_option(color)
    texts = "document.querySelector('.scene').data[3].mode"
    assert window.evaluate(texts) == "markers"
    window.get_by_label("names").check()
    assert window.evaluate(texts) == "markers+text"
    drawn = "document.querySelector('.scene').data[2].x.length"
    assert window.evaluate(drawn) > 0
    window.get_by_label("arrows").uncheck()
    assert window.evaluate(drawn) == 0
    fronts = eye(window)
    window.get_by_role("button", name="Side").click()
    assert eye(window)["x"] > 1.9 > fronts["x"]


def test_says_what_a_clip_is_and_is_taken_for(opened, file):
    window = opened(file)
    facts = window.locator(".facts").inner_text()
    assert all(word in facts for word in ("A050", "2 bodies", "24 frames", "punch", "75.0 %", "hug", "25.0 %"))
    assert window.locator(".guess.right").inner_text().startswith("punch")
    window.get_by_label("clip").select_option("1")
    assert window.locator(".facts h3").inner_text() == NASTY
    assert "hand22, 22 joints, 20 frames" in window.locator(".facts").inner_text()


def test_shows_the_numbers_of_the_clip(opened, file):
    """To half of the 16-bit integers' steps; what was not seen is not there."""
    clip = CLIPS[0]
    ask = "([name, t, m, v]) => document.querySelector('.player').player.clip.at(name, t, m, v)"
    window = opened(file)
    for name, values in zip(("places", *MODALITIES), (clip.places, *clip.modalities), strict=True):
        expected = on_stage(values, clip.layout)
        for frame, joint, body in ((0, 0, 0), (3, 24, 1), (20, 7, 0), (9, 5, 0)):
            step = np.nanmax(np.abs(expected)) / 32767
            known = expected[:, frame, joint, body]
            got = window.evaluate(ask, [name, frame, body, joint])
            if np.isnan(known).any():
                assert got is None
            else:
                np.testing.assert_allclose(got, known, atol=0.51 * step)
        assert window.evaluate(ask, [name, 5, 1, 3]) is None
        assert window.evaluate(ask, [name, 9, 0, 4]) is None


@pytest.mark.parametrize("width", [380, 820])
def test_fits_narrow_windows(opened, file, width):
    window = opened(file, width, 700)
    assert window.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("layout", ["coco17", "sbu15"])
def test_any_skeleton_has_a_page_of_its_own(opened, tmp_path, layout):
    path = tmp_path / "page.html"
    path.write_text(page("clips", player({"": [make_clip(layout, frames=1, bodies=2)]}), "player"))
    window = opened(path)
    assert window.locator("output").inner_text() == "1 / 1"
    window.get_by_role("button", name="play").click()
    assert window.evaluate("document.querySelector('.scene').data[3].x.length") > 2


def test_the_page_says_whose_library_it_carries():
    text = page("clips", player({"": CLIPS}), "player")
    assert "plotly.js" in text
    assert "Licensed under the MIT license" in text
    assert NASTY not in text
    assert "plotly" not in page("no clips", "", "sort")

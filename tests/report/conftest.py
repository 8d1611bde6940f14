"""A real browser for the pages, and a clip to show in them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ikem.report.clips import ShownClip
from ikem_ext import get_layout

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# In a container there may be no sandbox to be had, and no GPU: WebGL is drawn by the processor.
OPTIONS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium; IKEM_BROWSER names another program, IKEM_REQUIRE_BROWSER=1 insists on one."""
    program = os.environ.get("IKEM_BROWSER") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        message = f"no browser: none of {', '.join(PROGRAMS)} is installed (IKEM_BROWSER names another)"
        if os.environ.get("IKEM_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a file in a window of some size; in the end nothing may have gone wrong, or have been asked of a network."""
    pages, faults = [], []

    def open_file(path: Path, width: int = 1100, height: int = 800) -> Page:
        page = browser.new_page(viewport={"width": width, "height": height})
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: None if request.url.startswith(LOCAL) else faults.append(request.url))
        page.goto(path.absolute().as_uri())
        pages.append(page)
        return page

    yield open_file
    for page in pages:
        page.close()
    assert not faults


LOCAL = ("file:", "data:", "blob:")


def make_clip(
    layout: str = "ntu25", *, frames: int = 20, bodies: int = 1, seed: int = 0, name: str = "clip", **known: object
) -> ShownClip:
    """Joints that wander about a fixed place, in meters; two bodies stand apart."""
    generator = np.random.default_rng(seed)
    skeleton = get_layout(layout)
    places = generator.normal(size=(3, 1, skeleton.num_joints, bodies)) + 2 * np.arange(bodies)
    joints = places + 0.05 * generator.normal(size=(3, frames, skeleton.num_joints, bodies)).cumsum(axis=1)
    return ShownClip(name, joints.astype(np.float32), skeleton, frames, 30.0, **known)  # type: ignore[arg-type]

"""A real browser for the pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
LOCAL = ("file:", "data:", "blob:")
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
    """Opens a file in a window of some size; nothing may go wrong in it, and nothing be asked of a network."""
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

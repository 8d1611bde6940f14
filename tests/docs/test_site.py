"""The site that `make docs` builds: all of the public API is in it, and its links and formulas work."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from filelock import FileLock
from pages import PAGES, ROOT, name
from report.conftest import browser, opened  # noqa: F401 (fixtures)

from ikem.cli import COMMANDS
from ikem.config import Config

MODULES = (
    "ikem_ext", "ikem_ext.nn", "ikem_ext.nn.agcn", "ikem_ext.nn.ctrgcn", "ikem_ext.nn.msg3d", "ikem_ext.nn.pyskl",
    "ikem_ext.nn.stgcn", "ikem_ext.reference", "ikem.live",
)  # fmt: skip
PACKAGES = {"nn", "reference", "agcn", "ctrgcn", "msg3d", "pyskl", "stgcn"}  # which are modules of their own


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Path:
    """The built site, which all processes of the tests share; IKEM_SITE names one that is there already."""
    if os.environ.get("IKEM_SITE"):
        return ROOT / os.environ["IKEM_SITE"]
    folder = tmp_path_factory.getbasetemp().parent / f"site-{testrun_uid}"
    with FileLock(f"{folder}.lock"):
        if not (folder / "html").exists():
            _build(folder)
    return folder / "html"


def _build(folder: Path) -> None:
    options = ["--conf-dir", "docs", "--fail-on-warning", "--keep-going", "--quiet"]
    result = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, "--doctree-dir", folder / "doctrees", ".", folder / "html"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site as a server gives it, without which browsers do not let a page search others."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def documented(site: Path) -> set[str]:
    """The names that the reference describes."""
    found = re.findall(r'<dt class="sig sig-object py" id="([\w.]+)"', "".join(_text(page) for page in _html(site)))
    return set(found)


class Links(HTMLParser):
    """Where a page's links and pictures lead, and the places that links can lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for attribute, value in attributes:
            if attribute in ("href", "src") and value:
                self.targets.add(value)
            elif attribute == "id" and value:
                self.places.add(value)


def _html(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_every_page_is_there(site: Path) -> None:
    assert [name(page) for page in PAGES if not (site / name(page)).with_suffix(".html").is_file()] == []
    assert _text(site / "index.html") == _text(site / "README.html")


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module: str, documented: set[str]) -> None:
    """Under the module's own name, or, where another of our modules has made it, under that one's."""
    room = importlib.import_module(module)
    missing = {name for name in set(room.__all__) - PACKAGES if f"{module}.{name}" not in documented}
    assert {name for name in missing if f"{getattr(room, name).__module__}.{name}" not in documented} == set()


def test_every_command_and_every_section_of_the_configuration_is_in_the_reference(documented: set[str]) -> None:
    functions = {
        f"{module}.{'import_' if command == 'import' else command}" for command, (module, *_) in COMMANDS.items()
    }
    sections = {f"ikem.config.{type(section).__name__}" for section in vars(Config()).values()}
    assert functions | {each for each in sections if each.endswith("Config")} <= documented


def test_links_lead_to_a_page_and_to_a_place_on_it(site: Path) -> None:
    links = {page: Links(_text(page)) for page in _html(site)}
    astray = []
    for page, found in links.items():
        for link in found.targets:
            target, _, place = urllib.parse.unquote(link.split("?")[0]).partition("#")
            if re.match(r"\w+:", target):
                continue
            to = (page.parent / target).resolve() if target else page
            if not to.exists() or (place and to in links and place not in links[to].places):
                astray.append(f"{page.relative_to(site)}: {link}")
    assert astray == []


def test_pages_ask_nothing_of_a_network(site: Path) -> None:
    loaded = re.compile(r'<(?:script|img|link)[^>]*(?:src|href)="(https?:[^"]*)"')
    assert [found for page in _html(site) for found in loaded.findall(_text(page))] == []


def test_formulas_are_seen(site: Path, opened, tmp_path: Path) -> None:  # noqa: F811
    page = opened(site / "docs/reference/operations.html")
    formula = page.locator("[id='ikem_ext.info_nce'] + dd math").first
    box = formula.bounding_box()
    assert box["width"] > 100
    assert box["height"] > 20
    assert "\\" not in formula.text_content()
    page.locator("[id='ikem_ext.info_nce']").scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "operations.png")
    print("screenshot:", tmp_path / "operations.png")


@pytest.mark.parametrize("width", [380, 1000, 1600])
def test_no_page_is_wider_than_the_window(site: Path, opened, width: int) -> None:  # noqa: F811
    for stem in ("README", "docs/data", "docs/architecture", "docs/reference/operations"):
        page = opened(site / f"{stem}.html", width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(
    ("words", "page"), [("queue_logsumexp", "docs/reference/operations.html"), ("bone jitter", "docs/training.html")]
)
def test_search_finds(address: str, browser, words: str, page: str) -> None:  # noqa: F811
    window = browser.new_page()
    window.goto(f"{address}/search.html?q={urllib.parse.quote(words)}")
    window.locator(f"#search-results a[href*='{page}']").first.click()
    window.wait_for_url(f"**/{page}*")
    window.close()

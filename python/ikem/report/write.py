"""`ikem report`: what the other commands left in a run's folder, as one document with its pictures."""

from __future__ import annotations

import base64
import html
from pathlib import Path

from markdown_it import MarkdownIt

from ikem.config import Config
from ikem.data.dataset import PreparedDataset
from ikem.files import write_text
from ikem.report.examples import EXAMPLES, examples
from ikem.report.page import page
from ikem.report.pictures import PICTURES, save
from ikem.report.player import player
from ikem.report.run import Run
from ikem.report.text import to_markdown

__all__ = ["report"]


def report(config: Config) -> Path:
    """Writes the report of an evaluated run.

    Args:
        config: of the run; its folder and its dataset are used.

    Returns:
        ``<run>/report.md``. The pictures are in ``<run>/pictures``; ``report.html`` beside it holds all of it.

    Raises:
        ValueError: the run has not been evaluated, though it could be.
    """
    run = Run.read(config.run, PreparedDataset(config.data.one_folder))
    folder = run.folder / "pictures"
    folder.mkdir(exist_ok=True)
    captions = {}
    for name, draw in PICTURES.items():
        drawn = draw(run)
        if drawn is None:
            (folder / f"{name}.png").unlink(missing_ok=True)  # of an earlier report
            continue
        figure, captions[name] = drawn
        save(figure, folder / f"{name}.png")
    text = to_markdown(run, captions)
    write_text(run.folder / "report.md", text)
    write_text(run.folder / "report.html", _to_html(run, text))
    print(f"report: {run.folder / 'report.md'} and report.html")
    return run.folder / "report.md"


def _to_html(run: Run, text: str) -> str:
    """The report as a page that holds its pictures, with tables to sort and clips to look at."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    for picture in (run.folder / "pictures").glob("*.png"):
        data = base64.b64encode(picture.read_bytes()).decode()
        body = body.replace(f'src="pictures/{picture.name}"', f'src="data:image/png;base64,{data}"')
    clips = examples(run)
    players = "".join(
        f"<h3>Clips that {html.escape(name)}</h3>\n{player({'': shown}, f'clips-{place}')}"
        for place, (name, shown) in enumerate(clips.items())
    )
    if players:
        players = f"<h2>Clips</h2>\n<p>{html.escape(EXAMPLES)}</p>\n{players}"
    before, heading, after = body.partition("<h2>Pictures</h2>")
    scripts = ["sort", *(["player"] if players else [])]
    return page(run.folder.name, before + players + heading + after, *scripts)

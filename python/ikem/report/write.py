"""`ikem report`: what the other commands left in a run's folder, as one document with its pictures."""

from __future__ import annotations

from pathlib import Path

from ikem.config import Config
from ikem.data.dataset import PreparedDataset
from ikem.files import write_text
from ikem.report.pictures import PICTURES, save
from ikem.report.run import Run
from ikem.report.text import to_markdown

__all__ = ["report"]


def report(config: Config) -> Path:
    """Writes the report of an evaluated run.

    Args:
        config: of the run; its folder and its dataset are used.

    Returns:
        ``<run>/report.md``. The pictures are in ``<run>/pictures``.

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
    write_text(run.folder / "report.md", to_markdown(run, captions))
    print(f"report: {run.folder / 'report.md'}")
    return run.folder / "report.md"

"""HTML pages that hold all they need, so that they can be passed on and looked at offline."""

from __future__ import annotations

import html
from importlib import resources

__all__ = ["page"]


def page(title: str, body: str, *scripts: str) -> str:
    """A page with the project's style and, within it, the library that draws.

    Args:
        title: of the page.
        body: what it shows, in HTML.
        scripts: the names of this package's scripts that the page needs; before ``player`` comes plotly.js, with its
            license.
    """
    files = resources.files("ikem.report")
    library = []
    if "player" in scripts:
        from plotly.offline import get_plotlyjs  # only here: trainings and studies draw too, and do without

        library = [get_plotlyjs()]
    own = [(files / f"{name}.js").read_text(encoding="utf-8") for name in scripts]
    code = "\n".join(f"<script>{script}</script>" for script in library + own)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n"
        f"<style>{(files / 'page.css').read_text(encoding='utf-8')}</style>\n</head>\n"
        f"<body>\n<main>\n{body}</main>\n{code}\n</body>\n</html>\n"
    )

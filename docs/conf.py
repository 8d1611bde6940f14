"""How the site is made of the repository's pages and of the docstrings; `make docs` runs it.

The source folder is the repository's root, so that a relative link is the same on the site as where the code is read.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx import addnodes
from sphinx.application import Sphinx

import ikem_ext

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs", "results")

# What stands at the side of every page. The README's own text is the front page, and stays free of markup for this.
CONTENTS = """
```{toctree}
:hidden:
:caption: Use

docs/data
docs/training
docs/distributed
docs/evaluation
docs/use
docs/layers
docs/performance
```

```{toctree}
:hidden:
:caption: Tutorials

docs/tutorials/own-data
docs/tutorials/faster-layers
docs/tutorials/own-loss
```

```{toctree}
:hidden:
:caption: Reference

docs/reference/operations
docs/reference/skeletons
docs/reference/layers
docs/reference/plain
docs/reference/commands
docs/reference/configuration
docs/reference/python
```

```{toctree}
:hidden:
:caption: Project

docs/architecture
CONTRIBUTING
docs/releasing
CHANGELOG
SECURITY
results/README
results/utd-mhad
results/nw-ucla
results/kinder-gator
results/shrec17
results/sbu
results/pooled
results/h100
results/h200
```
"""

project = "ikem-ext"
author = "The ikem-ext authors"
version = release = ikem_ext.__version__
root_doc = "README"
exclude_patterns = [path.name for path in ROOT.iterdir() if path.name not in PAGES]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_heading_anchors = 4
myst_fence_as_directive = ["math"]
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!ikem).*")]  # other projects' names

default_role = "code"
highlight_language = "none"
add_module_names = False
python_maximum_signature_line_length = 100
autodoc_default_options = {"member-order": "bysource"}
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_custom_sections = [("Attributes", "params_style")]  # of dataclasses, whose attributes are their arguments
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"ikem-ext {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_copyright = False


def _formula(translator: Any, node: nodes.Element) -> None:
    """A formula as browsers themselves set it, without scripts and without a network."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    translator.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def _add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname == root_doc:
        source[0] += CONTENTS


def _unlink_folders(app: Sphinx, doctree: nodes.document) -> None:
    """A folder has no page: of a link to one the text stays."""
    for link in list(doctree.findall(addnodes.pending_xref)):
        is_path = link["reftype"] == "myst" and link["refdomain"] != "doc"
        if is_path and (ROOT / Path(link["refdoc"]).parent / link["reftarget"]).is_dir():
            link.replace_self(link.children)


def _unlink_types(app: Sphinx, env: Any, node: nodes.Element, text: nodes.Element) -> nodes.Element | None:
    """Types in signatures may be such as the reference does not describe; what is written by hand may not."""
    return None if "refwarn" in node else text


def _add_front_page(app: Sphinx, failure: Exception | None) -> None:
    if failure is None and app.builder.name == "html":
        shutil.copy(app.outdir / f"{root_doc}.html", app.outdir / "index.html")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))
    app.connect("source-read", _add_contents)
    app.connect("doctree-read", _unlink_folders)
    app.connect("missing-reference", _unlink_types)
    app.connect("build-finished", _add_front_page)

"""No page names a thing that does not exist: Python's names, files, options, targets of make, variables."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from pages import PAGES, ROOT, blocks, name, prose

from ikem.cli import COMMANDS, build_parser
from ikem.config import Config

# What other projects call so.
THEIR_FILES = {"model/agcn.py", "model/ctrgcn.py", "model/msg3d.py", "net/st_gcn.py"}
THEIR_OPTIONS = {"--compress", "--write_json"}
THEIR_NAMES = {"worldLandmarks"}
COMPOSED = {"late_fused3"}  # by the program
FOLDERS = (".ci", ".github", "cmake", "csrc", "docs", "examples", "ikem_ext", "python", "results", "tests", "tools")
WRITTEN = re.compile(r"\w\.(py|h|cpp|cu|cmake|sh|js|css|toml)$")  # by programmers


@functools.cache
def files() -> list[str]:
    """All files of the repository's folders, by their paths."""
    return [path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*")]


@functools.cache
def source_text() -> str:
    """All that is written in the sources, without the tests but for what sets them up."""
    conftests = ["CMakeLists.txt", "tests/conftest.py", "tests/report/conftest.py"]
    written = [path for path in files() if WRITTEN.search(path) and not path.startswith("tests/")]
    return "\n".join((ROOT / path).read_text(encoding="utf-8") for path in written + conftests)


def spans(page: Path) -> list[str]:
    """What stands in backticks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def code(page: Path) -> list[str]:
    """What stands in backticks or in blocks of commands."""
    return spans(page) + [block.text for block in blocks(page, "bash", "")]


def exists(dotted: str) -> bool:
    """Whether it can be imported, or is an attribute of what can, or a field of such a class."""
    parts = dotted.split(".")
    found: Any = importlib.import_module(parts[0])
    for place, part in enumerate(parts[1:], 2):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(parts[:place]))
            except ImportError:
                return part in getattr(found, "__annotations__", {})
        found = getattr(found, part, None)
    return True


def is_option(section: str, option: str) -> bool:
    (of,) = (field for field in dataclasses.fields(Config) if field.name == section)
    return option in {field.name for field in dataclasses.fields(of.default_factory())}


@functools.cache
def options() -> set[str]:
    """All options of all commands."""
    found = set(re.findall(r'"(--[a-z][\w-]*)"', source_text()))  # of the modules that are run
    for command in COMMANDS:
        parser = build_parser([command])
        chosen = parser._subcommands_action.choices[command]
        found |= set(chosen._option_string_actions)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
class TestOnEveryPage:
    def test_python_names_exist(self, page: Path) -> None:
        text = "\n".join(code(page))
        named = set(re.findall(r"(?<![\w./-])(?:ikem|ikem_ext|torch)(?:\.[A-Za-z_]\w*)+", text))
        for module, imported in re.findall(r"from (ikem\S*) import ([\w, ]+)", text):
            named |= {f"{module}.{each.strip()}" for each in imported.split(",")}
        assert [dotted for dotted in sorted(named) if not exists(dotted)] == []

    def test_files_exist(self, page: Path) -> None:
        """A path from the root or from a folder below it; files that a run writes are not of the repository."""
        named = {span.rstrip("/") for span in spans(page) if re.fullmatch(r"[\w./-]+", span)} - THEIR_FILES
        sources = {path for path in named if WRITTEN.search(path)}
        below = {path for path in named if "/" in path and path.split("/")[0] in FOLDERS}
        missing = [
            path
            for path in sorted(sources | below)
            if not (ROOT / path).exists() and not any(known.endswith(f"/{path}") for known in files())
        ]
        assert missing == []

    def test_options_of_the_configuration_exist(self, page: Path) -> None:
        sections = "|".join(field.name for field in dataclasses.fields(Config) if field.name not in ("run", "seed"))
        named = set(re.findall(rf"(?<![\w./])({sections})\.([a-z]\w*)", "\n".join(code(page))))
        files = {"py", "md", "npz", "json", "yaml"}  # such as evaluate.py
        assert [dotted for dotted in sorted(named) if dotted[1] not in files and not is_option(*dotted)] == []

    def test_options_of_commands_exist(self, page: Path) -> None:
        ours = [line for text in code(page) for line in text.splitlines() if line.startswith(("--", "ikem "))]
        named = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", "\n".join(ours))) - THEIR_OPTIONS
        known = options()
        assert [option for option in sorted(named) if option not in known] == []

    def test_single_names_are_in_the_sources(self, page: Path) -> None:
        """Options, fields, keys, functions and classes without what they belong to: `bone_jitter`, `View.derive`."""
        text = source_text() + "".join(block.text for block in blocks(page, "python"))
        known = set(re.findall(r"\w+", text)) | COMPOSED
        named = {
            span for span in spans(page) if re.fullmatch(r"[A-Za-z]\w*(_|[a-z][A-Z])\w*", span) and not span.isupper()
        }
        dotted = {span for span in spans(page) if re.fullmatch(r"[A-Z][a-z]\w+\.[a-z]\w+", span)}
        named |= {word for span in dotted for word in span.split(".")}
        assert sorted(named - known - THEIR_NAMES) == []

    def test_targets_of_make_exist(self, page: Path) -> None:
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        named = {target for text in code(page) for target in re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)}
        assert named <= targets

    def test_variables_of_the_environment_are_read(self, page: Path) -> None:
        named = set(re.findall(r"\bIKEM_[A-Z]+", "\n".join(code(page))))
        assert [variable for variable in sorted(named) if variable not in source_text()] == []

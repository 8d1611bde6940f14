"""README.md, docs/*.md and what else people read: examples run, links lead somewhere, commands are understood."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import PAGES, blocks, commands, name

from ikem.cli import build_parser

RUN_ELSEWHERE = ("docs/use.md", "docs/tutorials/")  # by test_use.py and test_tutorials.py
HERE = [page for page in PAGES if not name(page).startswith(RUN_ELSEWHERE)]
COMMANDS = [(name(page), words) for page in HERE for words in commands(page)]


@pytest.mark.parametrize("page", [page for page in HERE if blocks(page, "python")], ids=name)
def test_examples_run(page: Path) -> None:
    for example in blocks(page, "python"):
        exec(compile(example.text, page.name, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=lambda value: " ".join(value) if isinstance(value, list) else value
)
def test_commands_are_understood(page: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option is one, and every value is allowed."""
    (tmp_path / "mine.yaml").write_text("run: runs/mine\n")  # stands for a configuration of the reader's own
    monkeypatch.chdir(tmp_path)
    parser = build_parser(words)
    parser.instantiate(parser.parse_args(words))


def test_every_protocol_has_a_command() -> None:
    given = {word for page, words in COMMANDS if page == "docs/evaluation.md" for word in (words[0], *words[1:])}
    options = ("preset", "neighbors", "segments", "early", "semi", "fewshot", "classes", "fusion")
    assert {"evaluate", "finetune", "--checkpoint", "--finetune.semi", *(f"--evaluate.{o}" for o in options)} <= given

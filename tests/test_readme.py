from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ikem.cli import build_parser

DOCUMENTS = [path for folder in ("", "docs") for path in sorted((Path(__file__).parent.parent / folder).glob("*.md"))]

NEED_A_RUN = {"use.md"}  # which test_use_docs.py has


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d.name not in NEED_A_RUN], ids=lambda path: path.name)
def test_examples_run(document: Path) -> None:
    for example in re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(example, document.name, "exec"), {})


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


def commands(document: Path) -> list[list[str]]:
    """The arguments of every `ikem` command in a block of the shell's."""
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [words[1:] for line in lines if (words := shlex.split(line, comments=True))[:1] == ["ikem"]]


COMMANDS = [(document.name, words) for document in DOCUMENTS for words in commands(document)]


@pytest.mark.parametrize(
    ("document", "words"), COMMANDS, ids=lambda value: " ".join(value) if isinstance(value, list) else value
)
def test_commands_are_understood(
    document: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every option is one, and every value is allowed."""
    (tmp_path / "mine.yaml").write_text("run: runs/mine\n")  # stands for a configuration of the reader's own
    monkeypatch.chdir(tmp_path)
    parser = build_parser(words)
    parser.instantiate(parser.parse_args(words))


def test_every_protocol_has_a_command() -> None:
    given = {word for document, words in COMMANDS if document == "evaluation.md" for word in (words[0], *words[1:])}
    options = ("preset", "neighbors", "segments", "early", "semi", "fewshot", "classes", "fusion")
    assert {"evaluate", "finetune", "--checkpoint", "--finetune.semi", *(f"--evaluate.{o}" for o in options)} <= given

"""What is said in more than one place is the same in all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ikem.cli import COMMANDS

ROOT = Path(__file__).parent.parent
VERSION = re.search(r'^version = "(.+?)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]  # type: ignore[index]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (dated,) = re.findall(rf"^## \[{re.escape(VERSION)}\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert (citation["version"], str(citation["date-released"])) == (VERSION, dated)


def test_the_changelog_keeps_its_form() -> None:
    """Versions with dates, the newest first, and under each what kind of change it is."""
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    versions = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d\d-\d\d)", each) for each in headings]
    if headings[0] == "[Unreleased]":
        versions = versions[1:]
    assert all(versions)
    numbers = [tuple(map(int, version.groups()[:3])) for version in versions if version]
    assert numbers == sorted(numbers, reverse=True)
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_commits_are_checked_as_make_lint_does() -> None:
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"].replace(" --force-exclude", "") for hook in repository["hooks"]]
    lines = [line.replace("$(BIN)", ".venv/bin").replace(" $(FORMATTED_CPP)", "") for line in recipe.split("\n\t")]
    assert entries == [line.strip() for line in lines]
    assert repository["repo"] == "local"


@pytest.mark.parametrize(
    "template", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda path: path.stem
)
def test_issues_ask_for_the_installation(template: Path) -> None:
    fields = yaml.safe_load(template.read_text())["body"]
    labels = [field["attributes"]["label"] for field in fields]
    assert "The output of `python -m ikem_ext`" in labels
    assert len({field["id"] for field in fields}) == len(fields)


def test_changes_are_told_of_every_command() -> None:
    named = set(re.findall(r"\w+", (ROOT / "CHANGELOG.md").read_text()))
    from_the_start = {"synthesize", "prepare", "pretrain", "distill", "report"}  # in words
    assert set(COMMANDS) - from_the_start <= named

"""The tutorials, each run from top to bottom in an empty folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import ROOT, run_examples

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda path: path.stem)
def test_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_examples(page, tmp_path, monkeypatch)
    capsys.readouterr()

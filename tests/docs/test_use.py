"""The examples of docs/use.md, run on a small run in the place of the demo's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pages import ROOT, run_examples
from use.conftest import demo  # noqa: F401 (the fixture)


def test_examples_run(
    demo: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(demo, tmp_path, dirs_exist_ok=True)
    run_examples(ROOT / "docs" / "use.md", tmp_path, monkeypatch)
    capsys.readouterr()

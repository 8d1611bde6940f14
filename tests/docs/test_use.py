"""The examples of docs/use.md, run on a small run in the place of the demo's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pages import ROOT, run_examples
from use.conftest import demo  # noqa: F401 (the fixture)

from ikem.use.classifier import CLASSIFIER, ActionClassifier, load_classifier, save_classifier


def test_examples_run(
    demo: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(demo, tmp_path, dirs_exist_ok=True)
    _keep_a_stream(tmp_path / "runs" / "demo" / CLASSIFIER)
    run_examples(ROOT / "docs" / "use.md", tmp_path, monkeypatch)
    capsys.readouterr()


def _keep_a_stream(path: Path) -> None:
    """Of a stored classifier: exporting takes half a minute for each."""
    whole = load_classifier(path)
    first = dict(list(whole.streams.items())[:1])
    save_classifier(path, ActionClassifier(first, whole.encoder_config, whole.classes, whole.recipe))

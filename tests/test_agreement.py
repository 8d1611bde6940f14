"""How far modalities err on the same clips: the measures, and what is read of which run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from programs import load

from ikem.config import THREE_STREAMS
from ikem_ext import MODALITIES

load("streams")
agreement = load("agreement")

STAGES = ("random", "stage1", "stage2")


SIX, THREE = "late_fused6", "late_fused3"


def evaluated(folder: Path, run: str, right: int) -> None:
    """A run of four clips: after stage 2 ``right`` of the joints' are, else none, and the first two of all others."""
    stages = {"student": THREE_STREAMS} if run.startswith("student") else dict.fromkeys(STAGES, MODALITIES)
    labels = np.array([0, 1, 2, 3])
    classes = {}
    for stage, modalities in stages.items():
        for name in (*modalities, *([SIX] if modalities is MODALITIES else []), THREE):
            count = 2 if name != "joint" else right if stage == "stage2" else 0
            classes[f"classes_{stage}_{name}"] = np.where(np.arange(4) < count, labels, 9)[:, None]
    path = folder / "runs" / run
    path.mkdir(parents=True)
    (path / "evaluation.json").write_text(json.dumps({"rows": []}))
    np.savez(path / "evaluation.npz", labels=labels, **classes)


def test_errors_that_are_the_same_opposite_and_unrelated() -> None:
    right = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]], dtype=bool)
    found = agreement.measures(right[:2], right[0])
    assert found == pytest.approx(
        {"one modality": 0.5, "at least one is right": 0.5, "probabilities averaged": 0.5, "errors' correlation": 1}
    )
    found = agreement.measures(right[1:], np.array([True] * 4))
    assert (found["at least one is right"], found["errors' correlation"]) == pytest.approx((1, -1))
    draws = np.random.default_rng(0).random((6, 20000)) < 0.7
    assert abs(agreement.measures(draws, draws[0])["errors' correlation"]) < 0.01


def test_all_seeds_and_the_mean_of_folds(tmp_path: Path) -> None:
    for run, right in {
        "whole-fold1-seed1": 3,
        "whole-fold2-seed1": 1,
        "whole-fold1-seed2": 4,
        "whole-fold2-seed2": 4,
    }.items():
        evaluated(tmp_path, run, right)
    evaluated(tmp_path, "student-fold1-seed1", 0)
    both = agreement.collected(tmp_path)
    assert both[THREE]["at least one is right"]["student"] == [0.5]
    assert both[THREE]["one modality"]["student"] == pytest.approx([1 / 3])
    found = both[SIX]
    assert list(found["one modality"]) == ["random weights", "after stage 1", "after stage 2"]
    assert found["one modality"]["random weights"] == pytest.approx([10 / 24, 10 / 24])
    assert found["one modality"]["after stage 2"] == pytest.approx([0.5, 14 / 24])
    assert found["at least one is right"]["after stage 2"] == pytest.approx([0.625, 1])
    assert found["probabilities averaged"]["after stage 2"] == [0.5, 0.5]
    assert found["errors' correlation"]["after stage 1"] == pytest.approx([1, 1])  # of the five that err somewhere


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        agreement.main([str(tmp_path)])
    assert "source: expected evaluations" in capsys.readouterr().err
    evaluated(tmp_path, "whole-seed1", 2)
    page, stored = tmp_path / "page.md", tmp_path / "values.json"
    page.write_text("before\n<!-- agreement: begin -->\nold\n<!-- agreement: end -->\nafter\n")
    agreement.main([str(tmp_path), "--json", str(stored)])
    agreement.main([str(stored), "--table", str(page)])
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1], "old" in lines) == ("before", "after", False)
    assert "| six modalities | random weights (1) | after stage 1 (1) | after stage 2 (1) |" in lines
    assert "| one modality | 41.7 | 41.7 | 50.0 |" in lines
    assert json.loads(stored.read_text())[SIX]["errors' correlation"] == {
        "random weights": [pytest.approx(1)], "after stage 1": [pytest.approx(1)], "after stage 2": [pytest.approx(1)]
    }  # fmt: skip

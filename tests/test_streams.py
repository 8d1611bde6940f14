"""A study's tables, stream by stream: what is read of which run, and where it goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from programs import load

streams = load("streams")


def evaluated(folder: Path, run: str, top1: float) -> None:
    """A run whose joints have this accuracy after stage 2, and half of it by random weights."""
    row = {"protocol": "linear", "stream": "joint", "part": "test", "draw": None}
    rows = [row | {"stage": "random", "top1": top1 / 2}, row | {"stage": "stage2", "top1": top1}]
    rows += [rows[1] | {"part": "late", "top1": 0.1}, rows[1] | {"protocol": "semi", "draw": 0}]
    path = folder / "runs" / run / "evaluation.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"rows": rows}))


def test_values_are_those_of_all_seeds_and_the_mean_of_folds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run, top1 in {"whole-seed1": 0.5, "whole-seed2": 0.75, "whole-again-seed1": 0.9}.items():
        evaluated(tmp_path / "plain", run, top1)
    assert streams.collected(tmp_path / "plain") == {
        "test": {"linear": {"random weights": {"joint": [0.25, 0.375]}, "after stage 2": {"joint": [0.5, 0.75]}}},
        "late": {"linear": {"after stage 2": {"joint": [0.1, 0.1]}}},
    }
    for run, top1 in {"whole-fold1-seed1": 0.5, "whole-fold2-seed1": 1.0, "whole-fold1-seed2": 0.5}.items():
        evaluated(tmp_path / "folds", run, top1)
    assert streams.collected(tmp_path / "folds")["test"]["linear"]["after stage 2"] == {"joint": [0.75]}
    assert "seed 2 is left out, which has 1 of 2 folds" in capsys.readouterr().out


def test_the_page_has_the_parts_that_it_asks_for(tmp_path: Path) -> None:
    evaluated(tmp_path, "whole-seed1", 0.5)
    page, stored = tmp_path / "page.md", tmp_path / "values.json"
    page.write_text("before\n<!-- streams test: begin -->\nold\n<!-- streams test: end -->\nafter\n")
    streams.main([str(tmp_path), "--json", str(stored)])
    streams.main([str(stored), "--table", str(page)])
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1], "old" in lines) == ("before", "after", False)
    assert "| linear | random weights (1) | after stage 2 (1) |" in lines
    assert "| joint | 25.0 | 50.0 |" in lines


def test_what_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        streams.main([str(tmp_path)])
    assert "source: expected evaluations" in capsys.readouterr().err
    evaluated(tmp_path, "whole-seed1", 0.5)
    page = tmp_path / "page.md"
    page.write_text("<!-- streams early: begin --><!-- streams early: end -->")
    with pytest.raises(SystemExit):
        streams.main([str(tmp_path), "--table", str(page)])
    assert "asks for the part early, and there is test, late" in capsys.readouterr().err

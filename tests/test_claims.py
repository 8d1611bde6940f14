"""The claims' table and picture: what is paired with what, and what stays empty."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from programs import load

claims = load("claims")


def study(variants: dict[str, list[float | None]], **measure: Any) -> dict[str, Any]:
    measure = {"protocol": "linear", "stream": "fused", "part": "test"} | measure
    return {"measures": [{"measure": measure, "variants": {name: {"values": each} for name, each in variants.items()}}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    one = {"whole": [0.9, 0.8, 0.9], "random-weights": [0.5, 0.5, None], "contrast-alone": [0.95, 0.75, 0.9]}
    folds = {"whole-fold1": [0.9], "whole-fold2": [0.7], "random-weights-fold1": [0.5], "random-weights-fold2": [0.7]}
    (tmp_path / "one.json").write_text(json.dumps(study(one)))
    (tmp_path / "sbu.json").write_text(json.dumps(study(folds)))
    return tmp_path


def test_a_difference_is_of_the_seeds_that_have_both(folder: Path) -> None:
    found = claims.difference(json.loads((folder / "one.json").read_text()), claims.CLAIMS[0])
    assert found["differences"] == pytest.approx([0.4, 0.3])
    assert found["difference"] == pytest.approx(0.35)
    assert found["interval"] == pytest.approx([0.35 - 12.7062 * 0.05, 0.35 + 12.7062 * 0.05], abs=1e-4)  # t(1), 97.5 %


def test_folds_are_averaged_and_other_names_are_not_taken_for_folds() -> None:
    found = study({"whole-fold1": [0.9, 0.5], "whole-fold2": [0.7, None], "whole-again": [0.1, 0.1]})
    values = claims.values(found, claims.Number("whole"))
    assert values == {("-fold1", 0): 0.9, ("-fold1", 1): 0.5, ("-fold2", 0): 0.7}
    assert claims.repeated(values) == ([pytest.approx(0.7), 0.7], "fold")
    assert claims.repeated(values | {("-fold2", 1): 0.3}) == ([pytest.approx(0.8), 0.4], "seed")
    assert claims.values(found, claims.Number("whole", "retrieval")) == {}
    assert claims.values(study({"whole": [0.9]}, part="test_without_repeats"), claims.Number("whole")) == {}


def test_shares_of_the_labels_are_told_apart() -> None:
    tenth = study({"finetuned": [0.6]}, protocol="finetune", labels=0.1)
    all_labels = study({"finetuned": [0.9]}, protocol="finetune", labels=1.0)
    both = {"measures": tenth["measures"] + all_labels["measures"]}
    assert claims.values(both, claims.NUMBERS["10 % of the labels, three, finetuned"]) == {("", 0): 0.6}
    assert claims.values(both, claims.NUMBERS["all labels, three, finetuned"]) == {("", 0): 0.9}


def test_the_page_and_the_picture_are_made(folder: Path) -> None:
    page = folder / "page.md"
    page.write_text("\n".join(("before", claims.MARKS[0], "old", claims.MARKS[1], "after\n")))
    claims.main([str(folder), "--table", str(page)])
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1], "old" in lines) == ("before", "after", False)
    assert "| in points, mean over seeds, or folds of one, and 95 % interval | one | sbu |" in lines
    assert "| random weights, six | 50.0 ± 0.0 (2 seeds) | 60.0 (2 folds) |" in lines
    assert "| pretraining - random weights, linear | +35.0 ± 63.5 (2 seeds) | +20.0 ± 254.1 (2 folds) |" in lines
    assert "| exchange - as many epochs of contrast | +0.0 ± 12.4 |  |" in lines
    assert (folder / "claims.png").stat().st_size > 10_000


def test_a_page_without_marks_and_a_folder_without_studies_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = folder / "page.md"
    page.write_text("nothing")
    with pytest.raises(SystemExit):
        claims.main([str(folder), "--table", str(page)])
    assert "expected the marks <!-- claims: begin -->" in capsys.readouterr().err
    assert page.read_text() == "nothing"
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit):
        claims.main([str(tmp_path / "empty")])
    assert "folder: expected *.json" in capsys.readouterr().err

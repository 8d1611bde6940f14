"""Whose clip it is: what logistic regression reads of people from features of their other actions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from ikem.config import Config
from ikem.data.dataset import Clip, PreparedDataset
from ikem.evaluate import evaluate
from ikem.evaluation.subjects import people, subject_accuracy
from ikem.evaluation.table import results_tables
from ikem.report.run import Run
from ikem.report.text import to_markdown


def clips(subjects: list[str | None]) -> list[Clip]:
    return [Clip(f"clip{i}", 0, who, None, None, None, 50) for i, who in enumerate(subjects)]


def test_people_are_told_by_what_is_theirs_and_not_by_what_they_do() -> None:
    """Features of person and action: who it is can be told from the one, and by chance alone from the other."""
    random = torch.Generator().manual_seed(0)
    subjects, labels = np.arange(240) % 4, np.arange(240) // 4 % 6
    of_people, of_actions = (torch.randn(count, 8, generator=random) for count in (4, 6))
    noise = 0.1 * torch.randn(240, 8, generator=random)
    assert subject_accuracy(of_people[subjects] + noise, subjects, labels, 200.0) == 1
    assert subject_accuracy(of_actions[labels] + noise, subjects, labels, 200.0) < 0.4


def test_actions_that_were_learned_from_do_not_count() -> None:
    """Where a person looks otherwise in every action, what was learned of one says nothing of the next."""
    random = torch.Generator().manual_seed(0)
    subjects, labels = np.arange(240) % 4, np.arange(240) // 4 % 6
    apart = torch.randn(4, 6, 64, generator=random)
    assert subject_accuracy(apart[subjects, labels], subjects, labels, 200.0) < 0.5


def test_needs_known_people_and_several_actions() -> None:
    with pytest.raises(ValueError, match=r"evaluate.subjects: expected .* subjects, got 1 of 3 training clips without"):
        people(clips(["Ann", None, "Bo"]))
    with pytest.raises(ValueError, match=r"evaluate.subjects: expected .* at least two known subjects, got 1"):
        people(clips(["Ann", "Ann"]))
    features, subjects = torch.randn(4, 3), np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"evaluate.subjects: expected .* two classes, got one"):
        subject_accuracy(features, subjects, np.zeros(4, dtype=np.int64), 1.0)
    with pytest.raises(ValueError, match=r"evaluate.subjects: expected .* in each half of the classes, got one"):
        subject_accuracy(features, subjects, np.array([0, 1, 0, 1]), 1.0)


def test_is_in_rows_table_and_report(finished_run: Config, tmp_path: Path) -> None:
    config = replace(finished_run, evaluate=replace(finished_run.evaluate, subjects=True))
    result = evaluate(config, output=tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text())["rows"] == result["rows"]
    rows = {(row["stage"], row["stream"]): row for row in result["rows"] if row["protocol"] == "subject"}
    trained = {(row["stage"], row["stream"]) for row in result["rows"] if row["protocol"] == "retrieval"}
    assert set(rows) == {("raw", "joint")} | trained
    assert {(row["part"], row["draw"], row["seed"]) for row in rows.values()} == {("train", None, config.seed)}
    assert {row["control"] for row in rows.values()} == {"raw", "random", None}
    others = [row for row in result["rows"] if row["protocol"] != "subject"]
    assert others == json.loads((finished_run.run / "evaluation.json").read_text())["rows"]

    console = Console(width=80)
    with console.capture() as captured:
        console.print(results_tables(result)[-1])
    assert f"{100 * rows['stage2', 'joint']['top1']:.1f}" in captured.get()

    run = Run.read(finished_run.run, PreparedDataset(config.data.one_folder))
    assert "Whose clip it is" not in to_markdown(run, {})
    text = to_markdown(replace(run, evaluation=result), {})
    assert f"| randomly initialized | bone | {100 * rows['random', 'bone']['top1']:.1f} |" in text

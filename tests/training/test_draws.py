"""Few labels: which training clips are drawn, that nothing else is learned from, and what the rows and tables say."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ikem.config import Config, EvaluateConfig
from ikem.data.dataset import PreparedDataset
from ikem.evaluate import evaluate
from ikem.evaluation.draws import Draw, all_draws
from ikem.evaluation.evaluation import Evaluation
from ikem.evaluation.scores import over_draws
from ikem.evaluation.split import Split
from ikem.evaluation.stages import stages_of_run
from ikem.evaluation.table import results_tables
from ikem.report import report

SHARES, SHOTS = (0.01, 0.05, 0.1, 0.2), (1, 2, 5)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(6), [5, 20, 40, 80, 160, 95]))  # 400 clips
SPLIT = Split(np.arange(1000, 1400), np.arange(100), {"test": np.arange(100)}, {})


def drawn(seed: int = 1, **options: Any) -> list[Draw]:
    return all_draws(SPLIT, LABELS, EvaluateConfig(**{"semi": SHARES, "fewshot": SHOTS, **options}), seed)


def test_draws_are_functions_of_the_seed_and_their_number() -> None:
    first, again, other = drawn(), drawn(), drawn(seed=2)
    assert len(first) == 5 * (len(SHARES) + len(SHOTS))
    assert all(np.array_equal(a.clips, b.clips) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a.clips, b.clips) for a, b in zip(first, other, strict=True))
    assert len({tuple(draw.clips) for draw in first if draw.labels == 0.1}) == 5
    fewer = drawn(draws=2)  # more draws leave the first ones as they are
    assert all(np.array_equal(a.clips, b.clips) for a, b in zip(fewer, first, strict=False))


@pytest.mark.parametrize("by", ["class", "clip"])
@pytest.mark.parametrize("every_class", [True, False])
def test_draws_are_nested(by: str, every_class: bool) -> None:
    draws = drawn(semi=(0.02, 0.05, 0.1, 0.2), draw_by=by, every_class=every_class, draws=20)
    for number in range(20):
        for protocol in ("semi", "fewshot"):
            clips = [set(draw.clips) for draw in draws if (draw.protocol, draw.number) == (protocol, number)]
            assert all(smaller < larger for smaller, larger in pairwise(clips))
    for draw in draws:
        assert np.array_equal(draw.clips, np.unique(draw.clips))  # none twice


def test_how_many_are_drawn() -> None:
    """Rounded class by class (AimCLR's code), or down, of all (MAMP's); so many of each class are so many."""

    def counts(protocol: str, labels: float, **options: Any) -> set[tuple[int, ...]]:
        chosen = [draw for draw in drawn(**options) if (draw.protocol, draw.labels) == (protocol, labels)]
        return {tuple(np.bincount(LABELS[draw.clips], minlength=6)) for draw in chosen}

    assert counts("semi", 0.01) == {(1, 1, 1, 1, 2, 1)}
    assert counts("semi", 0.01, every_class=False) == {(0, 0, 0, 1, 2, 1)}
    assert counts("semi", 0.2) == {(1, 4, 8, 16, 32, 19)}
    assert {sum(found) for found in counts("semi", 0.01, draw_by="clip", every_class=False)} == {4}
    by_clip = counts("semi", 0.05, draw_by="clip")
    assert len(by_clip) > 1
    assert all(min(found) >= 1 for found in by_clip)
    assert min(min(found) for found in counts("semi", 0.05, draw_by="clip", every_class=False)) == 0
    assert counts("fewshot", 5) == {(5,) * 6}


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match=r"evaluate\.fewshot: expected at least 6 .* class 0 has 5"):
        all_draws(SPLIT, LABELS, EvaluateConfig(fewshot=(6,)), 0)
    with pytest.raises(ValueError, match=r"evaluate\.semi: .* at least two classes, and 0\.0025 gives 1 of one"):
        all_draws(SPLIT, LABELS, EvaluateConfig(semi=(0.0025,), draw_by="clip", every_class=False), 0)
    for wrong in ({"semi": (0.0,)}, {"semi": (0.1, 0.1)}, {"fewshot": (0,)}, {"draws": 0}, {"draw_by": "person"}):
        with pytest.raises(ValueError, match=rf"evaluate\.{next(iter(wrong))}: expected"):
            EvaluateConfig(**wrong)  # type: ignore[arg-type]


def test_a_test_clip_among_the_labelled_is_found_out() -> None:
    """A planted leak: one training clip is a test clip too, and the draws that hold it are not accepted."""
    leaking = replace(SPLIT, test=np.append(SPLIT.test, SPLIT.train[7]))
    with pytest.raises(ValueError, match=r"1 of the 400 labelled clips drawn for evaluate\.semi are test clips too"):
        all_draws(leaking, LABELS, EvaluateConfig(semi=(1.0,)), 0)


def with_few_labels(finished_run: Config, **options: Any) -> Config:
    few = {"semi": (0.2, 0.5), "fewshot": (1, 2), "draws": 2, "batch_size": 64, **options}
    return replace(finished_run, evaluate=replace(finished_run.evaluate, **few))


@pytest.fixture(scope="module")
def evaluated(finished_run: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    output = tmp_path_factory.mktemp("few labels")
    return evaluate(with_few_labels(finished_run), output=output), output


def test_rows_of_few_labels(evaluated: tuple[dict[str, Any], Path]) -> None:
    result, output = evaluated
    rows = [row for row in result["rows"] if row["protocol"] in ("semi", "fewshot")]
    assert json.loads((output / "evaluation.json").read_text())["rows"] == result["rows"]
    assert {(row["protocol"], row["labels"], row["draw"]) for row in rows} == {
        (protocol, labels, draw)
        for protocol, amounts in (("semi", (0.2, 0.5)), ("fewshot", (1, 2)))
        for labels in amounts
        for draw in (0, 1)
    }
    assert {row["control"] for row in rows} == {"raw", "random", None}
    assert all(row["seed"] == result["config"]["seed"] and 0 <= row["top1"] <= 1 for row in rows)
    assert {row["labelled_clips"] for row in rows if row["protocol"] == "fewshot"} == {3, 6}

    def streams(protocol: str, **fields: Any) -> set[tuple[str, ...]]:
        return {
            (row["stage"], row["stream"], row["part"])
            for row in result["rows"]
            if row["protocol"] == protocol and all(row[name] == value for name, value in fields.items())
        }

    assert streams("semi", classifier="linear") == streams("linear")
    assert streams("fewshot", classifier="retrieval") == streams("retrieval")


def test_unlabelled_clips_have_no_part(finished_run: Config, dataset: PreparedDataset) -> None:
    """The numbers stay, whatever the labels of the clips that were not drawn."""
    config = with_few_labels(finished_run, draws=1, fewshot=())
    config.evaluate.semi = (0.2,)
    stage = stages_of_run(config, dataset)[-1]

    def rows(change: bool) -> list[dict[str, Any]]:
        evaluation = Evaluation(config, dataset)
        (draw,) = evaluation.draws
        if change:
            others = np.setdiff1d(np.arange(len(evaluation.train_labels)), draw.clips)
            evaluation.train_labels[others] = (evaluation.train_labels[others] + 1) % 3
        evaluation.add_raw()
        evaluation.add_encoders(stage)
        return evaluation.board.rows

    unchanged, changed = rows(False), rows(True)
    assert [r for r in unchanged if r["protocol"] == "semi"] == [r for r in changed if r["protocol"] == "semi"]
    assert [r for r in unchanged if r["protocol"] == "linear"] != [r for r in changed if r["protocol"] == "linear"]


@pytest.mark.parametrize("preset", ["crosclr", "mamp"])
def test_all_clips_drawn_are_the_linear_probe(finished_run: Config, dataset: PreparedDataset, preset: Any) -> None:
    options = EvaluateConfig(preset=preset, epochs=2, batch_size=8, neighbors=(1,), semi=(1.0,), draws=1)
    evaluation = Evaluation(replace(finished_run, evaluate=options), dataset)
    evaluation.add_raw()
    evaluation.add_encoders(stages_of_run(finished_run, dataset)[-1])
    found: dict[str, dict[tuple[str, ...], float]] = {"semi": {}, "whole": {}}
    for row in evaluation.board.rows:
        names = (row["stage"], row["stream"], row["part"], row.get("classifier", row["protocol"]))
        found["semi" if row["protocol"] == "semi" else "whole"][names] = row["top1"]
    assert found["semi"] == found["whole"]


def test_chosen_classes(finished_run: Config, dataset: PreparedDataset) -> None:
    split = Split.of(dataset, "halves", ("sit", "0"))
    assert set(dataset.labels[split.train]) == set(dataset.labels[split.test]) == {0, 2}
    assert set(dataset.labels[split.test[split.parts["test_marked"]]]) == {0, 2}
    evaluation = Evaluation(with_few_labels(finished_run, classes=("walk", "sit")), dataset)
    assert {len(draw.clips) for draw in evaluation.draws if draw.protocol == "fewshot"} == {2, 4}
    with pytest.raises(ValueError, match=r"evaluate\.classes: expected .* got 3; it has walk, wave, sit"):
        Split.of(dataset, "halves", ("walk", "3"))
    with pytest.raises(ValueError, match=r"classes walk, cannot be evaluated: .* all of one class"):
        Split.of(dataset, "halves", ("walk",))


def test_tables_of_few_labels(evaluated: tuple[dict[str, Any], Path]) -> None:
    result = json.loads(json.dumps(evaluated[0]))
    longest = {"protocol": "semi", "stage": "published", "stream": "angular_velocity", "part": "test"}
    for labels in (0.01, 0.05, 0.1, 0.2, 0.4):
        for draw, top1 in enumerate((0.8, 0.4)):
            result["rows"].append({**longest, "classifier": "linear", "labels": labels, "draw": draw, "top1": top1})
    result["dataset"] |= {"name": "northwestern-ucla", "protocol": "cross-view"}
    printed = ""
    for table in results_tables(result):
        console = Console(width=80)
        with console.capture() as captured:
            console.print(table)
        printed += captured.get()
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert {"1%", "20%", "40%", "60.0±28.3"} <= set(printed.split())


def test_report_of_few_labels(finished_run: Config, evaluated: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    result, output = evaluated
    (tmp_path / "config.yaml").write_text((finished_run.run / "config.yaml").read_text())
    for name in ("evaluation.json", "evaluation.npz"):
        (tmp_path / name).write_bytes((output / name).read_bytes())
    text = report(replace(finished_run, run=tmp_path)).read_text()
    assert (tmp_path / "pictures" / "few_labels.png").is_file()
    rows = [row for row in result["rows"] if row["part"] == "test"]
    spread = over_draws(rows, "semi")["stage2", "fused3", "linear"][0.5]
    line = next(
        line for line in text.split("## Few labels")[1].splitlines() if "exchange" in line and "| fused three |" in line
    )
    assert f"{100 * spread.mean:.1f} ± {100 * spread.deviation:.1f}" in line  # type: ignore[operator]

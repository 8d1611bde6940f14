"""Studies: what is refused, run, shared and skipped, and what the table says; mostly with imitated commands."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from training import killed_study
from training.scripts import run_script
from training.study_steps import run_in_process
from training.tiny import tiny_config

from ikem.checkpoint import read_checkpoint
from ikem.cli import main
from ikem.config import Config, flatten, plain
from ikem.evaluate import evaluate
from ikem.files import replacing, write_text
from ikem.finetune import finetunings
from ikem.pretrain import Pretraining, pretrain
from ikem.study import study
from ikem.study.definition import read_study
from ikem.study.keys import PIECE_BYTES, PIECES, dataset_digest
from ikem.study.picture import draw
from ikem.study.process import StudyStopped
from ikem.study.progress import Progress
from ikem.study.remaining import remaining_seconds
from ikem.study.steps import config_of_step

StudyFile = Callable[..., Path]
VARIANTS = {"whole": {}, "no-context": {"overrides": {"pretrain.context": False}}}
STUDIES = Path(__file__).parents[2] / "results" / "studies"


@pytest.fixture
def study_file(tmp_path: Path, dataset_folder: Path) -> StudyFile:
    """Writes the file of a tiny study; keyword arguments replace parts of it, changes options of its base."""
    base = dict(flatten(plain(tiny_config(tmp_path, dataset_folder))))
    del base["run"], base["seed"]

    def write(base_changes: dict[str, Any] | None = None, **parts: Any) -> Path:
        parts = {"base": base | (base_changes or {})} | parts
        content = {"variants": VARIANTS, "seeds": [1, 2], "out": str(tmp_path / "study"), **parts}
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


class Commands:
    """Stand in for the processes of steps: leave files like theirs, and note what was run.

    A checkpoint says what it was trained from; an accuracy follows from context, student, labels, draw and seed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[str] = []
        self.begun_with: dict[str, str] = {}  # run -> the checkpoint that its pretraining found
        self.fails: dict[str, BaseException] = {}  # "run step" -> what it raises
        monkeypatch.setattr("ikem.study.run.run_step", self.run_step)
        monkeypatch.setattr("ikem.study.sharing.other_stage2", lambda checkpoint, config: checkpoint)

    def run_step(self, step: str, config: Config, held: int, watch: Callable[[], None]) -> None:
        self.ran.append(f"{config.run.name} {step}")
        watch()
        if step == "pretrain" and (found := config.run / "pretrain" / "last.ckpt").is_file():
            self.begun_with[config.run.name] = read_checkpoint(found, "pretrain")["text"]
        if step == "pretrain":
            write_text(config.run / "pretrain" / "metrics.csv", "epoch,loss\n0,1.0\n1,0.5\n2,0.4\n")
            self._checkpoint(config, "stage1.ckpt", f"stage 1 of {config.run.name}")
        if error := self.fails.get(self.ran[-1]):
            raise error
        if step == "pretrain":
            self._checkpoint(config, "last.ckpt", config.run.name)
        elif step == "distill":
            write_text(config.run / "distill" / "last.ckpt", config.run.name)
        elif step == "evaluate":
            self._write_rows(config.run / "evaluation.json", self._evaluated(config))
        else:
            for single in finetunings(config_of_step(config, step)):
                path = config.run / "finetune" / single.finetune.name / "evaluation.json"
                self._write_rows(path, self._finetuned(single))

    def _checkpoint(self, config: Config, name: str, text: str) -> None:
        with replacing(config.run / "pretrain" / name) as temporary:
            torch.save({"ikem": {"kind": "pretrain"}, "state_dict": {}, "text": text}, temporary)

    def _write_rows(self, path: Path, rows: list[dict[str, Any]]) -> None:
        write_text(path, json.dumps({"rows": rows, "environment": {"commit": "abc"}}))

    def _evaluated(self, config: Config) -> list[dict[str, Any]]:
        learned = 0.5 + 0.01 * config.seed**2 + (0.1 + 0.02 * config.seed if config.pretrain.context else 0)
        stages = {"raw": 0.3, "random": 0.4, "stage1": learned / 2, "stage2": learned}
        if (config.run / "distill").exists():
            stages["student"] = learned / 4
        rows = []
        for part, stage, stream in itertools.product(
            ("test", "test_marked"), stages, ("joint", "bone", "fused3", "late_fused3")
        ):
            if stage == "raw" and stream != "joint":
                continue
            control = stage if stage in ("raw", "random") else None
            origin = {"stage": stage, "stream": stream, "part": part, "control": control, "draw": None}
            top1 = stages[stage] + (0.001 if part == "test_marked" else 0)
            rows.append(origin | {"protocol": "linear", "top1": top1})
            if stage != "raw":
                for k in (1, 5, 20):
                    protocol = "retrieval" if k == 1 else "knn"
                    rows.append(origin | {"protocol": protocol, "neighbors": k, "top1": top1 + 0.01 * k})
            for share, number, classifier in itertools.product((0.1, 0.2), (0, 1), ("linear", "retrieval")):
                drawn = {"labels": share, "draw": number, "classifier": classifier}
                rows.append(origin | {"protocol": "semi", **drawn, "top1": top1 * share + 0.01 * number})
        return rows

    def _finetuned(self, config: Config) -> list[dict[str, Any]]:
        options = config.finetune
        random = options.init == "random"
        return [
            {
                "protocol": "finetune",
                "stage": "random" if random else "stage2",
                "stream": stream,
                "part": "test",
                "control": "supervised" if random else None,
                "draw": options.draw if options.labels < 1 else None,
                "labels": options.labels,
                "top1": (0.5 if random else 0.8) * options.labels + 0.01 * config.seed,
            }
            for stream in ("joint", "fused3")
        ]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(monkeypatch)


def values(results: dict[str, Any], measure: int = 0) -> dict[str, list[float]]:
    return {name: found["values"] for name, found in results["measures"][measure]["variants"].items()}


def without_seconds(results: dict[str, Any]) -> dict[str, Any]:
    return {**results, "runs": [{**run, "seconds": list(run["seconds"])} for run in results["runs"]]}


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"seed": [1]}, "study: expected base, variants.*got seed"),
        ({"variants": None}, "has no variants"),
        ({"base": "nothing"}, "base: config: expected a YAML file or one of demo.*got 'nothing'"),
        ({"base": {"extends": "nothing"}}, "base: config: expected a YAML file or one of demo.*got 'nothing'"),
        ({"base": {"pretrain": {"epoch": 3}}}, "variants.whole.overrides: .*'epoch'"),
        ({"variants": {"a": {"overrides": {"pretrain.epoch": 3}}}}, "variants.a.overrides: .*'epoch'"),
        ({"variants": {"a": {"overrides": {"pretrain.epochs": 0}}}}, "variants.a.overrides: pretrain.epochs: expected"),
        ({"variants": {"a": {"overrides": {"pretrain": 5}}}}, "variants.a.overrides"),
        ({"variants": {"a": {"overrides": {"seed": 5}}}}, "variants.a.overrides.seed: the study says it"),
        (
            {"variants": {"a": {"overrides": {"pretrain.topk": 1, "pretrain": {"topk": 2}}}}},
            "pretrain.topk is there tw",
        ),
        ({"variants": {"a": {"override": {}}}}, "variants.a: expected overrides, steps, control, of, got override"),
        ({"variants": {"a": {"steps": ["train"]}}}, "variants.a.steps: expected some of pretrain, .*'train'"),
        (
            {"variants": {"a": {"steps": ["distill", "evaluate"]}}},
            "steps: expected pretrain before distill, or a distill.t",
        ),
        ({"variants": {"a": {"overrides": {"trainer.devices": 2}}}}, "variants.a: expected trainer.devices = 1, got 2"),
        ({"variants": {"a": {"overrides": {"data.folder": ["x", "y"]}}}}, r"variants.a: .*one data.folder .* x \+ y"),
        ({"variants": {"a/b": {}}}, "variants: expected names of letters.*'a/b'"),
        ({"variants": {"a": {}, "b": {"overrides": {"pretrain.epochs": 3}}}}, "variants.b: the same as variants.a"),
        ({"variants": {"a": {}, "b": {"control": "zero"}}}, "variants.b.control: expected one of random, raw"),
        ({"variants": {"a": {}, "b": {"control": "raw", "of": "c"}}}, "variants.b.of: expected one of a, got 'c'"),
        ({"variants": {"b": {"control": "raw"}}}, "variants: expected at least one that is no control"),
        ({"seeds": [1, 2, 1]}, "seeds: 1 is there twice"),
        ({"seeds": [1, -2]}, "seeds: expected a list of whole numbers"),
        ({"reference": "best"}, "reference: expected one of whole, no-context, got 'best'"),
        (
            {"measure": [{"protocol": "linear", "stage": "stage3"}]},
            r"measure\[0\].stage: expected one of last, .*stage3",
        ),
        ({"measure": [{"stage": "stage1"}]}, r"measure\[0\].protocol: expected one of linear"),
        ({"measure": [{"protocol": "knn"}]}, r"measure\[0\]: knn needs neighbors beside it, got None"),
        (
            {"measure": [{"protocol": "linear", "seen": 1}]},
            r"measure\[0\]: linear needs nothing more beside it, got seen",
        ),
        ({"measure": [{"protocol": "retrieval", "metric": "top5"}]}, r"measure\[0\].metric: retrieval has no top5"),
        ({"measure": [{"protocol": "knn", "neighbors": 7}]}, "variants.whole: expected evaluate.neighbors with .* 7"),
        ({"measure": [{"protocol": "early", "seen": 0.5}]}, "variants.whole: expected evaluate.early with .* 0.5"),
        ({"measure": [{"protocol": "logistic"}]}, "variants.whole: expected evaluate.segments > 0"),
        ({"measure": [{"protocol": "subject"}]}, "variants.whole: expected evaluate.subjects"),
        (
            {"measure": [{"protocol": "linear", "stream": "learned_fused2"}]},
            "variants.whole: expected evaluate.fusion with learned for the measured learned_fused2",
        ),
        ({"measure": [{"protocol": "linear"}, {"protocol": "linear"}]}, "measure: .* is there twice"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    study_file: StudyFile, commands: Commands, parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        study(study_file(**parts))
    assert not commands.ran


def test_a_name_that_is_there_twice_is_refused(study_file: StudyFile) -> None:
    path = study_file()
    path.write_text(path.read_text().replace("no-context:", "whole:"))
    with pytest.raises(ValueError, match=r"line \d+: whole is there twice"):
        read_study(path)


def test_what_a_merge_brings_may_be_changed_beside_it(study_file: StudyFile) -> None:
    path = study_file()
    shared = "  one: {overrides: &shared {pretrain.topk: 2, views.jitter: 0.1}}\n"
    path.write_text(
        path.read_text().replace(
            "variants:\n", f"variants:\n{shared}  two: {{overrides: {{<<: *shared, views.jitter: 0.2}}}}\n"
        )
    )
    one, two, *_ = read_study(path).variants
    assert (one.config.pretrain.topk, one.config.views.jitter) == (2, 0.1)
    assert (two.config.pretrain.topk, two.config.views.jitter) == (2, 0.2)


def test_a_base_extends_a_configuration(study_file: StudyFile) -> None:
    path = study_file(base={"extends": "utd-mhad", "pretrain.topk": 7, "encoder": {"feature_width": 32}})
    config = read_study(path).variants[0].config
    assert (config.pretrain.topk, config.encoder.feature_width) == (7, 32)
    assert (config.views.jitter, config.evaluate.segments) == (0.1, 4)  # of tiny, which utd-mhad extends, and of itself


@pytest.mark.parametrize("name", sorted(path.name for path in STUDIES.glob("*.yaml") if "base:" in path.read_text()))
def test_the_studies_of_the_results_are_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(STUDIES.parents[1])
    study = read_study(STUDIES / name)
    assert study.out == Path("runs") / study.out.name
    assert {"random", "raw"} & {variant.control for variant in study.variants}


def test_the_examples_of_the_docs_are_right(tmp_path: Path) -> None:
    docs = Path(__file__).parents[2] / "docs"
    example = read_study(docs / "study.yaml")
    assert [variant.name for variant in example.variants if variant.control] == ["random-weights", "coordinates"]
    path = tmp_path / "study.yaml"
    path.write_text((docs / "evaluation.md").read_text().split("## Studies")[1].split("```yaml")[1].split("```")[0])
    assert read_study(path).variants[0].steps == ("pretrain", "finetune", "supervised")


# ----------------------------------------------------------------------------------- what is run, shared, skipped


def test_runs_each_once_and_says_how_far_it_is(
    study_file: StudyFile, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    results = study(study_file())
    runs = ("whole-seed1", "no-context-seed1", "whole-seed2", "no-context-seed2")
    assert commands.ran == [f"{run} {step}" for run in runs for step in ("pretrain", "evaluate")]
    printed = capsys.readouterr().out
    assert "study: no-context, seed 2: pretrain (run 4 of 4, 0:00:0" in printed
    assert "a table of accuracies" not in printed  # but in the run's folder

    commands.ran.clear()
    again = study(study_file())
    assert not commands.ran
    assert again == results


def test_stage_1_is_trained_once_for_variants_of_stage_2(study_file: StudyFile, commands: Commands) -> None:
    no_heads = {"pretrain.implicit": False}
    variants = {
        "later": {"overrides": {"pretrain": {"epochs": 4, "exchange_epoch": 3}}},
        "contrast-alone": {"overrides": {**no_heads, "pretrain.explicit": False}},
        **VARIANTS,
        "longer": {"overrides": {"pretrain": {"epochs": 4}}},
        "cooler": {"overrides": {"pretrain.temperature": 0.1}},
        "no-heads": {"overrides": no_heads},
        "earlier-decay": {"overrides": {"pretrain.milestones": [1]}},
        "contrast-for-longer": {"overrides": {**no_heads, "pretrain.explicit": False, "pretrain.epochs": 4}},
    }
    study(study_file(variants=variants))
    sources = {"no-context": "whole", "longer": "whole", "no-heads": "whole"}
    sources |= {"later": "whole", "contrast-alone": "later", "contrast-for-longer": "later"}
    assert commands.begun_with == {
        f"{name}-seed{seed}": f"stage 1 of {source}-seed{seed}" for name, source in sources.items() for seed in (1, 2)
    }


def test_the_same_training_is_copied(study_file: StudyFile, commands: Commands, tmp_path: Path) -> None:
    variants = {
        "usual": {},
        "other-student": {"overrides": {"distill.temperature": 0.2}},
        "other-probe": {"overrides": {"evaluate.epochs": 9}},
    }
    study(study_file(variants=variants, seeds=[1]))
    trained = [name for name in commands.ran if not name.endswith("evaluate")]
    assert trained == ["usual-seed1 pretrain", "usual-seed1 distill", "other-student-seed1 distill"]
    runs = tmp_path / "study" / "runs"
    assert read_checkpoint(runs / "other-probe-seed1" / "pretrain" / "last.ckpt", "pretrain")["text"] == "usual-seed1"


def test_a_changed_variant_is_refused_and_done_again_on_demand(study_file: StudyFile, commands: Commands) -> None:
    study(study_file())
    commands.ran.clear()
    changed = study_file(variants={**VARIANTS, "no-context": {"overrides": {"pretrain.topk": 2}}})
    with pytest.raises(ValueError, match=r"no-context, seed 1 \(pretrain, evaluate in .*--overwrite"):
        study(changed)
    assert not commands.ran
    study(changed, overwrite=True)
    assert commands.ran == [f"no-context-seed{n} {step}" for n in (1, 2) for step in ("pretrain", "evaluate")]


def test_a_folder_of_another_origin_is_refused(study_file: StudyFile, commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "study" / "runs" / "whole-seed1" / "pretrain").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"whole, seed 1 \(pretrain in "):
        study(study_file())


def test_a_step_that_is_dropped_counts_as_a_change(study_file: StudyFile, commands: Commands) -> None:
    variants = {"whole": {"steps": ["pretrain", "distill", "evaluate"]}}
    study(study_file(variants=variants))
    with pytest.raises(ValueError, match="distill, evaluate in"):
        study(study_file(variants={"whole": {}}))
    results = study(study_file(variants={"whole": {}}), overwrite=True)
    assert values(results)["whole"][0] == pytest.approx(0.63)  # of stage 2, no student is left


def test_a_failure_is_named_and_the_others_go_on(
    study_file: StudyFile, commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = study_file(), tmp_path / "study"
    whole = without_seconds(study(file))
    shutil.rmtree(out)
    commands.ran.clear()
    commands.fails = {"no-context-seed1 pretrain": RuntimeError("out of memory\nof 1 GiB")}
    with pytest.raises(SystemExit) as stopped:
        main(["study", str(file)])
    assert stopped.value.code == 2
    reason = "no-context, seed 1: pretrain: out of memory of 1 GiB"
    assert f"1 of 4 runs failed: {reason}" in capsys.readouterr().err
    assert f"- {reason}" in (out / "study.md").read_text()
    assert "| no-context | 51.00" not in (out / "study.md").read_text()
    assert "1 of 2" in (out / "study.md").read_text()
    assert commands.ran[-1] == "no-context-seed2 evaluate"

    commands.fails = {}
    assert without_seconds(study(file)) == whole


def test_one_changed_variant_alone_is_done_again(study_file: StudyFile, commands: Commands) -> None:
    study(study_file())
    commands.ran.clear()
    changed = study_file(base_changes={"pretrain.temperature": 0.1})
    with pytest.raises(ValueError, match=r"no-context, seed 1 \(pretrain, evaluate in .*no-context, seed 2 \("):
        study(changed, overwrite="whole")
    with pytest.raises(ValueError, match="overwrite: expected one of whole, no-context, got 'all'"):
        study(changed, overwrite="all")
    assert not commands.ran
    changed = study_file(variants={**VARIANTS, "whole": {"overrides": {"pretrain.topk": 2}}})
    main(["study", str(changed), "--overwrite", "whole"])
    assert commands.ran == [f"whole-seed{n} {step}" for n in (1, 2) for step in ("pretrain", "evaluate")]


def test_other_data_are_a_change(
    study_file: StudyFile, commands: Commands, dataset_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(dataset_folder, folder)
    study(study_file(base_changes={"data.folder": str(folder)}))
    commands.ran.clear()
    folder.rename(tmp_path / "moved")
    folder = tmp_path / "moved"
    file = study_file(base_changes={"data.folder": str(folder), "data.workers": 2})
    study(file)  # the same data in another place
    assert not commands.ran
    for change in (_change_a_joint, _change_a_name):
        change(folder)
        with pytest.raises(
            ValueError, match=r"whole, seed 1 \(pretrain, evaluate in .*no-context, seed 1 \(pretrain, ev"
        ):
            study(file)
        study(file, overwrite=True)
        assert len(commands.ran) == 8
        commands.ran.clear()
    (folder / "joints.npy").unlink()
    with pytest.raises(ValueError, match=r"moved is not a prepared data set, it has no joints.npy"):
        study(file)


def _change_a_joint(folder: Path) -> None:
    joints = np.load(folder / "joints.npy", mmap_mode="r+")
    joints[-1, 0, -1, -1, 0] += 1e-3
    joints.flush()


def _change_a_name(folder: Path) -> None:
    path = folder / "clips.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], "X" + lines[-1][1:]]) + "\n")


def test_a_large_file_is_sampled_from_end_to_end(dataset_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(dataset_folder, folder)
    size = 3 * PIECES * PIECE_BYTES
    found = []
    for places in ([], [0], [size - 1], [size // 2 + PIECE_BYTES]):
        content = np.zeros(size, dtype=np.uint8)
        content[places] = 1
        content.tofile(folder / "joints.npy")
        os.utime(folder / "joints.npy", ns=(0, len(found)))  # writing may be faster than the clock of the files
        found.append(dataset_digest(folder))
    assert len(set(found[:3])) == 3
    np.zeros(size + 1, dtype=np.uint8).tofile(folder / "joints.npy")
    assert dataset_digest(folder) not in found


def test_a_checkpoint_that_is_given_counts_by_its_content(
    study_file: StudyFile, commands: Commands, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher.ckpt"
    parts = {
        "variants": {"student": {"steps": ["distill", "evaluate"]}},
        "seeds": [1],
        "base_changes": {"distill.teacher": str(teacher)},
    }
    with pytest.raises(ValueError, match=r"distill.teacher: there is no file .*teacher.ckpt"):
        study(study_file(**parts))
    teacher.write_text("one")
    study(study_file(**parts))
    teacher.write_text("another")
    with pytest.raises(ValueError, match=r"student, seed 1 \(distill, evaluate in"):
        study(study_file(**parts))


def test_a_step_that_fails_stops_what_builds_on_it_alone(study_file: StudyFile, commands: Commands) -> None:
    variants = {
        "whole": {"steps": ["pretrain", "distill", "evaluate", "finetune"]},
        "scratch": {"control": "supervised"},
    }
    file = study_file(variants=variants, seeds=[1])
    commands.fails = {"whole-seed1 distill": RuntimeError("one"), "whole-seed1 finetune": RuntimeError("two")}
    with pytest.raises(ValueError, match="1 of 1 runs failed: whole, seed 1: distill: one; finetune: two"):
        study(file)
    assert [each.split()[1] for each in commands.ran] == ["pretrain", "distill", "finetune", "supervised"]


def test_studies_beside_each_other_share_the_work(
    study_file: StudyFile, commands: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first is held up in a stage 1; the second does another seed, and nothing that builds on that stage 1."""
    file = study_file()
    begun, go_on = threading.Event(), threading.Event()
    by: dict[str, str] = {}

    def run_step(step: str, config: Config, held: int, watch: Callable[[], None]) -> None:
        by[f"{config.run.name} {step}"] = threading.current_thread().name
        if threading.current_thread().name == "first" and not begun.is_set():
            begun.set()
            assert go_on.wait(60)
        commands.run_step(step, config, held, watch)
        if {f"{name}-seed2 evaluate" for name in VARIANTS} <= by.keys():
            go_on.set()

    monkeypatch.setattr("ikem.study.run.run_step", run_step)
    monkeypatch.setattr("ikem.study.run.POLL_SECONDS", 0.01)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(_named, "first", lambda: study(file, beside=True))
        assert begun.wait(60)
        second = study(file, beside=True)
        assert first.result() == second
    held_up = next(name for name, thread in by.items() if thread == "first")
    assert "-seed1 pretrain" in held_up
    assert {thread for name, thread in by.items() if "-seed2" in name} == {"MainThread"}
    assert len(commands.ran) == len(set(commands.ran)) == len(by)
    assert all(run["missing"] is None for run in second["runs"])
    assert "study: waits for what other processes are at work on" in capsys.readouterr().out


def _named(name: str, call: Callable[[], Any]) -> Any:
    threading.current_thread().name = name
    return call()


def test_beside_others_nothing_is_overwritten(study_file: StudyFile, commands: Commands) -> None:
    with pytest.raises(ValueError, match="overwrite: expected to be alone, got --beside"):
        study(study_file(), overwrite=True, beside=True)
    assert not commands.ran


def test_a_signal_stops_the_study(
    study_file: StudyFile, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    file = study_file()
    commands.fails = {"no-context-seed1 pretrain": StudyStopped(143)}
    with pytest.raises(SystemExit) as stopped:
        main(["study", str(file)])
    assert stopped.value.code == 143
    assert commands.ran[-1] == "no-context-seed1 pretrain"
    assert "no-context, seed 1: pretrain: stopped; the same command goes on" in capsys.readouterr().out


def test_the_time_that_is_left(study_file: StudyFile, commands: Commands) -> None:
    """Whole takes 3 epochs, no-context one after its stage 1, and the second seed both again."""
    runs = read_study(study_file()).runs()
    assert remaining_seconds(runs) is None
    for step, seconds in (("pretrain", 30.0), ("evaluate", 5.0)):
        progress = Progress(runs[0])
        progress.begin(step)
        progress.spend(step, seconds, finished=True)
    assert remaining_seconds(runs) == 10 + 5 + 30 + 5 + 10 + 5
    progress = Progress(runs[1])
    progress.begin("pretrain")
    progress.spend("pretrain", 14.0, finished=False)
    assert remaining_seconds(runs) == 65
    progress.spend("pretrain", 4.0, finished=True)  # 18 seconds for its epoch
    assert remaining_seconds(runs) == 5 + 30 + 5 + 18 + 5


def test_epochs_take_as_long_as_their_clips(study_file: StudyFile, commands: Commands) -> None:
    variants = {"whole": {}, "half": {"overrides": {"data.share": 0.5, "pretrain.temperature": 0.1}}}
    runs = read_study(study_file(variants=variants, seeds=[1])).runs()
    done = Progress(next(run for run in runs if run.variant == "whole"))
    for step, seconds in (("pretrain", 30.0), ("evaluate", 5.0)):
        done.begin(step)
        done.spend(step, seconds, finished=True)
    assert remaining_seconds(runs) == 15 + 5


# ------------------------------------------------------------------------------------------------------ the table


def test_spread_and_paired_differences(study_file: StudyFile, commands: Commands, tmp_path: Path) -> None:
    results = study(study_file(seeds=[1, 2, 3], reference="no-context"))
    whole, other = ([0.63, 0.68, 0.75], [0.51, 0.54, 0.59])
    assert values(results) == {"whole": pytest.approx(whole), "no-context": pytest.approx(other)}
    found = results["measures"][0]["variants"]["whole"]
    assert found["mean"] == pytest.approx(sum(whole) / 3)
    assert found["deviation"] == pytest.approx(stats.tstd(whole))
    interval = stats.ttest_rel(whole, other).confidence_interval(0.95)
    assert found["interval"] == pytest.approx([interval.low, interval.high])
    assert results["measures"][0]["variants"]["no-context"]["interval"] is None

    text = (tmp_path / "study" / "study.md").read_text()
    assert "| whole | 68.67 ± 6.03 | 3 of 3 | +14.00 | [+9.03, +18.97] |" in text
    assert "## Missing" not in text
    stored = json.loads((tmp_path / "study" / "study.json").read_text())
    assert stored == results
    assert stored["runs"][0]["environments"]["evaluate"] == {"commit": "abc"}
    assert (tmp_path / "study" / "study.png").read_bytes()[:4] == b"\x89PNG"


def test_one_seed_has_no_spread(study_file: StudyFile, commands: Commands, tmp_path: Path) -> None:
    study(study_file(seeds=[1]))
    assert "| no-context | 51.00 | 1 of 1 | -12.00 |  |" in (tmp_path / "study" / "study.md").read_text()


def test_measures_choose_rows(study_file: StudyFile, commands: Commands) -> None:
    measures = [
        {"protocol": "linear", "stage": "stage1", "stream": "bone"},
        {"protocol": "knn", "neighbors": 20, "part": "test_marked"},
        {"protocol": "linear"},
        {"protocol": "linear", "stage": "student"},
        {"protocol": "linear", "metric": "top5"},
    ]
    results = study(study_file(variants={"whole": {}}, seeds=[1], measure=measures))
    found = [values(results, place)["whole"] for place in range(len(measures))]
    assert found[:4] == [pytest.approx([x]) for x in (0.315, 0.63 / 4 + 0.201, 0.63 / 4, 0.63 / 4)]
    assert found[4] == [None]


def test_controls_are_read_from_the_same_evaluation(study_file: StudyFile, commands: Commands) -> None:
    controls = {"random-weights": {"control": "random"}, "coordinates": {"control": "raw", "of": "no-context"}}
    results = study(study_file(variants={**VARIANTS, **controls}))
    assert len(commands.ran) == 8  # none for the controls
    text = (Path(read_study(study_file()).out) / "study.md").read_text()
    assert text.count("| random-weights |") == 2
    assert text.count("| coordinates |") == 1
    assert values(results)["random-weights"] == [0.4, 0.4]
    assert values(results)["coordinates"] == [0.3, 0.3]
    assert values(results, 1)["coordinates"] == [None, None]  # no retrieval by coordinates


def test_finetuning_beside_the_same_from_random_weights(
    study_file: StudyFile, commands: Commands, tmp_path: Path
) -> None:
    variants = {
        **VARIANTS,
        "scratch": {"control": "supervised"},
        "wider-scratch": {"steps": ["supervised"], "overrides": {"encoder.feature_width": 8}},
    }
    measures = [
        {"protocol": "finetune"},
        {"protocol": "finetune", "labels": 0.5, "stream": "joint"},
        {"protocol": "linear"},
    ]
    parts = {"variants": variants, "seeds": [1, 2], "measure": measures}
    with pytest.raises(ValueError, match=r"variants.whole: expected shares of .* with the measured 0.5, got \[1.0\]"):
        study(study_file(**parts))
    file = study_file(**parts, base_changes={"finetune.semi": [0.5, 1.0], "finetune.draws": 2})
    results = study(file)
    steps = {run.variant: run.steps for run in read_study(file).runs()}
    assert steps["whole"] == ("pretrain", "evaluate", "finetune", "supervised")
    assert steps["no-context"] == ("pretrain", "evaluate", "finetune")
    assert values(results) == {
        "whole": [0.81, pytest.approx(0.82)],
        "no-context": [0.81, pytest.approx(0.82)],
        "scratch": [0.51, 0.52],
        "wider-scratch": [0.51, 0.52],
    }
    assert values(results, 1)["scratch"] == [0.26, 0.27]
    drawn = results["measures"][1]["variants"]["whole"]["draws"]
    assert drawn == [{str(draw): pytest.approx(0.4 + 0.01 * seed) for draw in (0, 1)} for seed in (1, 2)]
    assert values(results, 2)["scratch"] == [None, None]
    singles = {path.name for path in (tmp_path / "study" / "runs" / "whole-seed1" / "finetune").iterdir()}
    assert singles == {f"{init}{draw}" for init in ("pretrained", "random") for draw in ("", "-0.5-0", "-0.5-1")}


def test_few_labels_are_averaged_over_their_draws(study_file: StudyFile, commands: Commands) -> None:
    measures = [
        {"protocol": "semi", "labels": 0.1},
        {"protocol": "semi", "labels": 0.2, "classifier": "retrieval", "stream": "joint"},
    ]
    file = study_file(seeds=[1], measure=measures, base_changes={"evaluate.semi": [0.1, 0.2]})
    results = study(file)
    assert values(results)["whole"] == [pytest.approx(0.063 + 0.005)]
    assert results["measures"][0]["variants"]["whole"]["draws"] == [
        {"0": pytest.approx(0.063), "1": pytest.approx(0.073)}
    ]
    assert values(results, 1)["whole"] == [pytest.approx(0.126 + 0.005)]
    assert json.loads((Path(read_study(file).out) / "study.json").read_text()) == results


def test_the_picture_shows_values_and_differences(study_file: StudyFile, commands: Commands) -> None:
    results = study(study_file(seeds=[1, 2, 3], reference="no-context"))
    figure = draw({"linear": results["measures"][0]["variants"]}, "no-context")
    left, right = figure.axes[:2]
    assert [label.get_text() for label in left.get_yticklabels()] == ["whole", "no-context"]
    found = results["measures"][0]["variants"]["whole"]
    (shown,) = right.containers
    assert shown[0].get_xdata() == pytest.approx([100 * found["difference"]])
    (whisker,) = shown[2][0].get_segments()
    assert whisker[:, 0] == pytest.approx([100 * end for end in found["interval"]])
    assert len(left.containers) == 2
    dots = [line.get_xdata() for line in left.lines if line.get_marker() == "o"]
    assert dots[0] == pytest.approx([63, 68, 75])


def test_a_measure_that_no_run_has_is_named(study_file: StudyFile, commands: Commands, tmp_path: Path) -> None:
    study(study_file(seeds=[1], measure=[{"protocol": "linear", "stream": "bones"}]))
    assert (
        "- linear, last stage, bones, test: top1: no run has such a row"
        in (tmp_path / "study" / "study.md").read_text()
    )


# ------------------------------------------------------------------------------------------------- the real thing


def test_the_same_bits_as_separate_commands(
    study_file: StudyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of AdamW, which has the most to keep."""
    steps = 0
    training_step = Pretraining.training_step

    def counted(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        return training_step(*arguments)

    monkeypatch.setattr("ikem.study.run.run_step", run_in_process)
    variants = {
        **VARIANTS,
        "no-heads": {"overrides": {"pretrain.implicit": False}},
        "contrast-alone": {"overrides": {"pretrain": {"explicit": False, "implicit": False}}},
    }
    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "training_step", counted)
        file = study_file(variants=variants, seeds=[2], base_changes={"pretrain.optimizer": "adamw"})
        results = study(file)
    assert steps == (3 + 3 * 1) * 2  # three epochs and, after the same stage 1, one; two steps in each

    for run in read_study(file).runs():
        alone = replace(run.config, run=tmp_path / "alone" / run.config.run.name)
        pretrain(alone)
        rows = evaluate(alone)["rows"]
        assert rows == json.loads((run.config.run / "evaluation.json").read_text())["rows"]
        last = "stage2" if run.config.pretrain.exchanges else "stage1"
        linear = [row for row in rows if row["stage"] == last and row["stream"] == "fused3"]
        linear = [row["top1"] for row in linear if row["protocol"] == "linear" and row["part"] == "test"]
        assert values(results)[run.variant] == linear
        for name in ("last.ckpt", "stage1.ckpt"):
            states = [
                torch.load(folder / "pretrain" / name, weights_only=True) for folder in (run.config.run, alone.run)
            ]
            for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
                torch.testing.assert_close(states[0][part], states[1][part], rtol=0, atol=0)
            assert states[0]["ikem"] == states[1]["ikem"]
        tables = [(folder / "pretrain" / "metrics.csv").read_text() for folder in (run.config.run, alone.run)]
        assert without_speed(tables[0]) == without_speed(tables[1])


def without_speed(table: str) -> list[list[str]]:
    lines = [line.split(",") for line in table.splitlines()]
    speed = lines[0].index("clips_per_second")
    return [cells[:speed] + cells[speed + 1 :] for cells in lines]


def test_a_killed_study_ends_with_the_same_table(study_file: StudyFile, tmp_path: Path) -> None:
    variants = {"no-context": VARIANTS["no-context"], "other-student": {"overrides": {"distill.temperature": 0.2}}}
    files = []
    for name in ("whole", "killed"):
        file = study_file(variants=variants, seeds=[1], out=str(tmp_path / name))
        files.append(file.rename(tmp_path / f"{name}.yaml"))
    done = run_script(killed_study, *files)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-2]) > killed_study.DEATHS // 2
    texts = [(tmp_path / name / "study.md").read_text() for name in ("whole", "killed")]
    assert texts[0] == texts[1]
    assert "## Missing" not in texts[0]
    whole, killed = (json.loads((tmp_path / name / "study.json").read_text()) for name in ("whole", "killed"))
    assert without_seconds(whole) == without_seconds(killed)

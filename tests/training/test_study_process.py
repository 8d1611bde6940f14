"""Steps of a study as processes: what is said of their ends, signals, locks, and the death of the study itself."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from training.tiny import tiny_config

from ikem.checkpoint import read_checkpoint
from ikem.config import Config, plain
from ikem.evaluate import evaluate
from ikem.pretrain import pretrain
from ikem.study import study
from ikem.study.lock import at_run, in_study, is_at_work
from ikem.study.process import StepFailedError, StudyStopped, run_step

RunScript = Callable[..., None]


@pytest.fixture
def run_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunScript:
    """Runs a step whose process is a shell script."""
    executable = tmp_path / "python"
    monkeypatch.setattr("sys.executable", str(executable))

    def run(script: str, watch: Callable[[], None] = lambda: None) -> None:
        executable.write_text(f"#!/bin/sh\n{script}\n")
        executable.chmod(0o755)
        with at_run(tmp_path) as held:
            assert held is not None
            run_step("pretrain", tiny_config(tmp_path / "run", tmp_path / "data"), held, watch)

    return run


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo early; echo 'ikem pretrain: error: data.folder: no: such' >&2; exit 2", "^data.folder: no: such$"),
        ("printf 'Fatal Python error\\n\\n'; exit 3", "^Fatal Python error$"),
        ("exit 4", "^ended with code 4$"),
        ("echo well; kill -KILL $$", "^ended by SIGKILL, as where memory runs out$"),
        ("kill -SEGV $$", "^ended by SIGSEGV$"),
    ],
)
def test_why_a_process_has_ended(run_script: RunScript, script: str, reason: str) -> None:
    with pytest.raises(StepFailedError, match=reason):
        run_script(script)


def test_what_a_step_prints_is_in_the_log_of_its_run(run_script: RunScript, tmp_path: Path) -> None:
    for text in ("first", "second"):
        run_script(f"echo {text} $*")
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    config = tmp_path / "run" / "config.yaml"
    command = f"-m ikem.study.child pretrain --config {config} --trainer.progress false"
    assert lines == [f"first {command}", f"second {command}"]
    assert yaml.safe_load(config.read_text())["pretrain"]["epochs"] == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_and_waited_for(run_script: RunScript, tmp_path: Path, number: signal.Signals) -> None:
    ready, saved = tmp_path / "ready", tmp_path / "saved"
    script = f"trap 'sleep 0.3; touch {saved}; exit 7' {number.name[3:]}\ntouch {ready}\nwhile :; do sleep 0.05; done"
    before = signal.getsignal(number)

    def send_once() -> None:
        if ready.exists():
            ready.unlink()
            os.kill(os.getpid(), number)

    with pytest.raises(StudyStopped) as stopped:
        run_script(script, send_once)
    assert stopped.value.code == 128 + number
    assert saved.exists()
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("first", "second"), [(False, False), (False, True), (True, False)])
def test_a_second_study_is_refused(tmp_path: Path, first: bool, second: bool) -> None:
    with (
        in_study(tmp_path, beside=first),
        pytest.raises(ValueError, match="out: another study is at work in"),
        in_study(tmp_path, beside=second),
    ):
        pass
    with in_study(tmp_path):
        pass  # nothing is left of it


def test_studies_may_be_beside_each_other_but_not_at_one_run(tmp_path: Path) -> None:
    with in_study(tmp_path, beside=True), in_study(tmp_path, beside=True), at_run(tmp_path / "run") as held:
        assert held is not None
        assert is_at_work(tmp_path / "run")
        assert not is_at_work(tmp_path / "other")
        with at_run(tmp_path / "run") as again:
            assert again is None
    assert not is_at_work(tmp_path / "run")


def test_the_step_of_a_killed_study_is_waited_for(tmp_path: Path) -> None:
    with at_run(tmp_path) as held:
        assert held is not None
        left = os.dup(held)  # as a process has it that outlives the study
    assert is_at_work(tmp_path)
    ended: list[float] = []

    def end() -> None:
        ended.append(time.monotonic())
        os.close(left)

    timer = threading.Timer(0.3, end)
    timer.start()
    with at_run(tmp_path, wait=True) as held:
        assert held is not None
        assert ended


def test_a_study_that_is_killed_while_it_trains(
    tmp_path: Path, dataset_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process of the training saves it and ends; the next study goes on there, to what commands alone give."""
    schedule = {"epochs": 30, "exchange_epoch": 20, "modalities": ("joint", "bone")}
    config = tiny_config(tmp_path / "alone", dataset_folder, schedule)
    base = plain(config)
    del base["run"], base["seed"]
    file = tmp_path / "study.yaml"
    content = {"base": base, "variants": {"whole": {}}, "seeds": [1], "out": str(tmp_path / "study")}
    file.write_text(yaml.safe_dump(content))
    folder = tmp_path / "study" / "runs" / "whole-seed1"

    last = folder / "pretrain" / "last.ckpt"
    command = [sys.executable, "-c", f"from ikem.cli import main; main(['study', {str(file)!r}])"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while not last.is_file():
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    with (folder / ".step.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    assert "stopped by SIGTERM after step" in (folder / "log.txt").read_text()
    assert 0 < read_checkpoint(last, "pretrain")["epoch"] < 29

    study(file)
    assert "whole, seed 1: pretrain (run 1 of 1" in capsys.readouterr().out
    alone = _rows_alone(config)
    assert alone == json.loads((folder / "evaluation.json").read_text())["rows"]


def _rows_alone(config: Config) -> object:
    alone = replace(config, seed=1)
    pretrain(alone)
    return json.loads(json.dumps(evaluate(alone)["rows"]))

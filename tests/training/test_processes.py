"""Several nodes: who takes part, that they compute what one process does, and that none is left waiting."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from lightning import Trainer
from lightning.fabric.plugins.environments import SLURMEnvironment
from training import two_processes
from training.scripts import run_on_nodes, run_script
from training.test_runs import assert_equal_but_for_rounding

from ikem.checkpoint import read_checkpoint
from ikem.config import Config, DDPConfig
from ikem.pretrain import pretrain
from ikem.training import build_trainer, processes


def step(run: Path) -> int:
    """The one that the last checkpoint was saved after."""
    return read_checkpoint(run / "pretrain" / "last.ckpt", "pretrain")["global_step"]


def test_two_nodes_go_on_with_what_one_process_began(dataset_folder: Path, tmp_path: Path) -> None:
    """Each has half of the batch; by the statistics of all of it they do what one process does (two_processes.py)."""
    whole, begun = tmp_path / "whole", tmp_path / "begun"
    two_processes.main(dataset_folder, whole, "sync")
    assert run_script(two_processes, dataset_folder, begun, "sync", "stop").returncode == 128 + signal.SIGTERM
    assert step(begun) == 3
    for node in run_on_nodes(two_processes, dataset_folder, begun, "sync"):
        assert node.returncode == 0, node.stderr
    assert_equal_but_for_rounding(whole, begun)


def test_a_killed_process_ends_the_other_node_and_one_process_goes_on(dataset_folder: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    two_processes.main(dataset_folder, whole, "sync")
    left, killed = run_on_nodes(two_processes, dataset_folder, broken, "sync", "kill")
    assert "SIGKILL" in killed.stderr and killed.returncode != 0
    assert left.returncode != 0
    last = broken / "pretrain" / "last.ckpt"
    assert "ConnectionError: process 0 of 2 has lost another" in left.stderr, left.stderr
    assert f"{last} holds the training after step 2; the same command" in left.stderr
    assert step(broken) == 2
    two_processes.main(dataset_folder, broken, "sync")
    assert_equal_but_for_rounding(whole, broken)


def on_nodes(run: Config, **trainer: Any) -> Config:
    """The same run on two nodes of two processes each."""
    return replace(run, trainer=replace(run.trainer, **{"devices": 2, "num_nodes": 2, **trainer}))


def test_slurm_says_who_takes_part(config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"NTASKS": 4, "NTASKS_PER_NODE": 2, "NNODES": 2, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "JOB_NAME": "ikem"}
    for name, value in told.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    options = DDPConfig(process_group_backend="gloo", timeout_minutes=2, bucket_cap_mb=5, gradient_as_bucket_view=True)
    run = on_nodes(config(), ddp=options)
    trainer = build_trainer(run, run.run, epochs=1, keep={})
    assert (trainer.num_nodes, trainer.world_size, trainer.is_global_zero) == (2, 4, True)
    strategy = cast(Any, trainer.strategy)
    assert isinstance(strategy.cluster_environment, SLURMEnvironment)
    assert not strategy.cluster_environment.auto_requeue
    assert (strategy.process_group_backend, strategy._timeout.total_seconds()) == ("gloo", 120)
    assert strategy._ddp_kwargs["bucket_cap_mb"] == 5
    assert strategy._ddp_kwargs["gradient_as_bucket_view"]


def test_processes_that_do_not_fit_are_refused(config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    run = config()
    with pytest.raises(ValueError, match="num_nodes: expected 1, as nothing has started a process on each of 2 nodes"):
        pretrain(on_nodes(run))
    with pytest.raises(ValueError, match=r"multiple of trainer\.devices = 3 on each of 2 nodes, got 8"):
        pretrain(on_nodes(run, devices=3))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = r"to be 2, the number of processes that were started \(TorchElasticEnvironment\), got "
    for wrong, said in ((run, "1$"), (on_nodes(run), "2 on each of 2 nodes")):  # also one that would train alone
        with pytest.raises(ValueError, match=message + said):
            pretrain(wrong)
    assert not run.run.exists()


class Started:
    """Stands for the strategy of one of two processes; tells what it was asked for, and what the other one says."""

    def __init__(self, said_by_first: bool) -> None:
        self.said_by_first, self.calls = said_by_first, []
        self.cluster_environment = object()

    def setup_environment(self) -> None:
        self.calls.append("connected")

    def broadcast(self, value: bool) -> bool:
        self.calls.append(f"told {value}")
        return value or self.said_by_first


@pytest.mark.parametrize("refused", [False, True])
def test_processes_wait_until_the_first_has_prepared(refused: bool) -> None:
    """They are connected before, so that a file is there, or gone, for all; and a refusal ends them all."""
    strategy = Started(refused)
    trainer = cast(Trainer, SimpleNamespace(strategy=strategy, is_global_zero=False))
    ends = pytest.raises(SystemExit, match="2") if refused else contextlib.nullcontext()
    with ends, processes.first_prepares(trainer) as first:
        strategy.calls.append("prepares" if first else "waits")
    assert strategy.calls == ["connected", "waits", "told False"]


def test_what_the_first_refuses_it_says_after_the_others_know() -> None:
    strategy = Started(False)
    trainer = cast(Trainer, SimpleNamespace(strategy=strategy, is_global_zero=True))
    with pytest.raises(ValueError, match="not so"), processes.first_prepares(trainer):
        raise ValueError("not so")
    assert strategy.calls == ["connected", "told True"]

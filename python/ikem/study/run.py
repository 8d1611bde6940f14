"""Does what is missing of a study, one step of one run after another, and what runs share only once."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from ikem.config import Config, store_config
from ikem.distill import distill
from ikem.evaluate import evaluate
from ikem.pretrain import STAGE1_CHECKPOINT, pretrain
from ikem.study.plan import STEPS, Run, Study, read_study, shares_stage1
from ikem.study.progress import OUTPUTS, Progress
from ikem.study.table import collect, write_results
from ikem.training import LAST_CHECKPOINT

ACTIONS: dict[str, Callable[[Config], Any]] = {"pretrain": pretrain, "distill": distill, "evaluate": evaluate}


def study(file: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Train and evaluate variants of a configuration over several seeds, and write one table of them.

    What is finished is not done again, and what was interrupted goes on where it stopped. Trainings that are the same
    for several variants, as a whole or to the end of stage 1, are done once.

    Args:
        file: the study, in YAML (docs/evaluation.md says what it holds).
        overwrite: do again what was done from other options than the file gives now.

    Returns:
        What is written to ``study.json``.

    Raises:
        ValueError: if the file is not as it has to be, or results are there that follow from something else, before
            anything runs; or if runs have failed, after all others are done and the table is written.
    """
    plan = read_study(file)
    _settle_changes(plan, overwrite)
    started, failures = time.monotonic(), {}
    runs = plan.runs
    for number, run in enumerate(runs, 1):
        try:
            for step in run.steps:
                if not Progress(run).is_finished(step):
                    elapsed = timedelta(seconds=int(time.monotonic() - started))
                    print(f"study: {run.name}: {step} (run {number} of {len(runs)}, {elapsed})", flush=True)
                    _take(step, run, runs)
        except Exception as error:  # whatever it is, the other runs do not depend on it
            failures[run.name] = f"{step}: {' '.join(str(error).split()) or type(error).__name__}"
            print(f"study: {run.name}: {failures[run.name]}", flush=True)
    results = collect(plan, {run.name: Progress(run) for run in runs}, failures)
    write_results(plan.out, results)
    print(f"study: {plan.out / 'study.md'}")
    if failures:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise ValueError(f"{len(failures)} of {len(runs)} runs failed: {reasons}")
    return results


def _settle_changes(plan: Study, overwrite: bool) -> None:
    changes = [(run, changed) for run in plan.runs if (changed := Progress(run).changed())]
    if changes and not overwrite:
        listed = "; ".join(f"{run.name} ({', '.join(steps)} in {run.config.run})" for run, steps in changes)
        raise ValueError(
            f"out: results are there that follow from something else: {listed}; give the changed variant another "
            "name, or give --overwrite to do these again"
        )
    for run, changed in changes:
        first = min(STEPS.index(step) for step in changed)
        Progress(run).discard(STEPS[first:])  # later steps build on it


def _take(step: str, run: Run, runs: Sequence[Run]) -> None:
    """Do one step of a run, or take it over, or its beginning, from a run that has done the same."""
    started = time.monotonic()
    progress = Progress(run)
    progress.begin(step)
    folder = run.config.run / OUTPUTS[step]
    if step != "evaluate" and not folder.exists():
        store_config(run.config, step)
        if (same := _finished_same(step, run, runs)) is not None:
            with _appearing(folder) as copy:
                shutil.copytree(same.config.run / OUTPUTS[step], copy)
            progress.finish(step, time.monotonic() - started)
            return
        if step == "pretrain" and (source := _stage1_source(run, runs)) is not None:
            with _appearing(folder) as copy:
                _begin_after_stage1(source.config, run.config, copy)
    with contextlib.ExitStack() as stack:
        if step == "evaluate":
            output = stack.enter_context((run.config.run / "evaluation.txt").open("w"))
            stack.enter_context(contextlib.redirect_stdout(output))
        ACTIONS[step](run.config)
    progress.finish(step, time.monotonic() - started)


def _finished_same(step: str, run: Run, runs: Sequence[Run]) -> Run | None:
    """Return a run that has finished the same step."""
    key = run.keys()[step]
    return next(
        (other for other in runs if other.keys().get(step) == key and Progress(other).is_finished(step)),
        None,
    )


def _stage1_source(run: Run, runs: Sequence[Run]) -> Run | None:
    """Return, of the runs that have finished a stage 1 that is this run's too, the one that has come furthest with it.

    A whole training of another run is never it: where that is all the same, `_finished_same` has found it.
    """
    sources = [
        other
        for other in runs
        if "pretrain" in other.steps
        and shares_stage1(other.config, run.config)
        and (other.config.run / "pretrain" / STAGE1_CHECKPOINT).is_file()
    ]
    return max(sources, key=lambda other: other.config.pretrain.exchange_epoch, default=None)


def _begin_after_stage1(source: Config, config: Config, folder: Path) -> None:
    """Make the folder of a pretraining that has just come to the end of the source's stage 1."""
    folder.mkdir()
    names = [LAST_CHECKPOINT]
    if config.pretrain.exchanges and config.pretrain.exchange_epoch == source.pretrain.exchange_epoch:
        names.append(STAGE1_CHECKPOINT)  # else it is still to come
    for name in names:
        shutil.copy2(source.run / "pretrain" / STAGE1_CHECKPOINT, folder / name)
    shutil.copy2(source.run / "pretrain" / "metrics.csv", folder)  # resuming drops the rows of later epochs


@contextlib.contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """Yield a folder to make beside another one's place, which it then takes whole."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a study that was killed here
    yield temporary
    temporary.rename(folder)

"""Does what is missing of a study, one step of one run after another, and what runs share only once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ikem.data.joined import open_dataset
from ikem.study.definition import read_study
from ikem.study.lock import at_run, in_study
from ikem.study.plan import Run, Study
from ikem.study.process import StudyStopped, run_step
from ikem.study.progress import Progress
from ikem.study.remaining import remaining_seconds
from ikem.study.sharing import is_still_made, take_over
from ikem.study.status import Status, clock
from ikem.study.steps import STEPS
from ikem.study.table import collect, write_results

POLL_SECONDS = 1.0


def study(file: Path, *, overwrite: bool | str = False, beside: bool = False) -> dict[str, Any]:
    """Train and evaluate variants of a configuration over several seeds, and write one table of them.

    What is finished is not done again, and what was interrupted goes on where it stopped. Trainings that are the same
    for several variants, as a whole or to the end of stage 1, are done once. Each step is a process of its own.

    Args:
        file: the study, in YAML (docs/evaluation.md says what it holds).
        overwrite: do again what was done from other options or data than there are now: of all variants, or of the one
            that is named.
        beside: share the work with other processes of this command, here or on other machines that have the folder:
            each does what none is at work on, and writes the table when all is done.

    Returns:
        What is written to ``study.json``.

    Raises:
        ValueError: before anything runs, if the file is not as it has to be, its data are not there, another study is
            at work in its folder and not both are ``beside`` others, or results are there that follow from something
            else; after all else is done and the table is written, if runs have failed.
        SystemExit: if a signal stopped it, with 128 + its number.
    """
    if beside and overwrite:
        raise ValueError("overwrite: expected to be alone, got --beside: others may be at work on what it would remove")
    plan = read_study(file)
    runs = plan.runs()
    _require_data(runs)
    with in_study(plan.out, beside=beside):
        _settle_changes(plan, runs, overwrite)
        failures = _complete(runs)
        results = collect(plan, runs, failures)
        write_results(plan.out, results)
    print(f"study: {plan.out / 'study.md'}")
    if failures:
        reasons = "; ".join(f"{run}: {reason}" for run, reason in failures.items())
        raise ValueError(f"{len(failures)} of {len(runs)} runs failed: {reasons}")
    return results


def _require_data(runs: Sequence[Run]) -> None:
    """A data set or protocol that is not there would be missed only when it is used."""
    used = [
        each
        for run in runs
        for each in ((run.config.data.folder, run.config.data.protocol), run.config.data.trained_on)
    ]
    for folder, protocol in dict.fromkeys(used):
        open_dataset(folder).split(protocol, "train")


def _settle_changes(plan: Study, runs: Sequence[Run], overwrite: bool | str) -> None:
    names = [variant.name for variant in plan.variants if variant.control is None]
    if isinstance(overwrite, str) and overwrite not in names:
        raise ValueError(f"overwrite: expected one of {', '.join(names)}, got {overwrite!r}")
    changes = [(run, changed) for run in runs if (changed := Progress(run).changed())]
    kept = [(run, changed) for run, changed in changes if overwrite is not True and overwrite != run.variant]
    if kept:
        listed = "; ".join(f"{run.name} ({', '.join(steps)} in {run.folder})" for run, steps in kept)
        raise ValueError(
            f"out: results are there that follow from something else: {listed}; give the changed variant another "
            "name, or give --overwrite to do all of these again, or --overwrite VARIANT for one alone"
        )
    for run, changed in changes:
        with at_run(run.folder, wait=True):
            Progress(run).discard(changed)


def _complete(runs: Sequence[Run]) -> dict[str, str]:
    """Do what is missing of all runs and nobody else does, and return by their names why some have failed."""
    started, waits = time.monotonic(), False
    failed: dict[str, dict[str, str]] = {run.name: {} for run in runs}  # by step, why
    while True:
        ended = [_advance(number, run, runs, failed[run.name], started) for number, run in enumerate(runs, 1)]
        if all(ended):
            break
        if not waits:
            print("study: waits for what other processes are at work on", flush=True)
        waits = True
        time.sleep(POLL_SECONDS)
    reasons = {name: "; ".join(f"{step}: {reason}" for step, reason in steps.items()) for name, steps in failed.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def _advance(number: int, run: Run, runs: Sequence[Run], failed: dict[str, str], started: float) -> bool:
    """Do what can be done now of a run; return whether that is all there will be to do."""
    if not Progress(run).pending:
        return True
    with at_run(run.folder) as held:
        if held is None:
            return False
        for step in Progress(run).pending:
            if step in failed or any(before in failed for before in STEPS[step].after):
                continue
            if is_still_made(step, run, runs):
                return False
            elapsed = f"{clock(time.monotonic() - started)} so far{_estimate(runs)}"
            print(f"study: {run.name}: {step} (run {number} of {len(runs)}, {elapsed})", flush=True)
            try:
                _take(step, run, runs, held)
            except Exception as error:  # whatever it is, the other runs do not depend on it
                failed[step] = " ".join(str(error).split()) or type(error).__name__
                print(f"study: {run.name}: {step}: {failed[step]} ({run.folder / 'log.txt'})", flush=True)
            except StudyStopped:
                print(f"study: {run.name}: {step}: stopped; the same command goes on from here", flush=True)
                raise
    return True


def _estimate(runs: Sequence[Run]) -> str:
    seconds = remaining_seconds(runs)
    return "" if seconds is None else f", about {clock(seconds)} left"


def _take(step: str, run: Run, runs: Sequence[Run], held: int) -> None:
    """Do one step of a run, or take it over, or its beginning, from a run that has done the same."""
    started, finished = time.monotonic(), False
    progress = Progress(run)
    progress.begin(step)
    try:
        if not take_over(step, run, runs):
            with Status(step, run) as status:
                run_step(step, run.config, held, status.update)
        finished = True
    finally:
        Progress(run).spend(step, time.monotonic() - started, finished=finished)

"""A training that is given another length or other milestones: as if they had been given at once, or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from training.test_checkpoints import at_step, interrupt
from training.test_runs import InterruptionError, assert_same_training, table

from ikem.config import Config
from ikem.distill import distill
from ikem.pretrain import pretrain

SMALL = {"modalities": ("joint", "motion")}


def test_a_finished_run_is_extended(config: Callable[..., Config]) -> None:
    """Beyond a milestone and the beginning of stage 2, and once more, with a later milestone of its own."""
    long = {**SMALL, "epochs": 6, "milestones": (2, 5)}
    whole, grown = config("whole", pretrain=long), config("grown", pretrain={**SMALL, "epochs": 3})
    for run in (whole, grown, config("grown", pretrain={**SMALL, "epochs": 4}), config("grown", pretrain=long)):
        pretrain(run)
    assert [row["lr"] for row in table(grown.run)][1:] == ["0.02", *["0.002"] * 3, table(whole.run)[-1]["lr"]]
    assert_same_training(whole, grown)
    for run in (whole, config("grown", pretrain=long)):
        distill(run)
        distill(replace(run, distill=replace(run.distill, epochs=3)))
    assert_same_training(whole, grown, "distill")
    assert len(table(grown.run, "distill")) == 3


def test_a_milestone_may_begin_where_the_run_ended(config: Callable[..., Config]) -> None:
    """The checkpoint holds the learning rate that the old schedule had for the next epoch."""
    options = {**SMALL, "epochs": 3, "milestones": (2,), "explicit": False, "implicit": False}
    whole, grown = (
        config("whole", pretrain=options),
        config("grown", pretrain={**options, "milestones": (), "epochs": 2}),
    )
    for run in (whole, grown, config("grown", pretrain=options)):
        pretrain(run)
    assert_same_training(whole, grown)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            {"schedule": "cosine"},
            {"epochs": 6},
            r"epoch 1 was trained at 0\.75 times .* \(a cosine depends on its length\)",
        ),
        ({}, {"epochs": 2, "exchange_epoch": 1}, r"pretrain\.epochs has to be more than 3, the epochs that have begun"),
        ({}, {"epochs": 6, "milestones": (1,)}, r"epoch 1 was trained at 1 times .* would now be 0\.1 times"),
        ({}, {"exchange_epoch": 1}, "epoch 1 is part of stage 1 there and of stage 2 here"),
        ({"exchange_epoch": 3}, {"epochs": 4}, "the heads of the exchange are part of a run from its start or never"),
        ({}, {"epochs": 6, "temperature": 0.2}, r"another configuration \(pretrain\.epochs: 3 there, 6 here; .*temper"),
    ],
    ids=["cosine", "shorter", "milestone", "stage", "heads", "more than the schedule"],
)
def test_what_would_have_changed_what_was_done_is_refused(
    config: Callable[..., Config], before: dict[str, Any], after: dict[str, Any], said: str
) -> None:
    run = config(pretrain={**SMALL, **before})
    last = pretrain(run)
    kept = [path.read_bytes() for path in (last, run.run / "config.yaml")]
    with pytest.raises(ValueError, match=said) as refused:
        pretrain(config(pretrain={**SMALL, "exchange_epoch": 2, **before, **after}))
    assert "choose another folder, or give --overwrite" in str(refused.value)
    assert [path.read_bytes() for path in (last, run.run / "config.yaml")] == kept


def test_what_has_not_begun_may_change(config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was killed before its first checkpoint, and one within stage 1, whose end is put off."""
    long = {**SMALL, "epochs": 4, "exchange_epoch": 3}
    whole, begun = config("whole", pretrain=long), config("grown", pretrain={**SMALL, "exchange_epoch": 3})
    assert not begun.pretrain.exchanges
    pretrain(whole)
    for run, step in ((begun, 1), (config("grown", pretrain={**SMALL, "epochs": 4, "exchange_epoch": 2}), 3)):
        with monkeypatch.context() as patch:
            at_step(step, interrupt, patch)
            with pytest.raises(InterruptionError):
                pretrain(run)
    with pytest.raises(ValueError, match="epoch 1 is part of stage 1 there and of stage 2 here"):
        pretrain(config("grown", pretrain={**long, "exchange_epoch": 1}))
    grown = config("grown", pretrain=long)
    pretrain(grown)
    assert_same_training(whole, grown)
    assert (grown.run / "pretrain" / "stage1.ckpt").is_file()


def test_the_teacher_of_a_student_is_not_trained_on(config: Callable[..., Config]) -> None:
    run = config(pretrain=SMALL)
    pretrain(run)
    distill(run)
    with pytest.raises(ValueError, match=r"run/distill was made from it as it is; move that away first"):
        pretrain(config(pretrain={**SMALL, "epochs": 4}))

"""The course of a training over its epochs, and what of it may change in a training that has begun."""

from __future__ import annotations

import math
from dataclasses import replace

from ikem.config import SECTIONS, Config, FinetuneConfig, ScheduleConfig, differences

#: The options that say what happens in which epoch. They may change while no epoch that has begun is touched by it.
SCHEDULE = ("epochs", "schedule", "milestones", "decay", "warmup_epochs", "exchange_epoch")


def learning_rate_factor(options: ScheduleConfig, epoch: int) -> float:
    """Return what the peak learning rate is multiplied by in an epoch.

    Example:
        >>> options = ScheduleConfig(epochs=300, milestones=(250,), decay=0.1)
        >>> learning_rate_factor(options, 249), learning_rate_factor(options, 250)
        (1.0, 0.1)
    """
    if epoch < options.warmup_epochs:
        return (epoch + 1) / (options.warmup_epochs + 1)
    if options.schedule == "step":
        return options.decay ** sum(epoch >= milestone for milestone in options.milestones)
    progress = (epoch - options.warmup_epochs) / max(1, options.epochs - options.warmup_epochs)
    return 0.5 * (1 + math.cos(math.pi * progress))


def require_same_run(config: Config, command: str, begun: int) -> None:
    """Refuse to mix two configurations in one run; its schedule may change where that changes nothing that was done.

    What is accepted goes on as if it had been given from the first epoch on, to the bit.

    Args:
        config: of the run, as it is given now.
        command: ``pretrain``, ``distill`` or ``finetune``.
        begun: how many epochs of it have begun.

    Raises:
        ValueError: if the run's folder holds results of this command, or of one it builds on, that follow from
            another configuration; the message says what differs.
    """
    found = differences(config, command)
    if not found:
        return
    advice = "choose another folder, or give --overwrite to start afresh"
    listed = "; ".join(f"{name}: {stored!r} there, {given!r} here" for name, (stored, given) in found.items())
    if not all(name in {f"{command}.{option}" for option in SCHEDULE} for name in found):
        raise ValueError(f"run: {config.run} holds a run with another configuration ({listed}); {advice}")
    given = getattr(config, command)
    before = replace(given, **{name.split(".")[1]: stored for name, (stored, _) in found.items()})
    if reason := _changed_past(command, _course(before), _course(given), begun) or _builds_on_it(config, command):
        raise ValueError(f"run: {config.run} cannot go on with another schedule ({listed}): {reason}; {advice}")


def _course(options: ScheduleConfig | FinetuneConfig) -> ScheduleConfig:
    return options.learning if isinstance(options, FinetuneConfig) else options


def _changed_past(section: str, before: ScheduleConfig, after: ScheduleConfig, begun: int) -> str | None:
    """Say how epochs that have begun, or a checkpoint at their end, would have been others under another schedule.

    Example:
        >>> before = ScheduleConfig(epochs=400, milestones=(250,))
        >>> _changed_past("pretrain", before, replace(before, epochs=500, milestones=(250, 350)), begun=300)
        >>> _changed_past("pretrain", before, replace(before, milestones=(250, 350)), begun=351)
        'epoch 350 was trained at 0.1 times the peak learning rate, which would now be 0.01 times'
        >>> _changed_past("pretrain", before, replace(before, epochs=300), begun=300)
        'pretrain.epochs has to be more than 300, the epochs that have begun'
    """
    if after.epochs < before.epochs and after.epochs <= begun:
        return f"{section}.epochs has to be more than {begun}, the epochs that have begun"
    if begun and before.exchanges != after.exchanges:
        return "the heads of the exchange are part of a run from its start or never"
    for epoch in range(begun):
        rates = [learning_rate_factor(each, epoch) for each in (before, after)]
        if rates[0] != rates[1]:
            return (
                f"epoch {epoch} was trained at {rates[0]:.3g} times the peak learning rate, "
                f"which would now be {rates[1]:.3g} times"
                + (" (a cosine depends on its length)" if "cosine" in (before.schedule, after.schedule) else "")
            )
    for epoch in range(begun + 1 if begun else 0):  # stage 1 is saved at its end, which must be still to come
        stages = before.stage(epoch), after.stage(epoch)
        if stages[0] != stages[1]:
            return f"epoch {epoch} is part of stage {stages[0]} there and of stage {stages[1]} here"
    return None


def _builds_on_it(config: Config, command: str) -> str | None:
    """Say what was made of the training as it is."""
    return next(
        (
            f"{config.run / other} was made from it as it is; move that away first"
            for other, sections in SECTIONS.items()
            if other != command and command in sections and (config.run / other).exists()
        ),
        None,
    )

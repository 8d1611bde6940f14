"""The steps that a run of a study may be made of: `ikem` commands, and what a study has to know of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ikem.config import SECTIONS, Config


@dataclass(frozen=True)
class Step:
    """One command of a run.

    Attributes:
        command: of `ikem`.
        sections: of the configuration that its results follow from.
        outputs: patterns of the files and folders that it leaves in the run's folder.
        after: steps that it builds on, where the run takes them.
        options: of the command line, beside the run's configuration.
    """

    command: str
    sections: tuple[str, ...]
    outputs: tuple[str, ...]
    after: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


#: In the order in which a run takes them.
STEPS = {
    "pretrain": Step("pretrain", SECTIONS["pretrain"], ("pretrain",)),
    "distill": Step("distill", SECTIONS["distill"], ("distill",), after=("pretrain",)),
    "evaluate": Step(
        "evaluate",
        ("seed", "data", "encoder", "pretrain", "evaluate"),
        ("evaluation.json", "evaluation.npz"),
        after=("pretrain", "distill"),
    ),
    "finetune": Step("finetune", SECTIONS["finetune"], ("finetune/pretrained*",), after=("pretrain",)),
    "supervised": Step(
        "finetune",
        tuple(name for name in SECTIONS["finetune"] if name != "pretrain"),
        ("finetune/random*",),
        options=("--finetune.init", "random", "--finetune.checkpoint", "null"),
    ),
}


def config_of_step(config: Config, step: str) -> Config:
    """Return a run's configuration as a step's command gets it."""
    if step != "supervised":
        return config
    return replace(config, finetune=replace(config.finetune, init="random", checkpoint=None))


def leftovers(folder: Path, step: str) -> list[Path]:
    """Return what a step has left in a run's folder."""
    return [path for pattern in STEPS[step].outputs for path in sorted(folder.glob(pattern))]


def in_order(steps: Sequence[str]) -> tuple[str, ...]:
    """Return steps in the order in which a run takes them."""
    return tuple(step for step in STEPS if step in steps)

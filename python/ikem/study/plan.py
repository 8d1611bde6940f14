"""What a study consists of: variants, their runs, and which runs have something in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ikem.config import Config
from ikem.study.keys import same_stage1, step_keys
from ikem.study.measures import Measure


@dataclass(frozen=True)
class Variant:
    """What is compared.

    Attributes:
        name: in the file.
        config: of its runs, but for folder and seed.
        steps: in their order; a control has none.
        control: which one, if it is one: its numbers are those of the control beside another variant's.
        of: the variant whose rows are read: itself, if it is no control.
    """

    name: str
    config: Config
    steps: tuple[str, ...]
    control: str | None
    of: str

    @property
    def reads(self) -> str | None:
        """The control whose rows are its numbers; None for those of what it has pretrained."""
        return "supervised" if self.steps == ("supervised",) else self.control


@dataclass(frozen=True)
class Run:
    """One variant with one seed, in a folder of its own.

    Attributes:
        variant: its name.
        config: of the run.
        keys: step -> digest of all that its results follow from, in the order of the steps.
    """

    variant: str
    config: Config
    keys: Mapping[str, str]

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.variant}, seed {self.config.seed}"

    @property
    def folder(self) -> Path:
        """Where everything of it is."""
        return self.config.run

    @property
    def steps(self) -> tuple[str, ...]:
        """What is to be done, in this order."""
        return tuple(self.keys)


@dataclass(frozen=True)
class Study:
    """A whole study.

    Attributes:
        out: its folder.
        variants: in the file's order.
        seeds: likewise.
        reference: the variant that the others are compared with.
        measures: numbers of rows.
    """

    out: Path
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    reference: str
    measures: tuple[Measure, ...]

    def runs(self) -> list[Run]:
        """Return all runs, seed by seed, so that the first one tells early how variants compare.

        Within a seed those come first whose stage 1 ends first: the others may go on from there.

        Raises:
            ValueError: if the data set of a variant or a checkpoint that it names is not there.
        """
        trained = [variant for variant in self.variants if variant.control is None]
        trained.sort(key=lambda variant: variant.config.pretrain.stage1_epochs)
        runs = []
        for seed in self.seeds:
            for variant in trained:
                folder = self.out / "runs" / f"{variant.name}-seed{seed}"
                config = replace(variant.config, run=folder, seed=seed)
                runs.append(Run(variant.name, config, step_keys(config, variant.steps)))
        return runs


def with_the_same(step: str, run: Run, runs: Sequence[Run]) -> list[Run]:
    """Return the other runs whose step has the same results."""
    return [other for other in runs if other is not run and other.keys.get(step) == run.keys[step]]


def with_the_same_stage1(run: Run, runs: Sequence[Run]) -> list[Run]:
    """Return the other runs whose stage 1 is this run's too, or the beginning of it; those who come furthest first."""
    found = [
        other
        for other in runs
        if other is not run and "pretrain" in other.steps and same_stage1(other.config, run.config)
    ]
    return sorted(found, key=lambda other: -other.config.pretrain.stage1_epochs)

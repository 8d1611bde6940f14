"""How long a study will still take, by what its steps have taken so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ikem.config import Config
from ikem.data.joined import open_dataset
from ikem.finetune import finetunings
from ikem.study.plan import Run, with_the_same, with_the_same_stage1
from ikem.study.progress import Progress
from ikem.study.steps import config_of_step


def remaining_seconds(runs: Sequence[Run]) -> float | None:
    """Estimate how long the steps take that are still to be done.

    Each takes as long as that of the same variant with other seeds, or, where there is none yet, as that step of other
    variants, in proportion to the clips that its epochs see, or to its finetunings. What is taken over takes no time.

    Args:
        runs: of the study, in their order.

    Returns:
        Seconds; None where a step of that name is still to be done for the first time.
    """
    spent: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
    pending = []
    for place, run in enumerate(runs):
        progress = Progress(run)
        for step in run.steps:
            work = _work(step, run, runs[:place])
            if not progress.is_finished(step):
                pending.append((step, run.variant, work))
            elif work:
                for kind in ((step, run.variant), (step,)):
                    spent[kind].append((progress.steps[step]["seconds"], work))
    total = 0.0
    for step, variant, work in pending:
        known = spent.get((step, variant)) or spent.get((step,))
        if work and not known:
            return None
        if work and known:
            total += work * sum(seconds for seconds, _ in known) / sum(done for _, done in known)
    return total


def _work(step: str, run: Run, before: Sequence[Run]) -> float:
    """Return how many clips a training sees, or finetunings or evaluations a step is, with other runs before it."""
    if step == "evaluate":
        return 1
    if with_the_same(step, run, before):
        return 0
    if step in ("finetune", "supervised"):
        return len(finetunings(config_of_step(run.config, step)))
    if step == "distill":
        return run.config.distill.epochs * _clips_of_an_epoch(run.config)
    sources = with_the_same_stage1(run, before)
    taken_over = sources[0].config.pretrain.stage1_epochs if sources else 0
    return (run.config.pretrain.epochs - taken_over) * _clips_of_an_epoch(run.config)


def _clips_of_an_epoch(config: Config) -> float:
    return config.data.share * _training_clips(*config.data.trained_on)


@cache
def _training_clips(folders: Path | tuple[Path, ...], protocol: str) -> int:
    return len(open_dataset(folders).split(protocol, "train"))

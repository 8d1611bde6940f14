"""What a run takes over from another one of the study, so that nothing is trained twice."""

from __future__ import annotations

import contextlib
import csv
import io
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ikem.checkpoint import read_checkpoint
from ikem.files import replacing, write_text
from ikem.pretrain import STAGE1_CHECKPOINT
from ikem.study.lock import is_at_work
from ikem.study.plan import Run, with_the_same, with_the_same_stage1
from ikem.study.progress import Progress
from ikem.study.stage2 import other_stage2
from ikem.study.steps import leftovers
from ikem.training import LAST_CHECKPOINT


def take_over(step: str, run: Run, runs: Sequence[Run]) -> bool:
    """Give a step of a run, if nothing of it is there, what another run has done that is the same.

    Returns:
        Whether the step is complete by that. Of pretraining it may be stage 1 alone, from where it goes on.
    """
    if not _takes_over(step, run):
        return False
    for other in with_the_same(step, run, runs):
        if Progress(other).is_finished(step):
            Progress(run).take_over(step, other.folder.name)
            for path in leftovers(other.folder, step):
                with _appearing(run.folder / path.relative_to(other.folder)) as copy:
                    shutil.copytree(path, copy)
            return True
    if step == "pretrain":
        _take_over_stage1(run, runs)
    return False


def is_still_made(step: str, run: Run, runs: Sequence[Run]) -> bool:
    """Return whether another process is at work on what a step of a run would take over."""
    if not _takes_over(step, run):
        return False
    whole = [other for other in with_the_same(step, run, runs) if not Progress(other).is_finished(step)]
    begun = with_the_same_stage1(run, runs) if step == "pretrain" else []
    begun = [other for other in begun if not (other.folder / "pretrain" / STAGE1_CHECKPOINT).is_file()]
    return any(is_at_work(other.folder) for other in (*whole, *begun))


def _takes_over(step: str, run: Run) -> bool:
    """Whether a step of a run, of which nothing is there, begins with what others have done."""
    return step != "evaluate" and not leftovers(run.folder, step)  # an evaluation says whose it is, and takes little


def _take_over_stage1(run: Run, runs: Sequence[Run]) -> None:
    for other in with_the_same_stage1(run, runs):
        source = other.folder / "pretrain"
        if (source / STAGE1_CHECKPOINT).is_file() and not Progress(other).changed():
            Progress(run).take_over("pretrain", f"stage 1 of {other.folder.name}")
            with _appearing(run.folder / "pretrain") as folder:
                _begin_after_stage1(source, other.config.pretrain.stage1_epochs, run, folder)
            return


def _begin_after_stage1(source: Path, epochs: int, run: Run, folder: Path) -> None:
    """Make the folder of a pretraining that has just come to the end of the source's stage 1."""
    folder.mkdir()
    checkpoint = other_stage2(read_checkpoint(source / STAGE1_CHECKPOINT, "pretrain"), run.config)
    names = [LAST_CHECKPOINT]
    if epochs == run.config.pretrain.stage1_epochs:
        names.append(STAGE1_CHECKPOINT)  # else it is still to come
    for name in names:
        with replacing(folder / name) as temporary:
            torch.save(checkpoint, temporary)
    write_text(folder / "metrics.csv", _first_epochs(source / "metrics.csv", epochs))


def _first_epochs(path: Path, epochs: int) -> str:
    """Return the rows of the first epochs, and of the columns those that say something of them."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < epochs]
    table = io.StringIO()
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    writer = csv.DictWriter(table, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


@contextlib.contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """Yield a folder to make beside another one's place, which it then takes whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a study that was killed here
    yield temporary
    temporary.rename(folder)

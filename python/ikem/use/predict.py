"""`ikem predict`: the action in recordings, named by a trained classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from ikem.data.prepare import FormatName
from ikem.use.classifier import Guess, load_classifier
from ikem.use.clips import ClipReader, ReadyClip
from ikem.use.devices import require_device
from ikem.use.tables import require_table, write_table

__all__ = ["Prediction", "predict"]


class Prediction(NamedTuple):
    """What a clip shows, as a classifier sees it.

    Attributes:
        file: which of the files the clip is from.
        clip: its name in it.
        num_frames: its length.
        bodies: how many bodies are seen in it.
        taken: how many of them the classifier takes.
        guesses: the likeliest classes, the likeliest first.
    """

    file: str
    clip: str
    num_frames: int
    bodies: int
    taken: int
    guesses: list[Guess]

    @classmethod
    def of(cls, clip: ReadyClip, guesses: list[Guess]) -> Prediction:
        """Return what a clip shows."""
        return cls(clip.file, clip.name, clip.num_frames, clip.bodies, clip.taken, guesses)

    @property
    def facts(self) -> dict[str, Any]:
        """All but the guesses, by name."""
        return {name: value for name, value in self._asdict().items() if name != "guesses"}


def predict(
    checkpoint: Path,
    files: list[str],
    *,
    top: int = 5,
    output: Path | None = None,
    format: FormatName | None = None,
    layout: str | None = None,
    skip_damaged: bool = False,
    device: str = "cpu",
) -> list[Prediction]:
    """Names the action in every clip of recordings, made ready as those that the classifier learned from.

    Args:
        checkpoint: a classifier.safetensors that `ikem evaluate`, `finetune` or `import` wrote, or the folder of a run.
        files: recordings that `ikem prepare` reads, files or folders, or prepared data sets; FILE:CLIP is one clip.
        top: how many classes are told of each clip.
        output: a file .csv or .json that receives them; without it they are printed as a table.
        format: what the recordings are, as for `ikem prepare`. Default: what they look like.
        layout: their skeleton, a built-in layout by name or a YAML file. Default: as they say. Joints of another
            skeleton than the classifier's are taken over by name.
        skip_damaged: leave out what cannot be used, and say so, instead of refusing all.
        device: what computes, cpu or cuda.

    Returns:
        What each clip shows, in the order of the files.

    Raises:
        ValueError: an argument is wrong.
        DamagedClipsError: clips or files cannot be used; all of them are named with the reason.
    """
    if top < 1:
        raise ValueError(f"top: expected at least 1, got {top}")
    require_table(output, checkpoint, *files)
    require_device(device)
    classifier = load_classifier(checkpoint).to(device)
    reader = ClipReader(classifier.recipe, format, layout)
    found: list[Prediction] = []
    for batch in reader.batches(files):
        with torch.inference_mode():
            probabilities = classifier(batch.joints.to(device), batch.num_frames.to(device))
        rows = zip(batch.clips, classifier.guesses(probabilities, top), strict=True)
        found += [Prediction.of(clip, guesses) for clip, guesses in rows]
    reader.check(skip_damaged)
    if output is None:
        Console().print(_table(found))
    else:
        document = {
            "checkpoint": str(checkpoint),
            "classifier": classifier.origin,
            "clips": [{**each.facts, "classes": [guess._asdict() for guess in each.guesses]} for each in found],
        }
        write_table(output, [_row(each) for each in found], document)
        print(f"predict: {len(found)} clips, in {output}")
    return found


def _row(prediction: Prediction) -> dict[str, Any]:
    guesses = {
        f"{name}_{rank}": value
        for rank, guess in enumerate(prediction.guesses, start=1)
        for name, value in guess._asdict().items()
    }
    return {**prediction.facts, **guesses}


def _table(predictions: list[Prediction]) -> Table:
    table = Table(box=None, header_style="bold")
    for name in ("file", "clip", "bodies", "action"):
        table.add_column(name, overflow="fold")
    table.add_column("%", justify="right")
    for each in predictions:
        bodies = str(each.bodies) if each.taken == each.bodies else f"{each.taken} of {each.bodies}"
        names = "\n".join(guess.name for guess in each.guesses)
        shares = "\n".join(f"{100 * guess.probability:.1f}" for guess in each.guesses)
        table.add_row(each.file, each.clip, bodies, names, shares)
    return table

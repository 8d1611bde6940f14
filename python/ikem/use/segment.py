"""`ikem segment`: the actions in long recordings, and how well they are found in clips that are put in a row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ikem.data.dataset import PreparedDataset
from ikem.data.formats import RawClip
from ikem.data.progress import track
from ikem.data.recordings import NamedClip, read_recordings
from ikem.evaluation.detection import OVERLAPS, Interval, mean_average_precision
from ikem.files import write_text
from ikem.live.frames import Resampler, frames_of, together
from ikem.live.recognizer import FRAME_RATE
from ikem.use.classifier import ActionClassifier, load_classifier
from ikem.use.concatenation import Concatenation, concatenations
from ikem.use.segmentation import Segmenter
from ikem.use.windows import WindowClassifier, doubt_of_window, usual_length
from ikem_ext.skeleton import SkeletonLayout

__all__ = ["segment"]

Rows = list[dict[str, Any]]


def segment(
    checkpoint: Path,
    recording: Path,
    *,
    output: Path | None = None,
    window: float | list[float] | None = None,
    hop: float | None = None,
    shortest: float | None = None,
    threshold: float = 0.0,
    fps: float | None = None,
    trained_fps: float = FRAME_RATE,
    layout: str | None = None,
    format: str | None = None,
    concatenate: Path | None = None,
    protocol: str | None = None,
    clips: int = 10,
    seed: int = 1,
) -> Rows:
    """Finds the actions in long recordings: class, start, end and score of each.

    A window slides over a recording and is classified at each place; the probabilities are averaged for each frame, and
    the likeliest labels of the frames are sought without actions that are too short. A classifier that was trained on
    clips of actions alone finds one everywhere; --threshold leaves out what is unsure.

    Args:
        checkpoint: a classifier, classifier.safetensors of `ikem evaluate` or `ikem finetune`, or the folder with it.
        recording: a recording, or a file or folder of several, each of which is segmented.
        output: the file to write: .csv or .json; with concatenate, .json or .md.
        window: how much is looked at at a time: in seconds with fps, otherwise in frames. Default: the median length of
            the clips that the classifier was trained on. With concatenate it may be a list, for a row each.
        hop: from one window to the next, likewise. Default: an eighth of the window.
        shortest: how long an action lasts at least, likewise. Default: half a window.
        threshold: the least mean probability of an action's class, from 0 to 1.
        fps: frames per second of the recording. Where it is not trained_fps, the recording is resampled.
        trained_fps: frames per second of the recordings that the classifier was trained on.
        layout: the skeleton of the recording, a built-in layout by name or a YAML file. Default: what it says.
        format: what the recording is, as for `ikem prepare`. Default: what it looks like.
        concatenate: measure instead: put the test clips of this prepared data set, which recording has to hold, in a
            row, and compare what is found with what they are: share of frames with the right label, mean average
            precision of the intervals at overlaps of 0.1 to 0.5, as for PKU-MMD, and share of right ones of the windows
            that lie within one clip.
        protocol: of that data set. Default: its only one.
        clips: how many are in a row.
        seed: of their order.

    Returns:
        The rows that are printed and written.

    Raises:
        ValueError: an argument is wrong, the file is no classifier, or a recording is damaged or does not fit.
    """
    suffixes = (".json", ".md") if concatenate else (".csv", ".json")
    if output is not None and output.suffix not in suffixes:
        raise ValueError(f"output: expected a name that ends in {' or '.join(suffixes)}, got {output}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold: expected a probability, got {threshold}")
    if clips < 1:
        raise ValueError(f"clips: expected a positive number, got {clips}")
    classifier = load_classifier(checkpoint)
    windows = window if isinstance(window, list) else [window]
    if not windows or (len(windows) > 1 and concatenate is None):
        raise ValueError(f"window: expected one, got {len(windows)}")
    lengths = [_Lengths.of(each, hop, shortest, fps, trained_fps, usual_length(classifier)) for each in windows]
    if concatenate is None:
        if doubt := doubt_of_window(lengths[0].window, classifier):
            print(f"segment: {doubt}")
        named = read_recordings(recording, format=format, layout=layout)
        rows = list(_found(named, classifier, lengths[0], threshold, fps, trained_fps))
    else:
        dataset = PreparedDataset(concatenate)
        if dataset.classes != classifier.classes:
            raise ValueError(f"concatenate: the classes of {concatenate} are not those of {checkpoint}")
        protocol = protocol or _only_protocol(dataset)
        rate = 1.0 if fps is None else trained_fps / fps
        recordings = [
            _at_rate(row, rate, classifier)
            for row in concatenations(
                recording, dataset, protocol, clips=clips, seed=seed, format=format, layout=layout
            )
        ]
        rows = [_measured(recordings, classifier, each, threshold) for each in track(lengths, "Segmenting")]
    Console().print(_printed(rows))
    if output is not None:
        write_text(output, _WRITERS[output.suffix](rows))
    return rows


@dataclass(frozen=True)
class _Lengths:
    """How long things are, in frames at the rate of the training."""

    window: int
    hop: int
    shortest: int

    @classmethod
    def of(
        cls,
        window: float | None,
        hop: float | None,
        shortest: float | None,
        fps: float | None,
        trained_fps: float,
        usual: int,
    ) -> _Lengths:
        rate = 1.0 if fps is None else trained_fps
        for name, value in {
            "window": window,
            "hop": hop,
            "shortest": shortest,
            "fps": fps,
            "trained_fps": trained_fps,
        }.items():
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name}: expected a positive number, got {value}")
        length = usual if window is None else round(window * rate)
        return cls(
            length,
            max(1, length // 8 if hop is None else round(hop * rate)),
            max(1, length // 2 if shortest is None else round(shortest * rate)),
        )


def _found(
    recordings: Iterable[NamedClip],
    classifier: ActionClassifier,
    lengths: _Lengths,
    threshold: float,
    fps: float | None,
    trained_fps: float,
) -> Iterator[dict[str, Any]]:
    """A row for each interval of each recording, in frames of the recording."""
    rate = 1.0 if fps is None else trained_fps / fps
    for name, clip, layout in recordings:
        segmenter = _segmenter(classifier, layout, lengths, threshold)
        if not np.nan_to_num(clip.joints).any():
            raise ValueError(f"recording: {name}: no body is ever seen")
        if clip.joints.shape[1] == 1:
            raise ValueError(f"recording: {name}: expected at least 2 frames, as actions move, got 1")
        try:
            intervals = segmenter(_resampled(clip, layout, rate, classifier)).intervals
        except ValueError as error:
            raise ValueError(f"recording: {name}: {error}") from error
        for interval in intervals:
            start, end = (min(round(frame / rate), clip.joints.shape[1]) for frame in (interval.start, interval.end))
            seconds = (
                {} if fps is None else {"start_seconds": round(start / fps, 3), "end_seconds": round(end / fps, 3)}
            )
            yield {
                "recording": name,
                "class": classifier.classes[interval.label],
                "start": start,
                "end": end,
                **seconds,
                "score": round(interval.score, 4),
            }


def _segmenter(classifier: ActionClassifier, layout: SkeletonLayout, lengths: _Lengths, threshold: float) -> Segmenter:
    return Segmenter(WindowClassifier(classifier, layout), lengths.window, lengths.hop, lengths.shortest, threshold)


def _resampled(clip: RawClip, layout: SkeletonLayout, rate: float, classifier: ActionClassifier) -> RawClip:
    """The recording at ``rate`` times as many frames per second."""
    if rate == 1:
        return clip
    by_id = classifier.recipe.selection.heeds_ids and clip.body_ids is not None
    resampler = Resampler(rate, longest_gap=np.inf)
    frames = [each for time, frame in enumerate(frames_of(clip, by_id=by_id)) for each in resampler(frame, time)]
    return together(frames, len(clip.joints), layout.num_joints, by_id=by_id, image_size=clip.image_size)


def _at_rate(row: Concatenation, rate: float, classifier: ActionClassifier) -> Concatenation:
    """Some clips in a row at ``rate`` times as many frames per second."""
    clip = _resampled(row.named.clip, row.named.layout, rate, classifier)
    truth = [each._replace(start=round(each.start * rate), end=round(each.end * rate)) for each in row.truth]
    return Concatenation(row.named._replace(clip=clip), truth)


def _measured(
    rows: Sequence[Concatenation], classifier: ActionClassifier, lengths: _Lengths, threshold: float
) -> dict[str, Any]:
    """How well the actions of clips in a row are found."""
    predicted: dict[str, list[Interval]] = {}
    right_frames: list[NDArray[np.bool_]] = []
    right_windows: list[bool] = []
    for named, truth in rows:
        found = _segmenter(classifier, named.layout, lengths, threshold)(named.clip)
        predicted[named.name] = found.intervals
        labels = np.concatenate([np.full(each.end - each.start, each.label) for each in truth])
        right_frames.append(found.labels == labels[: len(found.labels)])
        for start, probabilities in zip(found.starts, found.windows, strict=True):
            within = [each.label for each in truth if each.start <= start and start + lengths.window <= each.end]
            if within:
                right_windows.append(probabilities is not None and int(probabilities.argmax()) == within[0])
    precisions = {
        str(threshold): mean_average_precision(predicted, {row.named.name: row.truth for row in rows}, threshold)
        for threshold in OVERLAPS
    }
    return {
        "window": lengths.window,
        "hop": lengths.hop,
        "shortest": lengths.shortest,
        "recordings": len(rows),
        "windows_within_a_clip": len(right_windows),
        "window_accuracy": float(np.mean(right_windows)) if right_windows else None,
        "frame_accuracy": float(np.concatenate(right_frames).mean()),
        "mean_average_precision": precisions,
    }


def _only_protocol(dataset: PreparedDataset) -> str:
    if len(dataset.protocols) != 1:
        raise ValueError(f"protocol: expected one of {', '.join(dataset.protocols)}, as {dataset.folder} has several")
    return next(iter(dataset.protocols))


def _cells(rows: Rows) -> tuple[list[str], list[list[str]]]:
    """What is shown of the rows: the head of a table and its cells."""
    if rows and "mean_average_precision" not in rows[0]:
        return list(rows[0]), [[str(value) for value in row.values()] for row in rows]
    head = ["window", "windows within a clip", "right", "frames right", *(f"mAP@{each}" for each in OVERLAPS)]
    return head, [
        [
            f"{row['window']} frames",
            str(row["windows_within_a_clip"]),
            _percent(row["window_accuracy"]),
            _percent(row["frame_accuracy"]),
            *(
                f"{_percent(each['actions'])} / {_percent(each['recordings'])}"
                for each in row["mean_average_precision"].values()
            ),
        ]
        for row in rows
    ]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _printed(rows: Rows) -> Table | str:
    if not rows:
        return "no action was found"
    head, cells = _cells(rows)
    table = Table(*head, caption="in %; mAP of classes / of recordings" if "hop" in rows[0] else None)
    for row in cells:
        table.add_row(*row)
    return table


def _markdown(rows: Rows) -> str:
    head, cells = _cells(rows)
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _csv(rows: Rows) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["recording", "class", "start", "end", "score"])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


_WRITERS: dict[str, Callable[[Rows], str]] = {
    ".csv": _csv,
    ".json": lambda rows: json.dumps(rows, indent=1) + "\n",
    ".md": _markdown,
}

"""Measures recognition in streams: how long a window takes, how many frames a second, and the memory of an hour.

``python -m ikem.live.bench`` takes encoders as published (ST-GCN, six modalities, and the student's three; NTU's
skeleton, 50 frames, two bodies, 60 classes) with random weights, on one core; ``--classifier FILE`` takes others.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ikem.config import EncoderConfig
from ikem.data.bodies import BodySelection
from ikem.data.formats import RawClip
from ikem.data.preprocess import Preprocessing
from ikem.data.recipe import Recipe
from ikem.encoders import build_encoder
from ikem.use.classifier import ActionClassifier, Classifier, load_classifier
from ikem.use.windows import WindowClassifier
from ikem_ext import MODALITIES, get_layout
from ikem_ext.bench import report
from ikem_ext.bench.machine import machine
from ikem_ext.bench.measure import process_memory

from .recognizer import FRAME_RATE, Frames, Recognizer, RecognizerPool

MARKS = ("<!-- live: begin -->", "<!-- live: end -->")
STREAMS = (1, 16)
HOUR = 108_000  # frames at 30 a second
WINDOW, HOP = 2.0, 0.5  # seconds


class Row(NamedTuple):
    """What was measured of some streams.

    Attributes:
        classifier: in words.
        streams: how many share a forward pass.
        window_ms: from the push of a window's last frames to the results, the median and the 95th percentile.
        frames_per_second: of all streams together, with a window every half second of each.
    """

    classifier: str
    streams: int
    window_ms: tuple[float, float]
    frames_per_second: float


def published(modalities: Sequence[str]) -> ActionClassifier:
    """A classifier of the published size, with random weights."""
    torch.manual_seed(0)
    config, layout = EncoderConfig(), get_layout("ntu25")
    streams = {modality: Classifier(build_encoder(config, layout), 60) for modality in modalities}
    steps = Preprocessing(frames=50, bodies=2, center="frame", align="frame", lost_frames="keep")
    return ActionClassifier(
        streams, config, [str(n) for n in range(60)], Recipe(layout, steps, BodySelection(2))
    ).eval()


def movement(classifier: ActionClassifier, frames: int) -> NDArray[np.float32]:
    """Bodies that move, joints (axes, frames, V, M); the same whenever it is made."""
    rng = np.random.default_rng(0)
    axes = 3 if classifier.layout.third == "depth" else 2
    shape = (axes, frames, classifier.layout.num_joints, classifier.bodies)
    return (1 + rng.normal(size=(axes, 1, *shape[2:])) + rng.normal(size=shape).cumsum(axis=1) / 100).astype(np.float32)


def measured(name: str, classifier: ActionClassifier, streams: int, seconds: float) -> Row:
    """Pushes frames into streams that begin together, so that all their windows are due at once."""
    pool = RecognizerPool(classifier, WINDOW, HOP)
    joints = movement(classifier, 600)
    windows: list[float] = []
    total, frames, number = 0.0, 0, 0
    while total < seconds or len(windows) < 5:
        pushed = {stream: Frames(joints[:, number % 600], number / FRAME_RATE) for stream in range(streams)}
        begun = time.perf_counter()
        results = pool.push(pushed)
        taken = time.perf_counter() - begun
        number += 1
        if number > 2 * WINDOW * FRAME_RATE:  # when the buffers are full and the first windows are done
            total, frames = total + taken, frames + streams
            windows += [taken] if results[0] else []
    quantiles = (median(windows), float(np.quantile(windows, 0.95)))
    return Row(name, streams, (1e3 * quantiles[0], 1e3 * quantiles[1]), frames / total)


def parts(classifier: ActionClassifier, seconds: float) -> dict[str, float]:
    """Milliseconds of the parts of one window of one stream; and of deriving a hop's frames alone.

    The last is what it would cost at least to derive incrementally.
    """
    length, hop = round(WINDOW * FRAME_RATE), round(HOP * FRAME_RATE)
    windows = WindowClassifier(classifier)
    clip = RawClip(movement(classifier, length))
    made = windows.prepare(clip)
    assert made is not None  # as there are bodies
    joints, num_frames = torch.from_numpy(made.joints)[None], torch.tensor([made.num_frames])
    hop_of_joints = joints[:, :, : max(3, hop * classifier.frames // length + 2)].contiguous()
    runs: dict[str, Callable[[], object]] = {
        "preprocessing": lambda: windows.prepare(clip),
        "modalities": lambda: classifier.derive(joints, num_frames),
        "modalities of a hop's frames alone": lambda: classifier.derive(hop_of_joints, num_frames),
        "all of the classifier": lambda: classifier(joints, num_frames),
    }
    with torch.inference_mode():
        return {name: 1e3 * _median_seconds(run, seconds / len(runs)) for name, run in runs.items()}


def _median_seconds(run: Callable[[], object], budget: float) -> float:
    run()
    times: list[float] = []
    while sum(times) < budget or len(times) < 5:
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return median(times)


def hour(classifier: ActionClassifier, frames: int) -> Iterator[tuple[int, int, float]]:
    """Pushes frames as fast as can be; yields how many, ten times, with the windows so far and the resident MiB."""
    recognizer = Recognizer(classifier, WINDOW, HOP)
    joints = movement(classifier, 600)
    windows = 0
    for number in range(frames):
        windows += len(recognizer.push(joints[:, number % 600], number / FRAME_RATE))
        if (number + 1) % max(1, frames // 10) == 0:
            yield number + 1, windows, process_memory("VmRSS") / 1024


def markdown(rows: Sequence[Row], shares: dict[str, dict[str, float]], facts: str) -> str:
    """The machine, a table of the streams and one of a window's parts."""
    streams = [
        f"| {row.classifier} | {row.streams} | {row.window_ms[0]:.1f} ms | {row.window_ms[1]:.1f} ms "
        f"| {row.window_ms[0] / row.streams:.1f} ms | {row.frames_per_second:.0f} |"
        for row in rows
    ]
    names = list(next(iter(shares.values())))
    each = [f"| {name} | {' | '.join(f'{part[key]:.2f} ms' for key in names)} |" for name, part in shares.items()]
    return "\n".join(
        [
            f"Measured on {facts}.",
            "",
            "| classifier | streams | windows of all, median | 95 % | of each | frames/s of all |",
            "|---|---:|---:|---:|---:|---:|",
            *streams,
            "",
            f"| one window | {' | '.join(names)} |",
            "|---|" + "---:|" * len(names),
            *each,
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, and puts the tables into a document."""
    parser = argparse.ArgumentParser(prog="python -m ikem.live.bench", description=__doc__)
    parser.add_argument("--classifier", type=Path, metavar="FILE", help="a classifier; default: of the published size")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; default: 1")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to measure each row; default: 10")
    parser.add_argument("--table", type=Path, metavar="FILE", help=f"put tables into this Markdown, at {MARKS[0]}")
    parser.add_argument("--hour", action="store_true", help="push an hour of frames and print the resident memory")
    parser.add_argument("--frames", type=int, default=HOUR, help=f"of --hour; default: {HOUR}")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.table:
        try:
            report.split(options.table, MARKS)
        except (OSError, ValueError) as error:
            parser.error(f"argument --table: {error}")
    if options.hour:
        classifier = load_classifier(options.classifier) if options.classifier else published(MODALITIES)
        for frames, windows, memory in hour(classifier, options.frames):
            minutes = frames / FRAME_RATE / 60
            print(f"{minutes:5.1f} minutes, {frames} frames, {windows} windows: {memory:.1f} MiB resident", flush=True)
        return
    classifiers = (
        {options.classifier.name: load_classifier(options.classifier)}
        if options.classifier
        else {"six modalities": published(MODALITIES), "three modalities": published(("joint", "motion", "bone"))}
    )
    facts = report.in_words(machine(torch.device("cpu"), quick=options.seconds < 5))
    rows = [measured(name, each, streams, options.seconds) for name, each in classifiers.items() for streams in STREAMS]
    shares = {name: parts(each, options.seconds) for name, each in classifiers.items()}
    table = markdown(rows, shares, facts)
    print(table)
    if options.table:
        report.refresh(options.table, table, MARKS)


if __name__ == "__main__":
    main()

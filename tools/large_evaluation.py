"""What an evaluation of NTU RGB+D's size takes: time and memory of each part, on a data set of that size made up.

    python tools/large_evaluation.py FOLDER

makes 40091 training and 16487 test clips of 50 frames, 25 joints and 2 bodies (1.6 GiB, kept in FOLDER for another
run), evaluates one set of encoders with random weights on them, and prints a table in Markdown. Encoders are narrower
than published ones, whose time is extrapolated from 256 clips: what comes after them knows nothing of their blocks. The
logistic probe is left out, as it is meant for small data sets; the features that it would read are written to their
mapped file all the same.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ikem.config import Config, DataConfig, EncoderConfig, EvaluateConfig, TrainerConfig
from ikem.data.dataset import Clip, PreparedDataset, write_dataset
from ikem.encoders import Encoder, build_encoder
from ikem.evaluation import evaluation
from ikem.evaluation.evaluation import Evaluation
from ikem.evaluation.features import extract_features
from ikem.evaluation.logistic import require_few
from ikem.evaluation.stages import Stage
from ikem_ext import get_layout

TRAIN, TEST, CLASSES, FRAMES = 40091, 16487, 60, 50  # of NTU RGB+D 60, cross-subject
LAYOUT = get_layout("ntu25")


def make_dataset(folder: Path) -> None:
    """Write the data set: each class is a curve of its own, which other curves disturb."""
    generator = np.random.default_rng(0)
    curves = generator.normal(size=(CLASSES, 3, FRAMES, LAYOUT.num_joints, 2)).astype(np.float32)
    numbers = range(TRAIN + TEST)

    def joints() -> Iterator[NDArray[np.float32]]:
        for i in numbers:
            yield curves[i % CLASSES] + np.float32(0.6) * np.roll(curves[(7 * i + 3) % CLASSES], i % FRAMES, 1)

    write_dataset(
        folder,
        joints=joints(),
        clips=[Clip(f"{i:05d}", i % CLASSES, i % 40, None, None, None, 40 + i % 100) for i in numbers],
        classes=[f"class {label}" for label in range(CLASSES)],
        layout=LAYOUT,
        source="npz",
        preprocessing={},
        protocols={"xsub": {"train": list(numbers[:TRAIN]), "test": list(numbers[TRAIN:])}},
    )


def resident() -> tuple[float, float]:
    """GiB of memory of the process: its own, and with the pages of mapped files that happen to be in memory."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, mapped = (int(status[name].split()[0]) / 2**20 for name in ("RssAnon", "RssFile"))
    return own, own + mapped


class Table:
    """Measures parts, and prints a row for each as it ends."""

    def __init__(self) -> None:
        self.peak = (0.0, 0.0)
        print("| part | wall clock | processor time | peak memory | with mapped files |\n|---|---:|---:|---:|---:|")
        threading.Thread(target=self._watch, daemon=True).start()

    @contextmanager
    def row(self, name: str) -> Iterator[None]:
        """Measure what is done within."""
        self.peak = resident()
        wall, processor = time.perf_counter(), time.process_time()
        yield
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        own, with_files = self.peak
        print(f"| {name} | {wall:.0f} s | {processor:.0f} s | {own:.1f} GiB | {with_files:.1f} GiB |", flush=True)

    def measured(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, each of whose calls is a row."""

        def call(*args: Any, **options: Any) -> Any:
            with self.row(name):
                return function(*args, **options)

        return call

    def _watch(self) -> None:
        while True:
            now = resident()
            self.peak = (max(self.peak[0], now[0]), max(self.peak[1], now[1]))
            time.sleep(0.05)


def random_encoders(config: EncoderConfig, modalities: list[str]) -> dict[str, Encoder]:
    """Return encoders with random weights."""
    torch.manual_seed(0)
    return {name: build_encoder(config, LAYOUT) for name in modalities}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the data set is, or is to be")
    parser.add_argument("--modalities", nargs="+", default=["joint", "motion", "bone"])
    parser.add_argument("--base-width", type=int, default=4)
    parser.add_argument("--feature-width", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=100, help="of the linear probe")
    parser.add_argument("--raw", action="store_true", help="the control on raw coordinates, too")
    args = parser.parse_args()
    if not args.folder.exists():
        make_dataset(args.folder)
    dataset = PreparedDataset(args.folder)
    encoder = EncoderConfig(base_width=args.base_width, feature_width=args.feature_width, initialization="kaiming")
    config = Config(
        data=DataConfig(args.folder, "xsub"),
        encoder=encoder,
        evaluate=EvaluateConfig(epochs=args.epochs, standardize=True, segments=1, parts_dtype="float16"),
        trainer=TrainerConfig(progress=False, accelerator="cpu"),
    )
    try:
        require_few(TRAIN, TEST, args.feature_width * 4 * LAYOUT.num_joints)
    except ValueError as error:
        print(f"with --evaluate.segments 4: {error}\n")
    table = Table()
    with TemporaryDirectory(prefix=".features-", dir=args.folder.parent) as scratch:
        parts: Any = Evaluation(config, dataset, Path(scratch))
        published = random_encoders(replace(encoder, base_width=16, feature_width=256), args.modalities[:1])
        with table.row("256 clips, one modality, at published widths"):
            extract_features(published, dataset, np.arange(256), fabric=parts.fabric)
        evaluation.extract_features = table.measured("features of training, then of test clips", extract_features)
        parts._add_linear = table.measured(f"linear probe, {args.epochs} epochs", parts._add_linear)
        parts._add_neighbors = table.measured("retrieval and 20-NN", parts._add_neighbors)
        parts._add_logistic = lambda encoded: None
        parts.add_encoders(Stage("random", random_encoders(encoder, args.modalities), LAYOUT, "random"))
        if args.raw:
            with table.row("ridge classifier of raw coordinates"):
                parts.options = replace(parts.options, segments=0)
                parts.add_raw()
        for row in parts.board.rows:
            print(row["protocol"], row["stream"], f"top-1 {row['top1']:.3f}")


if __name__ == "__main__":
    main()

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from measuring import BODIES, COLUMNS, FRAMES, LAYOUT, made_clip, measured
from numpy.typing import NDArray

from ikem.config import Config, DataConfig, EncoderConfig, EvaluateConfig, TrainerConfig
from ikem.data.dataset import PreparedDataset, write_dataset
from ikem.encoders import Encoder, build_encoder
from ikem.evaluation import evaluation
from ikem.evaluation.evaluation import Evaluation
from ikem.evaluation.features import extract_features
from ikem.evaluation.logistic import require_few
from ikem.evaluation.stages import Stage

TRAIN, TEST, CLASSES = 40091, 16487, 60  # of NTU RGB+D 60, cross-subject


def make_dataset(folder: Path) -> None:
    """Write the data set: each class is a curve of its own, which other curves disturb."""
    generator = np.random.default_rng(0)
    curves = generator.normal(size=(CLASSES, 3, FRAMES, LAYOUT.num_joints, BODIES)).astype(np.float32)
    numbers = range(TRAIN + TEST)

    def joints() -> Iterator[NDArray[np.float32]]:
        for i in numbers:
            yield curves[i % CLASSES] + np.float32(0.6) * np.roll(curves[(7 * i + 3) % CLASSES], i % FRAMES, 1)

    write_dataset(
        folder,
        joints=joints(),
        clips=[made_clip(i, CLASSES) for i in numbers],
        classes=[f"class {label}" for label in range(CLASSES)],
        layout=LAYOUT,
        source="npz",
        preprocessing={},
        protocols={"xsub": {"train": list(numbers[:TRAIN]), "test": list(numbers[TRAIN:])}},
    )


@contextmanager
def row(name: str) -> Iterator[None]:
    """Measure what is done within, and print it."""
    with measured() as usage:
        yield
    print(f"| {name} | {usage.cells()}", flush=True)


def in_a_row(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, each of whose calls is a row."""

    def call(*args: Any, **options: Any) -> Any:
        with row(name):
            return function(*args, **options)

    return call


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
    print(COLUMNS)
    with TemporaryDirectory(prefix=".features-", dir=args.folder.parent) as scratch:
        parts: Any = Evaluation(config, dataset, Path(scratch))
        published = random_encoders(replace(encoder, base_width=16, feature_width=256), args.modalities[:1])
        with row("256 clips, one modality, at published widths"):
            extract_features(published, dataset, np.arange(256), fabric=parts.fabric)
        evaluation.extract_features = in_a_row("features of training, then of test clips", extract_features)
        parts._add_linear = in_a_row(f"linear probe, {args.epochs} epochs", parts._add_linear)
        parts._add_neighbors = in_a_row("retrieval and 20-NN", parts._add_neighbors)
        parts._add_logistic = lambda encoded: None
        parts.add_encoders(Stage("random", random_encoders(encoder, args.modalities), LAYOUT, "random"))
        if args.raw:
            with row("ridge classifier of raw coordinates"):
                parts.options = replace(parts.options, segments=0)
                parts.add_raw()
        for found in parts.board.rows:
            print(found["protocol"], found["stream"], f"top-1 {found['top1']:.3f}")


if __name__ == "__main__":
    main()

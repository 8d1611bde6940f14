"""What the results of a step follow from, as short digests: equal ones stand for equal results.

They are made from what changes results: options of the resolved configuration, the contents of the data set and of
checkpoints that are named. Where a run or its data set lies, how many processes load it and what is shown on the way
change nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ikem.config import Config, plain
from ikem.study.steps import STEPS, config_of_step
from ikem.training.schedule import SCHEDULE, learning_rate_factor

#: Of the trainer, what the numbers depend on, by rounding at least.
NUMERICS = ("accelerator", "precision", "cuda_graphs")
#: Options of pretraining that nothing in stage 1 depends on.
STAGE2 = ("explicit", "implicit", "context", "topk", "exchange_momentum_modalities")
#: Options that name a checkpoint, whose content counts.
CHECKPOINTS = {"distill": "teacher", "finetune": "checkpoint"}

PIECES, PIECE_BYTES = 64, 1 << 16  # of joints.npy, which is too large to be read as a whole


def step_keys(config: Config, steps: Sequence[str]) -> dict[str, str]:
    """Return for each step of a run a digest of all that its results follow from, the steps before it among it.

    Args:
        config: of the run.
        steps: of the run, in their order.

    Raises:
        ValueError: if the data set or a checkpoint that is named is not there.
    """
    keys: dict[str, str] = {}
    for step in steps:
        content = _content(config_of_step(config, step), STEPS[step].sections)
        before = {name: keys[name] for name in STEPS[step].after if name in keys}
        keys[step] = digest({"content": content, "before": before})
    return keys


def same_stage1(one: Config, other: Config) -> bool:
    """Return whether another run's pretraining is the same as the first one's to the end of the first one's stage 1.

    Example:
        >>> from ikem.config import PretrainConfig
        >>> one = Config(pretrain=PretrainConfig())
        >>> same_stage1(one, Config(pretrain=PretrainConfig(implicit=False, epochs=200)))
        True
        >>> same_stage1(one, Config(pretrain=PretrainConfig(temperature=0.1)))
        False
    """
    epochs = one.pretrain.stage1_epochs
    if not 0 < epochs <= other.pretrain.stage1_epochs:
        return False
    rates = [[learning_rate_factor(each.pretrain, epoch) for epoch in range(epochs)] for each in (one, other)]
    return rates[0] == rates[1] and _stage1(one) == _stage1(other)


def _stage1(config: Config) -> dict[str, Any]:
    """All that stage 1 follows from, but for what happens in which epoch."""
    found = options_of(config, STEPS["pretrain"].sections)
    found["pretrain"] = {k: v for k, v in found["pretrain"].items() if k not in (*SCHEDULE, *STAGE2)}
    return found


def options_of(config: Config, sections: Sequence[str]) -> dict[str, Any]:
    """Return the options that results follow from in some sections, which have files still by their names."""
    values = plain(config)
    found = {name: values[name] for name in sections}
    found["data"] = {name: value for name, value in found["data"].items() if name != "workers"}
    found["trainer"] = {name: values["trainer"][name] for name in NUMERICS}
    return found


def _content(config: Config, sections: Sequence[str]) -> dict[str, Any]:
    found = options_of(config, sections)
    folders = config.data.folder
    found["data"]["folder"] = [dataset_digest(each) for each in ([folders] if isinstance(folders, Path) else folders)]
    found["data"]["unlabelled"] = [dataset_digest(each) for each in config.data.unlabelled]
    for section, option in CHECKPOINTS.items():
        if section in found and (path := found[section][option]) is not None:
            if not Path(path).is_file():
                raise ValueError(f"{section}.{option}: there is no file {path}")
            found[section][option] = _file_digest(Path(path))
    return found


def digest(values: Any) -> str:
    """Return a short digest of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def dataset_digest(folder: Path) -> str:
    """Return a digest of a prepared data set, in a moment even of many gigabytes.

    ``dataset.json`` and ``clips.csv`` count with every byte; of ``joints.npy`` the size, and 64 pieces of 64 KiB at
    equal distances from the beginning to the end, which is all of it up to 4 MiB. A change of all clips, as another
    preparation makes it, is always seen; one of single clips between these pieces is not.
    """
    for name in ("dataset.json", "clips.csv", "joints.npy"):
        if not (folder / name).is_file():
            raise ValueError(f"data.folder: {folder} is not a prepared data set, it has no {name}")
    whole = [_file_digest(folder / name) for name in ("dataset.json", "clips.csv")]
    return digest([*whole, _sample_digest(folder / "joints.npy")])


def _file_digest(path: Path) -> str:
    return _digest_of_pieces(path, *_state(path), pieces=0)


def _sample_digest(path: Path) -> str:
    return _digest_of_pieces(path, *_state(path), pieces=PIECES)


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@lru_cache
def _digest_of_pieces(path: Path, size: int, changed: int, pieces: int) -> str:
    """Read a file once in each of its states: all of it, or so many pieces of it and its size."""
    found = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if not pieces or size <= pieces * PIECE_BYTES:
            while piece := file.read(PIECE_BYTES):
                found.update(piece)
        else:
            for number in range(pieces):
                file.seek(number * (size - PIECE_BYTES) // (pieces - 1))
                found.update(file.read(PIECE_BYTES))
    return found.hexdigest()

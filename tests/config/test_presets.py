"""The configurations that come with the package: what each changes of its base, and the data that it is for."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from command_line import resolved

from ikem.cli import build_parser
from ikem.config import flatten, named_configs, read_config
from ikem.data.formats import FORMATS

OTHER_DATA = {"run", "data.folder", "data.protocol"}
OTHER_FOLDER = {"run", "data.folder"}
QUEUES = {"pretrain.queue_length", "distill.queue_length"}
PRESETS = {
    "ntu60-xsub": ("ntu", OTHER_DATA),
    "ntu60-xview": ("ntu", OTHER_DATA),
    "ntu120-xsub": ("ntu", OTHER_DATA),
    "ntu120-xset": ("ntu", OTHER_DATA),
    "pku-mmd-1": ("ntu", OTHER_DATA | QUEUES),
    "pku-mmd-2": ("pku-mmd-1", OTHER_FOLDER | QUEUES),
    "nw-ucla": (
        "small",
        OTHER_DATA | {"views.turn_degrees", "pretrain.epochs", "pretrain.exchange_epoch", "distill.epochs"},
    ),
    "kinder-gator": ("tiny", OTHER_DATA),
    "shrec17": ("small", OTHER_DATA),
    "shrec17-28": ("shrec17", OTHER_FOLDER),
    "sbu": ("tiny", OTHER_DATA | QUEUES),
    "utd-mhad": ("tiny", OTHER_DATA | {"evaluate.segments"}),
    "demo": (
        "small",
        OTHER_DATA
        | QUEUES
        | {"views.turn_degrees", "views.least_window", "views.scale", "views.jitter"}
        | {"encoder.base_width", "encoder.feature_width"}
        | {"pretrain.epochs", "pretrain.exchange_epoch", "pretrain.learning_rate", "pretrain.embedding_width"}
        | {"distill.epochs", "distill.learning_rate"}
        | {"evaluate.normalize", "evaluate.epochs", "evaluate.milestones", "evaluate.semi", "evaluate.draws"}
        | {"trainer.accuracy_every", "trainer.watch_every"},
    ),
}


def preparations(path: Path) -> list[list[str]]:
    """The words of the `ikem` commands in a file's comments."""
    return [shlex.split(line) for line in re.findall(r"^#   ikem (.*)$", path.read_text(), re.MULTILINE)]


def test_all_are_here() -> None:
    assert set(PRESETS) == set(named_configs())


@pytest.mark.parametrize("name", PRESETS)
def test_it_differs_from_its_base_in_these_options_alone(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    base, changed = PRESETS[name]
    (tmp_path / "base.yaml").write_text(f"extends: {base}\n")
    whole = dict(flatten(resolved(capsys, "pretrain", "--config", name)))
    without = dict(flatten(resolved(capsys, "pretrain", "--config", str(tmp_path / "base.yaml"))))
    assert read_config(name)[-2].path.stem == base
    different = {option for option in whole if whole[option] != without[option]}
    assert different <= changed
    assert {option for option, _ in flatten(read_config(name)[-1].options)} == changed  # and nothing is said twice


@pytest.mark.parametrize("name", PRESETS)
def test_it_says_how_its_data_are_prepared(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = dict(flatten(resolved(capsys, "pretrain", "--config", name)))
    commands = preparations(named_configs()[name])
    for words in commands:
        build_parser(words).parse_args(words)
    prepared = [words for words in commands if words[0] == "prepare"]
    assert len(prepared) == 1
    assert prepared[0][1] in FORMATS
    assert prepared[0][3] == config["data.folder"]

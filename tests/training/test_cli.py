"""The `ikem` command and its configurations: what is accepted, refused, and how it is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import refused, resolved, run

from ikem.cli import COMMANDS
from ikem.config import Config, find_config, flatten, named_configs, plain


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        code, out, error = run(capsys, command, "--help")
        assert code == 0, error
        assert f"{command}" in out


@pytest.mark.parametrize("name", sorted(named_configs()))
def test_named_configurations_are_complete_and_print(capsys: pytest.CaptureFixture[str], name: str) -> None:
    config = resolved(capsys, "pretrain", "--config", name)
    config.pop("overwrite", None)
    assert dict(flatten(config)).keys() == dict(flatten(plain(Config()))).keys()
    assert config["run"] == f"runs/{name}"


@pytest.mark.parametrize("name", ["ntu60-xsub", "ntu60-xview", "ntu120-xsub", "ntu120-xset"])
def test_published_settings(capsys: pytest.CaptureFixture[str], name: str) -> None:
    config = dict(flatten(resolved(capsys, "pretrain", "--config", name)))
    expected = {
        "data.batch_size": 128,
        "data.protocol": name.split("-")[1],
        "encoder.base_width": 16,
        "encoder.dropout": 0.5,
        "encoder.initialization": "published",
        "pretrain.epochs": 300,
        "pretrain.exchange_epoch": 150,
        "pretrain.milestones": [250],
        "pretrain.queue_length": 32768,
        "pretrain.key_momentum": 0.999,
        "pretrain.temperature": 0.07,
        "pretrain.learning_rate": 0.1,
        "pretrain.sgd_momentum": 0.9,
        "pretrain.weight_decay": 1e-4,
        "pretrain.exchange_momentum_modalities": ["motion", "acceleration", "angular_velocity"],
        "distill.epochs": 150,
        "distill.milestones": [125],
        "evaluate.preset": "crosclr",
        "evaluate.learning_rate": None,
        "evaluate.milestones": None,
        "evaluate.standardize": False,
    }
    assert {key: config[key] for key in expected} == expected


def test_anything_can_be_overridden(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("run: runs/own\npretrain:\n  epochs: 7\n  modalities: [joint, bone]\n")
    options = ("--pretrain.temperature", "0.2", "--evaluate.standardize", "true")
    config = dict(flatten(resolved(capsys, "pretrain", "--config", str(own), *options)))
    assert config["pretrain.epochs"] == 7
    assert config["pretrain.modalities"] == ["joint", "bone"]
    assert config["pretrain.temperature"] == 0.2
    assert config["evaluate.standardize"] is True
    assert find_config(str(own)) == own


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--pretrain.epoch", "3", "--pretrain.epoch"),
        ("--pretrain.epochs", "many", "pretrain.epochs"),
        ("--pretrain.epochs", "0", "pretrain.epochs: expected at least 1, got 0"),
        ("--pretrain.modalities", "[joint, depth]", "depth"),
        ("--pretrain.modalities", "[joint, joint]", "pretrain.modalities: expected each once"),
        ("--pretrain.modalities", "[joint]", "an exchange needs at least two"),
        ("--distill.temperature", "0", "distill.temperature: expected > 0"),
        ("--distill.temperature", ".inf", "distill.temperature: expected a finite number, got inf"),
        ("--evaluate.weight_decay", "-1", "evaluate.weight_decay: expected >= 0, got -1"),
        ("--encoder.dropout", "1.5", "encoder.dropout: expected in [0, 1), got 1.5"),
        ("--data.folder", "nowhere", "nowhere"),
        ("--config", "nothing", "config: expected a YAML file or one of demo, kinder-gator"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], option: str, value: str, said: str
) -> None:
    assert said in refused(capsys, "pretrain", "--config", "demo", option, value)


@pytest.mark.parametrize("text", ["runs: x\n", "pretrain:\n  epoch: 3\n", "pretrain: 3\n", "run: [\n"])
def test_bad_files_are_refused_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    refused(capsys, "pretrain", "--config", str(tmp_path / "bad.yaml"))


def test_what_does_not_fit_the_dataset_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, dataset_folder: Path
) -> None:
    options = ["--run", str(tmp_path / "run"), "--data.folder", str(dataset_folder)]
    assert "['halves']" in refused(capsys, "pretrain", *options, "--data.protocol", "thirds")
    options += ["--data.protocol", "halves"]
    assert "expected at most the 20 training clips, got 128" in refused(capsys, "pretrain", *options)
    few = [*options, "--data.batch_size", "5", "--trainer.devices", "2"]
    assert "expected a multiple of trainer.devices = 2, got 5" in refused(capsys, "pretrain", *few)
    assert "run `ikem pretrain` first" in refused(capsys, "evaluate", *options)
    assert "there is no file" in refused(capsys, "distill", *options, "--data.batch_size", "4")
    assert not (tmp_path / "run").exists()


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "invalid choice: 'train'" in refused(capsys, "train")
    refused(capsys)

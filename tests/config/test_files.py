"""Configurations that extend others: what comes of a chain of files, and which chains are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from command_line import refused, resolved

from ikem.config import find_config, flatten, plain, read_config
from ikem.study.definition import read_study


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A file that extends another folder's, which extends a configuration of the package."""
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "base.yaml").write_text(
        "extends: demo\nseed: 2\npretrain:\n  modalities: [joint, motion, bone]\n  topk: 2\n"
    )
    own = tmp_path / "own.yaml"
    own.write_text("extends: bases/base.yaml\nrun: runs/own\npretrain:\n  modalities: [bone, joint]\ndata.workers: 3\n")
    return own


def study_of(tmp_path: Path, base: object) -> Path:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({"base": base, "out": "runs/study", "seeds": [1], "variants": {"whole": {}}}))
    return file


EXPECTED = {
    "seed": 2,
    "data.workers": 3,
    "data.protocol": "cross-subject",  # the demo's
    "pretrain.topk": 2,
    "pretrain.modalities": ["bone", "joint"],  # replaced, not joined
    "pretrain.embedding_width": 64,  # the demo's
    "pretrain.temperature": 0.1,  # of what the demo extends
    "pretrain.exchange_momentum_modalities": ["motion", "acceleration", "angular_velocity"],  # the default
}


def test_files_extend_each_other(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = dict(flatten(resolved(capsys, "pretrain", "--config", str(chain))))
    assert {name: config[name] for name in EXPECTED} == EXPECTED
    assert config["run"] == "runs/own"
    assert "extends" not in config


def test_the_command_line_has_the_last_word(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config", str(chain), "--pretrain.topk", "3", "--data.batch_size", "8"]
    config = dict(flatten(resolved(capsys, "pretrain", *words)))
    assert (config["pretrain.topk"], config["data.batch_size"], config["data.workers"]) == (3, 8, 3)


def test_a_study_takes_them_as_its_base(chain: Path, tmp_path: Path) -> None:
    config = dict(flatten(plain(read_study(study_of(tmp_path, str(chain))).variants[0].config)))
    assert {name: config[name] for name in EXPECTED} == EXPECTED


def test_a_file_beside_comes_before_a_name(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("seed: 5\n")
    (tmp_path / "own.yaml").write_text("extends: demo\n")
    assert [file.path for file in read_config(str(tmp_path / "own.yaml"))] == [tmp_path / "demo", tmp_path / "own.yaml"]


def test_bases_are_for_extending_alone(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("extends: ntu\n")
    assert [file.path.name for file in read_config(str(tmp_path / "own.yaml"))] == ["ntu.yaml", "own.yaml"]
    with pytest.raises(ValueError, match=r"config: expected a YAML file or one of demo, .*got 'ntu'"):
        find_config("ntu")


@pytest.mark.parametrize(("start", "files"), [("a.yaml", 3), ("b.yaml", 3), ("self.yaml", 2), ("beside.yaml", 4)])
def test_circles_are_refused(start: str, files: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text(f"extends: ../{tmp_path.name}/a.yaml\n")
    (tmp_path / "self.yaml").write_text("extends: self.yaml\n")
    (tmp_path / "beside.yaml").write_text("extends: a.yaml\n")
    said = refused(capsys, "pretrain", "--config", str(tmp_path / start))
    assert "extends: expected an end, got a circle: " in said
    assert said.count(".yaml") == files


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: nothing\n", "{own}: extends: expected a YAML file or one of ntu, small, tiny, demo, "),
        ("extends: [demo, ntu]\n", "{own}: extends: expected one name or file, got ['demo', 'ntu']"),
        ("extends: base.yaml\npretrain:\n  epoch: 3\n", "{own}: Group 'pretrain' does not accept option 'epoch'"),
        ("- demo\n", "{own}: expected names and values, got ['demo']"),
        ("run: [\n", "{own}: cannot be read as YAML: "),
        ("extends: wrong.yaml\n", "{wrong}: Option 'runs' is not accepted"),
        ("extends: mistyped.yaml\n", '{mistyped}: Parser key "pretrain.epochs": Expected a'),
    ],
)
def test_what_is_wrong_is_named_with_its_file(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in {
        "own": text,
        "base": "seed: 2\n",
        "wrong": "runs: x\n",
        "mistyped": "pretrain: {epochs: many}\n",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    said = said.format(**{name: tmp_path / f"{name}.yaml" for name in ("own", "wrong", "mistyped")})
    own = str(tmp_path / "own.yaml")
    assert f"ikem pretrain: error: {said}" in refused(capsys, "pretrain", "--config", own)
    with pytest.raises(ValueError, match="base: ") as refusal:
        read_study(study_of(tmp_path, own))
    assert said in " ".join(str(refusal.value).split())


def test_an_option_after_the_files_is_not_blamed_on_them(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "pretrain", "--config", "demo", "--pretrain.epochs", "many")
    assert said.startswith('ikem pretrain: error: Parser key "pretrain.epochs"')

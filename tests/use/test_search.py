"""`ikem embed` and `ikem search`: features of clips, and the clips that are nearest by them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from use.commands import called, refused

from ikem.config import TrainerConfig
from ikem.data.dataset import PreparedDataset
from ikem.evaluation.features import extract_between_steps
from ikem.evaluation.neighbors import nearest_labels
from ikem.use.classifier import load_classifier
from ikem.use.embed import embed
from ikem.use.features import FeatureTable
from ikem.use.search import search


@pytest.fixture(scope="module")
def embedded(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of all clips of the demo."""
    folder = tmp_path_factory.mktemp("features") / "demo"
    embed(demo / "runs/demo", [str(demo / "runs/demo/data")], output=folder)
    return folder


def test_the_nearest_are_those_of_retrieval(demo: Path, embedded: Path) -> None:
    dataset = PreparedDataset(demo / "runs/demo/data")
    table = FeatureTable.read(embedded)
    assert table.features.shape == (72, 3 * 8)
    np.testing.assert_allclose(np.linalg.norm(table.features, axis=1), 1, atol=1e-5)
    encoders = {name: stream.encoder for name, stream in load_classifier(demo / "runs/demo").streams.items()}
    every = np.arange(len(dataset))
    means = extract_between_steps(encoders, dataset, every, TrainerConfig(accelerator="cpu"))
    rows = nearest_labels(means, every, means, (0, 1, 2), 3)  # each clip itself first
    for row in (0, 17, 71):
        found = search(dataset.clips[row].name, in_=embedded, top=2)
        assert [match.clip for match in found] == [dataset.clips[near].name for near in rows[row, 1:]]
        assert [match.rank for match in found] == [1, 2]


def test_a_recording_finds_itself(demo: Path, embedded: Path, tmp_path: Path) -> None:
    name = PreparedDataset(demo / "runs/demo/data").clips[5].name
    first, second = search(f"{demo}/runs/demo/recordings.npz:{name}", in_=embedded, top=2, output=tmp_path / "x.json")
    assert (first.query, first.clip) == (name, name)
    assert first.cosine == pytest.approx(1, abs=1e-5)
    assert second.cosine <= first.cosine
    assert [match["clip"] for match in json.loads((tmp_path / "x.json").read_text())["matches"]] == [name, second.clip]


def test_encoders_without_a_head(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, output = demo / "runs/demo", tmp_path / "walks.npy"
    called(capsys, "embed", run / "pretrain/encoders.safetensors", run / "data", "--output", output)
    assert np.load(output).shape == (72, 6 * 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["walks.csv", "walks.json", "walks.npy"]
    name = PreparedDataset(run / "data").clips[0].name
    printed, _ = called(capsys, "search", name, "--in", output, "--top", 2)
    assert all(match.clip in printed for match in search(name, in_=output, top=2))
    shown = tmp_path / "silent.safetensors"
    with safe_open(run / "pretrain/encoders.safetensors", "pt") as file:
        description = json.loads(file.metadata()["ikem"])
    del description["recipe"]
    save_file(load_file(run / "pretrain/encoders.safetensors"), shown, {"ikem": json.dumps(description)})
    assert "does not say how recordings become clips" in refused(
        capsys, "embed", shown, run / "data", "--output", tmp_path / "none"
    )
    assert not (tmp_path / "none").exists()


def test_what_cannot_be_embedded(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, output = demo / "runs/demo", tmp_path / "out"
    (tmp_path / "other.safetensors").write_bytes(b"nothing")
    save_file(load_file(run / "classifier.safetensors"), tmp_path / "bare.safetensors")
    for checkpoint, file, message in (
        (run, tmp_path / "nothing", "there is no"),
        (run / "pretrain/last.ckpt", run / "data", "no file of safetensors"),
        (tmp_path / "other.safetensors", run / "data", "no file of safetensors"),
        (tmp_path / "bare.safetensors", run / "data", "`ikem import`"),
        (tmp_path / "none", run / "data", "there is no"),
    ):
        assert message in refused(capsys, "embed", checkpoint, file, "--output", output)
        assert not output.exists()


def test_features_that_do_not_fit_are_refused(
    demo: Path, embedded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = demo / "runs/demo"
    recording = run / "recordings.npz"
    assert "there is no" in refused(capsys, "search", "x", "--in", tmp_path)
    assert "expected a recording, or the name of a clip" in refused(capsys, "search", "nobody", "--in", embedded)
    other = run / "pretrain/encoders.safetensors"
    error = refused(capsys, "search", recording, "--in", embedded, "--checkpoint", other)
    assert "is not what the features were made with" in error
    for name, message in (("csv", "expected float32 (71, 24)"), ("npy", "whole"), ("json", "whole")):
        broken = tmp_path / name
        shutil.copytree(embedded, broken)
        file = broken / f"features.{name}"
        whole = file.read_bytes()
        file.write_bytes(whole[: whole[:-1].rindex(b"\n") + 1] if name == "csv" else whole[:-20])
        assert message in refused(capsys, "search", "x", "--in", broken)


def test_names_that_two_clips_have(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, output = demo / "runs/demo", tmp_path / "out"
    name = PreparedDataset(run / "data").clips[0].name
    embed(run, [f"{run}/data:{name}", f"{run}/recordings.npz:{name}"], output=output)
    assert f"2 clips have the name '{name}'" in refused(capsys, "search", name, "--in", output)

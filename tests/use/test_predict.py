"""`ikem predict`: names what the classifier says of recordings, and refuses what is none."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from recordings import write_npz, write_ntu_clip
from use.commands import called, refused

from ikem.data.dataset import PreparedDataset
from ikem.data.prepare import prepare
from ikem.use.classifier import load_classifier
from ikem.use.predict import predict
from ikem_ext import get_layout


def walking(joints: int = 25, frames: int = 40, bodies: int = 1) -> np.ndarray:
    """Somebody of some shape who moves, (3, frames, V, bodies)."""
    random = np.random.default_rng(0)
    shape = random.normal(size=(3, 1, joints, bodies))
    return shape + 0.05 * random.normal(size=(3, frames, joints, bodies)).cumsum(1)


def one_clip(folder: Path, joints: np.ndarray, layout: str = "ntu25") -> Path:
    folder.mkdir(exist_ok=True)
    return write_npz(folder, joints=joints[None], num_frames=np.array([joints.shape[1]]), layout=np.array(layout))


def test_recordings_and_prepared_clips_give_what_the_classifier_gives(demo: Path) -> None:
    run = demo / "runs/demo"
    dataset, classifier = PreparedDataset(run / "data"), load_classifier(run)
    with torch.inference_mode():
        expected = classifier(torch.from_numpy(dataset.joints[:]), torch.from_numpy(dataset.num_frames))
    for file in (run / "recordings.npz", run / "data"):
        found = predict(run, [str(file)], top=18)
        assert [each.clip for each in found] == [clip.name for clip in dataset.clips]
        assert [each.num_frames for each in found] == dataset.num_frames.tolist()
        for each, row in zip(found, expected, strict=True):
            shares = [guess.probability for guess in each.guesses]
            assert shares == sorted(shares, reverse=True)
            assert sum(shares) == pytest.approx(1, abs=1e-5)
            by_class = {guess.name: guess.probability for guess in each.guesses}
            np.testing.assert_allclose([by_class[name] for name in dataset.classes], row.numpy(), atol=1e-4)


def test_files_and_table(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = demo / "runs/demo"
    names = [clip.name for clip in PreparedDataset(run / "data").clips]
    one = f"{run}/data:{names[3]}"
    printed, _ = called(capsys, "predict", run, one)
    found = predict(run, [one])
    for guess in found[0].guesses:
        assert guess.name in printed
        assert f"{100 * guess.probability:.1f}" in printed
    for suffix in ("csv", "json"):
        called(
            capsys, "predict", run / "classifier.safetensors", one, run / "data", "--output", tmp_path / f"x.{suffix}"
        )
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    document = json.loads((tmp_path / "x.json").read_text())
    assert [row["clip"] for row in rows] == [each["clip"] for each in document["clips"]] == [names[3], *names]
    assert document["classifier"]["stream"] == "learned_fused3"
    for row, each in zip(rows, document["clips"], strict=True):
        assert row["bodies"] == "1" == str(each["taken"])
        for rank, guess in enumerate(each["classes"], start=1):
            assert row[f"name_{rank}"] == guess["name"]
            assert float(row[f"probability_{rank}"]) == guess["probability"]


def test_joints_of_another_skeleton_are_taken_over_by_name(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = walking(32)
    file = one_clip(tmp_path, clip, "azure32")
    _, said = called(capsys, "predict", demo / "runs/demo", file)
    assert "joints of ntu25 are taken from azure32" in said
    as_ntu = get_layout("azure32").mapping(get_layout("azure32"), get_layout("ntu25"))(clip)
    expected = predict(demo / "runs/demo", [str(one_clip(tmp_path / "ntu", as_ntu))])
    found = predict(demo / "runs/demo", [str(file)])
    for one, other in zip(found[0].guesses, expected[0].guesses, strict=True):
        assert one.name == other.name
        assert one.probability == pytest.approx(other.probability, abs=1e-4)


def test_more_bodies_than_the_classifier_takes(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_ntu_clip(tmp_path, walking(bodies=2))
    printed, _ = called(capsys, "predict", demo / "runs/demo", file)
    assert "1 of 2" in printed


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "nothing.npz", "there is no"),
    "no recording": (lambda folder: text(folder / "notes.txt"), "is no recording"),
    "one frame": (lambda folder: one_clip(folder, walking(frames=1)), "expected at least 2 frames"),
    "no body": (lambda folder: one_clip(folder, np.zeros((3, 9, 25, 1))), "no body is ever seen"),
    "infinite": (lambda folder: one_clip(folder, walking() * np.inf), "finite"),
    "nan": (lambda folder: write_ntu_clip(folder, walking() * np.nan), "S001C001P001R001A001"),
    "another skeleton": (lambda folder: one_clip(folder, walking(22), "hand22"), "says nothing of"),
    "points in an image": (lambda folder: one_clip(folder, walking(17)[:2], "coco17"), "joints"),
}


def text(path: Path) -> Path:
    path.write_text("nothing to see here")
    return path


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_recording_is_refused(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    make, message = BAD[case]
    folder, output = tmp_path / "in", tmp_path / "out.csv"
    folder.mkdir()
    error = refused(capsys, "predict", demo / "runs/demo", make(folder), "--output", output)
    assert message in error
    assert str(folder) in error
    assert not output.exists()


def test_of_several_files_all_are_refused_or_the_bad_ones_left_out(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, output = one_clip(tmp_path / "good", walking()), tmp_path / "out.csv"
    skeletons = tmp_path / "skeletons"
    skeletons.mkdir()
    write_ntu_clip(skeletons, walking())
    text(skeletons / "S001C001P001R001A002.skeleton")
    words = ["predict", demo / "runs/demo", good, tmp_path / "missing.npz", skeletons, "--output", output]
    with pytest.raises(SystemExit) as stop:
        called(capsys, *words)
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert len(lines) == 3
    assert "missing.npz" in lines[0]
    assert "A002" in lines[1]
    assert "2 cannot be used" in lines[2]
    assert not output.exists()
    _, said = called(capsys, *words, "--skip_damaged", "true")
    assert said.count("left out: ") == 2
    assert len(output.read_text().splitlines()) == 3


def test_what_is_no_classifier_is_refused(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = demo / "runs/demo"
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes((run / "classifier.safetensors").read_bytes()[:-100])
    for checkpoint, message in (
        (run / "pretrain/encoders.safetensors", "is no classifier"),
        (run / "pretrain/last.ckpt", "is no classifier"),
        (damaged, "damaged.safetensors"),
        (tmp_path, "there is no"),
        (tmp_path / "nothing", "there is no"),
    ):
        assert message in refused(capsys, "predict", checkpoint, run / "data")


def test_wrong_arguments(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = demo / "runs/demo"
    prepare("npz", run / "recordings.npz", tmp_path / "longer", frames=26)
    for words, message in (
        ([run / "data", "--top", "0"], "top: expected at least 1"),
        ([run / "data", "--output", tmp_path / "x.txt"], "output: expected a file .csv or .json"),
        ([f"{run}/data:nobody"], "there is no clip nobody"),
        ([run / "data", "--device", "abacus"], "device: abacus cannot be used"),
        ([tmp_path / "longer"], "prepared with frames 26, expected 25"),
        ([run / "recordings.npz", "--format", "ntu60"], "recordings.npz"),
        ([run / "recordings.npz", "--layout", "sbu15"], "sbu15"),
    ):
        assert message in refused(capsys, "predict", run, *words)

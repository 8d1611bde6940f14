"""`ikem import`: published weights become what the other commands take, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from use.commands import called, refused

from ikem.checkpoint import load_encoders
from ikem.data.formats.ntu import Ntu60
from ikem.use.classifier import load_classifier
from ikem.use.encoders import read_encoders

Golden = Callable[[str], dict[str, np.ndarray]]


@pytest.fixture
def state(golden: Golden) -> dict[str, Tensor]:
    """A published encoder with a classifier of ten classes, by the published names."""
    arrays = golden("st_gcn_encoder")
    return {n.removeprefix("param/"): torch.from_numpy(v).float() for n, v in arrays.items() if n.startswith("param/")}


def write(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, path)
    return path


def with_fcn(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As ST-GCN calls its classifier, a convolution."""
    renamed = {name.replace("fc.", "fcn."): value for name, value in state.items()}
    return {**renamed, "fcn.weight": state["fc.weight"][:, :, None, None]}


@pytest.mark.parametrize("change", [dict, with_fcn], ids=["fc", "fcn"])
@pytest.mark.parametrize("prefix", ["", "module.", "encoder_q.", "module.encoder_q."])
def test_a_head_makes_a_classifier(
    tmp_path: Path,
    state: dict[str, Tensor],
    golden: Golden,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    prefix: str,
) -> None:
    file = write(tmp_path / "st_gcn.pt", {f"{prefix}{name}": value for name, value in change(state).items()})
    called(capsys, "import", file, tmp_path / "out")
    classifier, arrays = load_classifier(tmp_path / "out"), golden("st_gcn_encoder")
    assert classifier.classes == [str(label) for label in range(10)]
    assert (classifier.layout.name, classifier.frames, classifier.bodies) == ("ntu25", 50, 2)
    assert classifier.origin["file"] == "st_gcn.pt"
    x, logits = (torch.from_numpy(arrays[name]).float() for name in ("input", "logits"))
    with torch.inference_mode():
        found = classifier(x, torch.full((len(x),), 50))
    torch.testing.assert_close(found, logits.softmax(-1), rtol=1e-4, atol=1e-5)


def test_names_of_classes_and_preprocessing(
    tmp_path: Path, state: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    file, names = write(tmp_path / "x.pt", state), tmp_path / "names.txt"
    names.write_text("".join(f"action {label}\n" for label in range(10)))
    steps = ["--frames", "300", "--center", "none", "--align", "none", "--modality", "bone"]
    called(capsys, "import", file, tmp_path / "x.safetensors", "--classes", names, *steps)
    classifier = load_classifier(tmp_path / "x.safetensors")
    assert classifier.classes[9] == "action 9"
    assert classifier.modalities == ("bone",)
    assert (classifier.frames, classifier.recipe.preprocessing.align) == (300, "none")
    sixty = {**state, "fc.weight": state["fc.weight"].repeat(6, 1), "fc.bias": state["fc.bias"].repeat(6)}
    called(capsys, "import", write(file, sixty), tmp_path / "ntu")
    assert load_classifier(tmp_path / "ntu").classes == list(Ntu60.classes)


def test_a_contrastive_training_gives_encoders(
    tmp_path: Path, state: dict[str, Tensor], capsys: pytest.CaptureFixture[str], shared: Path
) -> None:
    whole = {f"{owner}.{name}": value for owner in ("encoder_q", "encoder_q_motion") for name, value in state.items()}
    file = write(tmp_path / "moco.pt", {**whole, "queue": torch.zeros(24, 8), "encoder_k.A": state["A"]})
    printed, _ = called(capsys, "import", file, tmp_path / "out")
    assert "left out, as it serves the training alone: encoder_k, queue, fc of joint, fc of motion" in printed
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["encoders.safetensors"]
    encoders = read_encoders(tmp_path / "out/encoders.safetensors")
    assert encoders.modalities == ("joint", "motion")
    clip = shared / "data/ntu-samples/S001C001P001R001A001.skeleton"
    called(capsys, "embed", tmp_path / "out/encoders.safetensors", clip, "--output", tmp_path / "x.npy")
    assert np.load(tmp_path / "x.npy").shape == (1, 2 * 24)


def test_other_weights_of_the_same_edges_are_kept(
    tmp_path: Path, state: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    """Adjacencies are no part of what is written: the edge importance has to make up for them."""
    bare = {name: value for name, value in state.items() if not name.startswith("fc.")}
    twice = {name: 2 * value if name.startswith("edge_importance") else value for name, value in bare.items()}
    for name, weights in (("heavy", {**bare, "A": 2 * bare["A"]}), ("twice", twice)):
        called(capsys, "import", write(tmp_path / f"{name}.pt", weights), tmp_path / name)
    one, other = (load_encoders(tmp_path / name / "encoders.safetensors")["joint"] for name in ("heavy", "twice"))
    x = torch.randn(2, 3, 16, 25, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(one(x), other(x))
    assert not torch.allclose(one(x), load_one(tmp_path, bare, capsys)(x))


def load_one(folder: Path, state: dict[str, Tensor], capsys: pytest.CaptureFixture[str]) -> torch.nn.Module:
    called(capsys, "import", write(folder / "plain.pt", state), folder / "plain")
    return load_encoders(folder / "plain/encoders.safetensors")["joint"]


def test_nothing_is_loaded_in_part(
    tmp_path: Path, state: dict[str, Tensor], demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, names = tmp_path / "out", tmp_path / "names.txt"
    names.write_text("one\ntwo\n")
    bare = {name: value for name, value in state.items() if not name.startswith("fc.")}
    edge = state["A"].clone()
    edge[0, 3, 20] = 0.5
    joint, motion = ({f"{owner}.{name}": v for name, v in bare.items()} for owner in ("encoder_q", "encoder_q_motion"))
    lacking = {name: value for name, value in state.items() if name != "st_gcn_networks.3.tcn.2.weight"}
    for weights, words, message in (
        (lacking, [], "Missing key"),
        ({**state, "more.weight": edge}, [], "Unexpected key"),
        ({**state, "A": edge}, [], "A has edges that the layout has not"),
        ({**state, "fc.weight": state["fc.weight"][:, :-1]}, [], "size mismatch"),
        (
            {**joint, **motion, "encoder_q.fc.weight": state["fc.weight"], "encoder_q.fc.bias": state["fc.bias"]},
            [],
            "a classifier of joint, and none of motion",
        ),
        (state, ["--classes", names], "classes: expected 10 lines"),
        (bare, ["--classes", names], "no classifier that they could be of"),
        (state, ["--layout", "sbu15"], "size mismatch"),
        (state, ["--frames", "0"], "frames: expected a positive integer"),
        ({}, [], "does not fit"),
    ):
        file = write(tmp_path / "x.pt", weights)
        assert message in refused(capsys, "import", file, out, *words)
        assert not out.exists()
    own = demo / "runs/demo/pretrain/encoders.safetensors"
    assert "is of this project already" in refused(capsys, "import", own, out)
    assert "there is no file" in refused(capsys, "import", tmp_path / "nothing.pt", out)
    out.mkdir()
    (out / "classifier.safetensors").write_text("mine")
    assert "overwrite replaces it" in refused(capsys, "import", write(tmp_path / "x.pt", state), out)
    assert (out / "classifier.safetensors").read_text() == "mine"

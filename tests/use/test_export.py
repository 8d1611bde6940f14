"""Export: graphs from joints to probabilities, with and without our operations, that compute what PyTorch computes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from ikem.checkpoint import DESCRIPTION
from ikem.cli import main
from ikem.config import EncoderConfig
from ikem.data.bodies import BodySelection
from ikem.data.preprocess import Preprocessing
from ikem.data.recipe import Recipe
from ikem.encoders import build_encoder
from ikem.use import export as room
from ikem.use.classifier import ActionClassifier, Classifier, Fusion, load_classifier, save_classifier
from ikem.use.export import ONNX_PACKAGES, TOLERANCE, export, export_program, random_clips
from ikem_ext import MODALITIES, SkeletonLayout, derive_modalities, get_layout
from ikem_ext.reference import plain_operations

needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ONNX_PACKAGES), reason="pip install 'ikem-ext[export]' brings ONNX Runtime"
)
CLASSES = ["wave", "sit down", "drink"]


def tiny(
    modalities: tuple[str, ...] = ("joint",),
    architecture: str = "st_gcn",
    layout: str | SkeletonLayout = "sbu15",
    frames: int = 8,
    bodies: int = 1,
    fusion: Fusion | None = None,
    pooling: str = "mean",
) -> ActionClassifier:
    """With heads so large that probabilities depend on the clip, and batch norms as if it had been trained."""
    layout = get_layout(layout)
    config = EncoderConfig(
        architecture=architecture,
        base_width=4 if architecture == "st_gcn" else 8,
        feature_width=16,
        dropout=0.2,
        initialization="kaiming",
        pooling=pooling,
    )
    torch.manual_seed(0)
    streams = {name: Classifier(build_encoder(config, layout), len(CLASSES)) for name in modalities}
    steps = Preprocessing(frames, bodies, center="frame", align="none", lost_frames="interpolate")
    classifier = ActionClassifier(streams, config, CLASSES, Recipe(layout, steps, BodySelection(bodies)), fusion)
    norms = [module for module in classifier.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 0.5
        for _ in range(4):
            classifier.train()(*random_clips(classifier, 8, frames))
        features = classifier.eval().embed(*random_clips(classifier, 8, frames)).mean(0)
        for stream, mean in zip(streams.values(), features, strict=True):
            torch.nn.init.normal_(stream.head.weight, 0, 9)
            stream.head.bias.copy_(-stream.head.weight @ mean)
    return classifier


TWO = ("joint", "angular_velocity")  # all six would be the same three times


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A classifier of two modalities, as a file."""
    path = tmp_path / "run" / "classifier.safetensors"
    save_classifier(path, tiny(TWO, bodies=2))
    return path


def expected(checkpoint: Path, clips: tuple[Tensor, Tensor]) -> Tensor:
    with torch.no_grad():
        return load_classifier(checkpoint)(*clips)


def short(architecture: str) -> ActionClassifier:
    """With a block of each kind alone, the first without a residual: exporting takes seconds for each."""
    classifier = tiny(architecture=architecture, frames=20)
    if architecture != "hcn":
        (encoder,) = (stream.encoder for stream in classifier.streams.values())
        encoder.blocks = torch.nn.Sequential(*(encoder.blocks[number] for number in (0, 1, 4)))
    return classifier


def operations(program: torch.export.ExportedProgram) -> set[str]:
    return {str(node.target) for node in program.graph.nodes if "ikem_ext" in str(node.target)}


def test_random_clips_are_told_apart() -> None:
    """Or a comparison on them would say nothing."""
    classifier = tiny(TWO, bodies=2)
    with torch.no_grad():
        probabilities = classifier(*random_clips(classifier, 5, 8))
    assert (probabilities.max(0).values - probabilities.min(0).values > 0.05).all()


def test_pt2_has_our_operations(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", str(checkpoint.parent), "--to", "pt2"])
    file = checkpoint.with_suffix(".pt2")
    assert "3 classes by joint, angular_velocity; clips are (3, 8, 15, 2) of sbu15" in capsys.readouterr().out
    more = {DESCRIPTION: ""}
    program = torch.export.load(file, extra_files=more)
    names = ("batch_norm", "derive_modalities", "graph_conv", "temporal_conv", "temporal_conv_normed")
    assert operations(program) == {f"ikem_ext.{name}.default" for name in names}
    said = json.loads(more[DESCRIPTION])
    assert said["classes"] == CLASSES and said["modalities"] == list(TWO)
    assert Recipe.from_dict(said["recipe"]) == load_classifier(checkpoint).recipe
    clips = random_clips(load_classifier(checkpoint), 4, 11)
    torch.testing.assert_close(program.module()(*clips), expected(checkpoint, clips))
    assert str(room.__file__) not in file.read_bytes().decode("latin1")  # where the sources lie is nobody's business


def test_plain_pt2_runs_without_this_package(tmp_path: Path) -> None:
    checkpoint = tmp_path / "classifier.safetensors"
    save_classifier(checkpoint, tiny(bodies=2))
    export(checkpoint, to="pt2", plain=True)
    clips = random_clips(load_classifier(checkpoint), 3, 8)
    torch.save(clips, tmp_path / "clips.pt")
    program = f"""
import sys
sys.modules["ikem_ext"] = sys.modules["ikem"] = None  # which makes an import of them fail
import torch
program = torch.export.load({str(checkpoint.with_name("classifier-plain.pt2"))!r})
torch.save(program.module()(*torch.load({str(tmp_path / "clips.pt")!r})), {str(tmp_path / "found.pt")!r})
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    torch.testing.assert_close(torch.load(tmp_path / "found.pt"), expected(checkpoint, clips), rtol=0, atol=1e-5)


@needs_onnx
def test_onnx_computes_the_same(checkpoint: Path) -> None:
    import onnxruntime

    export(checkpoint, to="onnx")
    session = onnxruntime.InferenceSession(checkpoint.with_suffix(".onnx"))
    assert [(each.name, each.shape, each.type) for each in (*session.get_inputs(), *session.get_outputs())] == [
        ("joints", ["batch", 3, "frames", 15, 2], "tensor(float)"),
        ("num_frames", ["batch"], "tensor(int64)"),
        ("probabilities", ["batch", 3], "tensor(float)"),
    ]
    said = json.loads(session.get_modelmeta().custom_metadata_map[DESCRIPTION])
    assert said["classes"] == CLASSES and said["recipe"]["layout"]["name"] == "sbu15"
    for size in ((1, 8), (2, 8), (7, 8), (2, 13), (3, 40)):
        clips = random_clips(load_classifier(checkpoint), *size)
        (found,) = session.run(None, {"joints": clips[0].numpy(), "num_frames": clips[1].numpy()})
        np.testing.assert_allclose(found, expected(checkpoint, clips), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("architecture", ["agcn", "ctrgcn", "hcn"])
def test_other_architectures(architecture: str) -> None:
    classifier = short(architecture)
    program = export_program(classifier)
    convolution = {"agcn": {"graph_conv"}, "ctrgcn": {"refined_graph_conv"}, "hcn": set()}[architecture]
    found = {name.split(".")[1] for name in operations(program)}
    assert found & {"graph_conv", "refined_graph_conv"} == convolution
    assert room.largest_difference(classifier, program.module()) <= 1e-5


@needs_onnx
@pytest.mark.parametrize("architecture", ["agcn", "ctrgcn", "hcn"])
def test_other_architectures_as_onnx(architecture: str, tmp_path: Path) -> None:
    classifier, file = short(architecture), tmp_path / "it.onnx"
    room.FORMATS["onnx"].write(file, classifier, True)
    assert room.largest_difference(classifier, room.FORMATS["onnx"].read(file)) <= TOLERANCE


@needs_onnx
def test_all_modalities_as_onnx(tmp_path: Path) -> None:
    """Clips with an absent body and one that rests, whose angles and axes are those of vectors of length zero."""
    import onnxruntime

    class Derive(torch.nn.Module):
        def forward(self, joints: Tensor, num_frames: Tensor) -> Tensor:
            return derive_modalities(joints, num_frames, "ntu25")

    joints, num_frames = torch.randn(3, 3, 9, 25, 2), torch.tensor([9, 40, 11])
    joints[0, ..., 1] = 0
    joints[1] = joints[1, :, :1]
    with plain_operations():
        exported = torch.export.export(Derive(), (joints, num_frames))
    torch.onnx.export(exported, input_names=("joints", "num_frames"), verbose=False).save(tmp_path / "it.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "it.onnx")
    (found,) = session.run(None, {"joints": joints.numpy(), "num_frames": num_frames.numpy()})
    expected = Derive()(joints, num_frames)
    assert len(expected) == len(MODALITIES)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("frames", [3, 30])
def test_frames(frames: int) -> None:
    """Also half as many as joints, where sizes are the same by chance, and too few to be halved twice."""
    classifier = tiny(frames=frames)
    assert room.largest_difference(classifier, export_program(classifier).module()) <= 1e-5


def test_fusion_pooling_and_confidences() -> None:
    layout = replace(get_layout("coco17"), third="confidence")
    classifier = tiny(("joint",), layout=layout, fusion=Fusion("pool", (0.7,), doubt=0.1), pooling="parts")
    for plain in (False, True):
        assert room.largest_difference(classifier, export_program(classifier, plain=plain).module()) <= 1e-5


def test_safetensors_is_the_classifier_elsewhere(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "elsewhere" / "it.safetensors"
    export(checkpoint, to="safetensors", output=file)
    assert file.read_bytes() == checkpoint.read_bytes()


@pytest.mark.parametrize("to", ["pt2", pytest.param("onnx", marks=needs_onnx)])
def test_a_second_export_is_the_same_bytes(to: str, tmp_path: Path) -> None:
    save_classifier(tmp_path / "classifier.safetensors", tiny(architecture="hcn", frames=20))
    files = [tmp_path / name / f"it.{to}" for name in "ab"]
    for file in files:
        export(tmp_path, to=to, output=file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_computes_something_else_is_not_kept(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tiny(("bone",), bodies=2)
    format_ = room.FORMATS["safetensors"]
    monkeypatch.setitem(
        room.FORMATS,
        "safetensors",
        room.Format(format_.suffix, lambda file, *_: save_classifier(file, broken), format_.read),
    )
    output = checkpoint.with_name("other.safetensors")
    with pytest.raises(
        ValueError, match=r"differ from PyTorch's by up to \d.\de[+-]0\d, expected at most 1e-04; nothing"
    ):
        export(checkpoint, to="safetensors", output=output)
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_numbers_that_are_none_are_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "largest_difference", lambda *_: float("nan"))
    with pytest.raises(ValueError, match="by up to nan"):
        export(checkpoint, to="safetensors", output=checkpoint.with_name("other.safetensors"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "torchscript"], "TorchScript is not written, as PyTorch has given it up; pt2 or onnx take its place"),
        (["--to", "tflite"], "to: expected one of pt2, onnx, safetensors, got 'tflite'"),
        (["--to", "safetensors"], "output: expected another file than the classifier itself"),
        (["--to", "safetensors", "--plain"], "plain: safetensors holds weights and no operations"),
        (["--to", "pt2", "--output", "it.onnx"], "output: expected the name of a .pt2 file, got it.onnx"),
    ],
)
def test_bad_arguments(checkpoint: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["export", str(checkpoint), *options], message, capsys)
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def refused(command: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("ikem export: error: ") and said.count("\n") == 1
    assert message in said


def test_nothing_is_overwritten_unasked(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = checkpoint.with_name("other.safetensors")
    output.write_text("mine")
    command = ["export", str(checkpoint), "--to", "safetensors", "--output", str(output)]
    refused(command, "exists already", capsys)
    assert output.read_text() == "mine"
    main([*command, "--overwrite"])
    assert output.read_bytes() == checkpoint.read_bytes()


def test_a_checkpoint_without_a_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["export", str(tmp_path), "--to", "pt2"], "`ikem evaluate` or `ikem finetune` writes it", capsys)


def test_missing_packages_are_named(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(room, "find_spec", lambda name: None if name == "onnxscript" else SimpleNamespace())
    refused(
        ["export", str(checkpoint), "--to", "onnx"], "onnx needs onnxscript; pip install 'ikem-ext[export]'", capsys
    )


@pytest.mark.parametrize("modality", MODALITIES)
def test_plain_operations_run_the_twins(modality: str) -> None:
    clips, lengths = torch.randn(3, 3, 9, 25, 2), torch.tensor([9, 40, 11])
    run: Callable[[], Tensor] = lambda: derive_modalities(clips, lengths, "ntu25", modalities=[modality])  # noqa: E731
    with plain_operations(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        found = run()
    assert not any("ikem_ext" in event.name for event in profile.events())
    torch.testing.assert_close(found, run())

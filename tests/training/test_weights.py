"""Encoders from a file alone: what is read, that it is what it was, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ikem.config import Config, EncoderConfig
from ikem.distill import load_student
from ikem.encoders import Encoder, encoders_of
from ikem.pretrain import Pretraining
from ikem.weights import read_weights
from ikem_ext import MODALITIES, get_layout

SMALL = EncoderConfig(base_width=4, feature_width=24)


@pytest.fixture
def published(golden: Callable[[str], dict[str, np.ndarray]]) -> dict[str, Tensor]:
    """The parameters of one published encoder, by their published names."""
    arrays = golden("st_gcn_encoder")
    return {n.removeprefix("param/"): torch.from_numpy(v).float() for n, v in arrays.items() if n.startswith("param/")}


def write(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, path)
    return path


def whole(published: dict[str, Tensor], *owners: str, prefix: str = "") -> dict[str, Tensor]:
    """What a training releases: encoders under their names, the first one as it is, and queues."""
    state = {
        f"{prefix}{owner}.{name}": value + place if value.is_floating_point() and name != "A" else value
        for place, owner in enumerate(owners)
        for name, value in published.items()
    }
    return {**state, f"{prefix}queue": torch.zeros(24, 8), f"{prefix}queue_ptr": torch.zeros(1)}


def same(encoder: Encoder, other: Encoder) -> bool:
    state, expected = encoder.state_dict(), other.state_dict()
    return state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in state)


def test_checkpoints_and_exports_of_this_project(finished_run: Config) -> None:
    layout, run = get_layout("ntu25"), finished_run.run  # the layout is that of published files, no matter here
    trained = encoders_of(Pretraining.from_checkpoint(run / "pretrain" / "last.ckpt").query)
    student = encoders_of(load_student(run / "distill" / "last.ckpt"))
    for name, stage, expected in (
        ("pretrain/last.ckpt", "stage2", trained),
        ("pretrain/encoders.safetensors", "exported", trained),
        ("distill/last.ckpt", "student", student),
        ("distill/encoders.safetensors", "exported", student),
    ):
        weights = read_weights(run / name, layout)
        assert weights.stage == stage
        assert weights.layout == get_layout("sbu15")
        assert list(weights.encoders) == list(expected)
        assert all(same(weights.encoders[modality], expected[modality]) for modality in expected)
        assert not any(encoder.training for encoder in weights.encoders.values())
    assert read_weights(run / "pretrain/stage1.ckpt", layout).stage == "stage1"


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_published_files(
    tmp_path: Path, published: dict[str, Tensor], golden: Callable[[str], dict[str, np.ndarray]], prefix: str
) -> None:
    arrays = golden("st_gcn_encoder")
    layout, owners = get_layout("ntu25"), ("encoder_q", "encoder_q_motion", "encoder_q_omega", "encoder_k", "mlp2j")
    path = write(tmp_path / "published.pt", whole(published, *owners, prefix=prefix))
    weights = read_weights(path, layout, SMALL)
    assert list(weights.encoders) == ["joint", "motion", "angular_velocity"]
    features = weights.encoders["joint"](torch.from_numpy(arrays["input"]).float())
    torch.testing.assert_close(features, torch.from_numpy(arrays["pooled"]).float(), rtol=1e-4, atol=1e-5)
    assert not same(weights.encoders["joint"], weights.encoders["motion"])


def test_published_encoders_that_stand_alone(tmp_path: Path, published: dict[str, Tensor]) -> None:
    layout = get_layout("ntu25")
    expected = read_weights(write(tmp_path / "whole.pt", whole(published, "encoder_q")), layout, SMALL)
    bare = write(tmp_path / "bare.pt", {f"module.{name}": value for name, value in published.items()})
    in_dictionary = write(tmp_path / "dictionary.pt", {"epoch": 3, "state_dict": published})  # type: ignore[dict-item]
    save_file(published, tmp_path / "bare.safetensors")
    for path in (bare, in_dictionary, tmp_path / "bare.safetensors"):
        weights = read_weights(path, layout, SMALL, modality="bone")
        assert weights.stage == "published"
        assert list(weights.encoders) == ["bone"]
        assert same(weights.encoders["bone"], expected.encoders["joint"])
    assert list(read_weights(tmp_path / "whole.pt", layout, SMALL, modality="motion").encoders) == ["motion"]


def test_the_published_student_goes_before_its_teacher(tmp_path: Path, published: dict[str, Tensor]) -> None:
    owners = ("encoder_q", "encoder_q_motion", "encoder_student_j", "encoder_student_m", "encoder_student_b")
    path = write(tmp_path / "student.pt", whole(published, *owners))
    weights = read_weights(path, get_layout("ntu25"), SMALL)
    assert list(weights.encoders) == ["joint", "motion", "bone"]
    place = owners.index("encoder_student_j")
    torch.testing.assert_close(weights.encoders["joint"].data_norm.weight, published["data_bn.weight"] + place)


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path, published: dict[str, Tensor]) -> None:
    layout, name = get_layout("ntu25"), "st_gcn_networks.3.tcn.2.weight"
    state = whole(published, "encoder_q")
    lacking = {key: value for key, value in state.items() if key != f"encoder_q.{name}"}
    narrow = {**state, "encoder_q.st_gcn_networks.3.gcn.conv.weight": torch.zeros(12, 5, 1, 1)}
    deeper = {**state, "encoder_q.st_gcn_networks.10.gcn.conv.weight": torch.zeros(12, 4, 1, 1)}
    other_graph = {**state, "encoder_q.A": torch.zeros(3, 20, 20)}
    for wrong, message in (
        (lacking, r"Missing key.*blocks\.3\.temporal\.weight"),
        ({**state, "encoder_q.unheard_of": torch.zeros(1)}, r"Unexpected key.*unheard_of"),
        ({**state, "classifier.weight": torch.zeros(1)}, r"unexpected: classifier"),
        (narrow, r"size mismatch for blocks\.3\.graph\.weight"),
        (deeper, r"Unexpected key.*blocks\.10\.gcn\.conv\.weight|blocks\.10"),
        (other_graph, r"size mismatch for A"),
        ({"weight": torch.zeros(1)}, r"Missing key"),
    ):
        with pytest.raises(ValueError, match=rf"(?s)checkpoint: .*wrong\.pt does not fit.*{message}"):
            read_weights(write(tmp_path / "wrong.pt", wrong), layout, SMALL)
    with pytest.raises(ValueError, match=r"(?s)does not fit.*size mismatch"):  # of another width
        read_weights(write(tmp_path / "wrong.pt", state), layout)
    with pytest.raises(ValueError, match=r"(?s)does not fit.*size mismatch"):  # of another skeleton
        read_weights(write(tmp_path / "wrong.pt", state), get_layout("sbu15"), SMALL)
    with pytest.raises(ValueError, match=r"encoder\.architecture: expected st_gcn"):
        read_weights(tmp_path / "wrong.pt", layout, EncoderConfig("agcn"))


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return exec, ("raise AssertionError('code was run')",)


def test_other_files_are_refused_and_run_no_code(tmp_path: Path, finished_run: Config) -> None:
    layout = get_layout("ntu25")
    with pytest.raises(ValueError, match="there is no file"):
        read_weights(tmp_path / "nothing.pt", layout)
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    for content in (Code(), {"state_dict": Code()}, [1], {"epoch": 3}):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(ValueError, match=r"checkpoint: .*other\.pt"):
            read_weights(tmp_path / "other.pt", layout)
    for name in ("text.pt", "text.safetensors"):
        with pytest.raises(ValueError, match=f"checkpoint: .*{name} is not a"):
            read_weights(tmp_path / name, layout)
    checkpoint = torch.load(finished_run.run / "pretrain" / "last.ckpt", weights_only=True)
    del checkpoint["state_dict"]["query.motion.encoder.data_norm.weight"]
    torch.save(checkpoint, tmp_path / "damaged.ckpt")
    with pytest.raises(ValueError, match=r"(?s)damaged\.ckpt does not fit.*data_norm\.weight"):
        read_weights(tmp_path / "damaged.ckpt", layout)


def test_numbers_that_are_not_finite_are_refused(
    tmp_path: Path, finished_run: Config, published: dict[str, Tensor]
) -> None:
    checkpoint = torch.load(finished_run.run / "pretrain" / "last.ckpt", weights_only=True)
    checkpoint["state_dict"]["query.motion.encoder.data_norm.weight"][0] = torch.inf
    torch.save(checkpoint, tmp_path / "spoiled.ckpt")
    published["data_bn.weight"][0] = torch.nan
    write(tmp_path / "spoiled.pt", whole(published, "encoder_q"))
    for name, weight in (("spoiled.ckpt", "query.motion.encoder.data_norm"), ("spoiled.pt", "encoder_q.data_bn")):
        with pytest.raises(ValueError, match=rf"{name} is of no use: {weight}.weight holds numbers that are not"):
            read_weights(tmp_path / name, get_layout("ntu25"), SMALL)


def test_modalities_have_a_published_name() -> None:
    from ikem.weights import PUBLISHED_ENCODERS

    assert set(PUBLISHED_ENCODERS.values()) == set(MODALITIES)

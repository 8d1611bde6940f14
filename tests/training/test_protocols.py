"""Protocols on frozen encoders: presets of the probe, augmentation, early prediction, transfer."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from rich.console import Console

from ikem.cli import main
from ikem.config import PROBES, Config, EvaluateConfig
from ikem.data.dataset import Clip, PreparedDataset, write_dataset
from ikem.evaluate import evaluate
from ikem.evaluation.evaluation import Evaluation
from ikem.evaluation.features import extract_features
from ikem.evaluation.linear import linear_probe
from ikem.evaluation.logistic import coordinates, regression, require_few
from ikem.evaluation.looks import RandomLook, beginning, middle
from ikem.evaluation.scores import by_stream
from ikem.evaluation.stages import stages_of_run
from ikem.evaluation.streams import Streams
from ikem.evaluation.table import results_tables
from ikem.evaluation.workers import side_by_side
from ikem.seeding import generator
from ikem.weights import read_weights
from ikem_ext import MODALITIES, SkeletonLayout, derive_modalities, get_layout

MAMP = EvaluateConfig(preset="mamp", epochs=2, batch_size=8)
FABRIC = Fabric(accelerator="cpu", devices=1)


def test_presets_are_the_published_probes() -> None:
    """SGD with momentum 0.9; what the released scripts and configurations of each project say."""
    crosclr, cmd, mamp = (EvaluateConfig(preset=name).probe for name in ("crosclr", "cmd", "mamp"))  # type: ignore[arg-type]
    assert (crosclr.learning_rate, crosclr.batch_size, crosclr.epochs, crosclr.milestones) == (3.0, 128, 100, (80,))
    assert (cmd.learning_rate, cmd.batch_size, cmd.epochs, cmd.milestones) == (0.1, 64, 80, (50, 70))
    assert (mamp.learning_rate, mamp.batch_size, mamp.epochs, mamp.schedule) == (0.1, 256, 100, "cosine")
    assert (crosclr.augments, cmd.augments, mamp.augments) == (False, True, True)
    assert EvaluateConfig().probe == crosclr
    assert EvaluateConfig(preset="mamp", least_window=1.0, rotate_degrees=0.0).probe.augments is False
    assert EvaluateConfig(preset="cmd", milestones=()).probe == replace(cmd, milestones=())
    rates = [mamp.learning_rate_at(epoch) for epoch in (0, 50, 99.99)]
    assert rates == pytest.approx([0.1, 0.05, 0], abs=1e-5)
    for wrong, name in (
        ({"preset": "moco"}, "preset"),
        ({"epochs": 0}, "epochs"),
        ({"least_window": 0.0}, "least_window"),
        ({"neighbors": (1, 1)}, "neighbors"),
        ({"early": (0.0,)}, "early"),
        ({"fusion": ("best",)}, "fusion"),
        ({"parts_dtype": "int8"}, "parts_dtype"),
    ):
        with pytest.raises(ValueError, match=rf"evaluate\.{name}: expected"):
            EvaluateConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("preset", ["crosclr", "mamp"])
def test_not_a_bit_of_the_encoders_changes(finished_run: Config, dataset: PreparedDataset, preset: str) -> None:
    options = EvaluateConfig(preset=preset, epochs=2, batch_size=8, segments=2, early=(0.5,), fusion=("learned",))  # type: ignore[arg-type]
    config = replace(finished_run, evaluate=options)
    stage = stages_of_run(config, dataset)[-1]
    for encoder in stage.encoders.values():
        encoder.train()  # what they are handed over as is no matter, and stays
    before = {
        (modality, name): value.clone()
        for modality, encoder in stage.encoders.items()
        for name, value in encoder.state_dict().items()
    }
    Evaluation(config, dataset).add_encoders(stage)
    for modality, encoder in stage.encoders.items():
        assert all(module.training for module in encoder.modules())
        assert all(torch.equal(value, before[modality, name]) for name, value in encoder.state_dict().items())
        assert all(parameter.grad is None for parameter in encoder.parameters())


def test_the_probe_learns_from_what_each_epoch_shows() -> None:
    seen = []

    def train(epoch: int) -> torch.Tensor:
        seen.append(epoch)
        return torch.randn(1, 12, 5, generator=torch.Generator().manual_seed(epoch))

    labels, streams = torch.arange(12) % 2, Streams.of(("joint",))
    options = replace(PROBES["mamp"], epochs=3, batch_size=11)  # the last batch is one clip, which has no deviation
    result = linear_probe(train, labels, torch.randn(1, 4, 5), labels[:4], {}, streams, 2, options, seed=1)
    assert seen == [0, 1, 2]
    assert result.heads.norm is not None
    assert result.heads.norm.num_batches_tracked == 3
    features = torch.randn(1, 7, 5)
    together = result.heads.predict(features)
    torch.testing.assert_close(together[:, 2:3], result.heads.predict(features[:, 2:3]))


def test_random_looks() -> None:
    options, lengths = PROBES["mamp"], torch.tensor([40, 64, 128, 1000] * 500)
    view = RandomLook(options, torch.Generator().manual_seed(0))(lengths)
    assert view.window is not None
    start, share = view.window.T
    assert (start >= 0).all()
    assert (start + share <= 1 + 1e-6).all()
    for length, least in ((40, 1.0), (64, 1.0), (128, 0.5), (1000, 0.5)):
        assert share[lengths == length].min() == pytest.approx(least, abs=0.01)
    assert (share[lengths == 128] < 1).all()
    identity = view.shear @ view.shear.mT
    torch.testing.assert_close(identity, torch.eye(3).expand_as(identity), atol=1e-5, rtol=0)
    assert 10 < torch.rad2deg(torch.arccos((view.shear.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2)).mean() < 25
    still = RandomLook(replace(options, rotate_degrees=0.0), torch.Generator())(lengths)
    torch.testing.assert_close(still.shear, torch.eye(3).expand_as(still.shear))
    assert middle(lengths[:1]).window is not None
    torch.testing.assert_close(middle(lengths[:1]).window, torch.tensor([[0.025, 0.95]]))


def test_beginnings_are_stretched_and_their_lengths_shortened(finished_run: Config, dataset: PreparedDataset) -> None:
    encoders = dict(read_weights(finished_run.run / "pretrain" / "last.ckpt", dataset.layout).encoders)
    clips = np.array([3, 30, 7])
    found = extract_features(encoders, dataset, clips, fabric=FABRIC, look=partial(beginning, 0.5)).means
    joints, frames = torch.from_numpy(dataset.joints[clips]), dataset.joints.shape[2]
    position = np.linspace(0, 0.5 * (frames - 1), frames)
    seen = np.stack([np.interp(position, range(frames), row) for row in joints.movedim(2, -1).reshape(-1, frames)])
    seen = torch.from_numpy(seen).float().reshape(*joints.movedim(2, -1).shape).movedim(-1, 2)
    lengths = torch.from_numpy((dataset.num_frames[clips] * 0.5).round().astype(np.int64))
    expected = [
        encoders[m](d) for m, d in zip(MODALITIES, derive_modalities(seen, lengths, dataset.layout), strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def by_checkpoint(finished_run: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that an evaluation of a file alone writes, with early prediction."""
    output = tmp_path_factory.mktemp("evaluations") / "of a file"
    config, options = finished_run, finished_run.evaluate
    main(
        [
            *("evaluate", "--checkpoint", str(config.run / "pretrain" / "last.ckpt"), "--output", str(output)),
            *("--data.folder", str(config.data.folder), "--data.protocol", "halves", "--trainer.progress", "false"),
            *("--evaluate.epochs", str(options.epochs), "--evaluate.learning_rate", str(options.learning_rate)),
            *("--evaluate.milestones", "[3]", "--evaluate.batch_size", "8", "--evaluate.early", "[0.2, 0.5, 1.0]"),
        ]
    )
    return output


def test_a_file_alone_gives_what_its_run_gives(finished_run: Config, by_checkpoint: Path) -> None:
    result = json.loads((by_checkpoint / "evaluation.json").read_text())
    of_run = json.loads((finished_run.run / "evaluation.json").read_text())
    rows = [row for row in result["rows"] if row["protocol"] != "early"]
    assert {row["stage"] for row in rows} == {"raw", "random", "stage2"}
    for stage in ("raw", "stage2"):
        expected = [row for row in of_run["rows"] if row["stage"] == stage]
        assert [row for row in rows if row["stage"] == stage] == expected
    assert result["checkpoints"] == {"stage2": {"file": str(finished_run.run / "pretrain" / "last.ckpt"), "epochs": 3}}
    assert sorted(path.name for path in by_checkpoint.iterdir()) == [
        "classifier.safetensors",
        "evaluation.json",
        "evaluation.npz",
    ]


def test_early_prediction_ends_at_the_linear_probe(by_checkpoint: Path) -> None:
    rows = json.loads((by_checkpoint / "evaluation.json").read_text())["rows"]
    early = {(r["stage"], r["stream"], r["part"], r["seen"]): r["top1"] for r in rows if r["protocol"] == "early"}
    linear = {(r["stage"], r["stream"], r["part"]): r["top1"] for r in rows if r["protocol"] == "linear"}
    assert len(early) == 3 * (len(linear) - 2)  # coordinates have none
    assert {seen for *_, seen in early} == {0.2, 0.5, 1.0}
    assert all(early[(*names, 1.0)] == top1 for names, top1 in linear.items() if names[0] != "raw")
    assert any(early[(*names, 0.2)] != top1 for names, top1 in linear.items() if names[0] != "raw")


def test_results_of_a_file_lie_beside_it(finished_run: Config, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes((finished_run.run / "distill" / "last.ckpt").read_bytes())
    result = evaluate(replace(finished_run, run=tmp_path / "none"), checkpoint=path)
    assert (tmp_path / "model-evaluation" / "evaluation.json").is_file()
    assert not (tmp_path / "none").exists()
    assert {row["stage"] for row in result["rows"]} == {"raw", "random", "student"}


def prepared(folder: Path, layout: str) -> Path:
    """Clips of five classes, other than those that the run was trained on."""
    joints = np.random.default_rng(0).normal(size=(20, 3, 12, get_layout(layout).num_joints, 2))
    write_dataset(
        folder,
        joints=joints,
        clips=[Clip(f"clip{i}", i % 5, i, None, None, None, 40) for i in range(20)],
        classes=list("abcde"),
        layout=get_layout(layout),
        source="npz",
        preprocessing={},
        protocols={"halves": {"train": list(range(10)), "test": list(range(10, 20))}},
    )
    return folder


@pytest.mark.parametrize("layout", ["sbu15", "ntu25"])
def test_transfer_to_other_classes_and_another_skeleton(finished_run: Config, tmp_path: Path, layout: str) -> None:
    config = replace(finished_run, data=replace(finished_run.data, folder=prepared(tmp_path / "data", layout)))
    checkpoint = finished_run.run / "distill" / "last.ckpt"
    result = evaluate(config, checkpoint=checkpoint, output=tmp_path / "of a file")
    row = next(row for row in result["rows"] if row["stage"] == "student" and row["protocol"] == "linear")
    assert len(row["per_class"]) == 5
    of_run = evaluate(config, output=tmp_path / "of the run")
    for names in (("student", "joint"), ("student", "fused2")):
        found, expected = (
            [row for row in rows if (row["stage"], row["stream"]) == names] for rows in (result["rows"], of_run["rows"])
        )
        assert found == expected


def test_joints_are_read_by_their_names(finished_run: Config, tmp_path: Path) -> None:
    """Clips of one skeleton, and the same clips with the joints of another, have the same features."""
    dataset = PreparedDataset(prepared(tmp_path / "data", "ntu25"))
    weights = read_weights(finished_run.run / "distill" / "last.ckpt", dataset.layout)
    mapping = SkeletonLayout.mapping("ntu25", "sbu15")
    names, theirs = weights.layout.joint_names, dataset.layout.joint_names
    hand = mapping.weights[names.index("left_hand")]
    assert hand[theirs.index("left_hand")] == 1
    clips = np.arange(20)
    found = extract_features(weights.encoders, dataset, clips, fabric=FABRIC, mapping=mapping, segments=2)
    joints, lengths = torch.from_numpy(mapping(dataset.joints)), torch.from_numpy(dataset.num_frames)
    derived = derive_modalities(joints, lengths, weights.layout, modalities=tuple(weights.encoders))
    for features, encoder, part in zip(found.means, weights.encoders.values(), derived, strict=True):
        torch.testing.assert_close(features, encoder(part), rtol=1e-3, atol=1e-4)
    assert found.parts.shape == (2, 20, 6 * 2 * 15)


def test_a_skeleton_without_the_joints_is_refused(finished_run: Config, tmp_path: Path) -> None:
    config = replace(finished_run, data=replace(finished_run.data, folder=prepared(tmp_path / "data", "hand21")))
    with pytest.raises(ValueError, match=r"layout 'sbu15' has joints that layout 'hand21' says nothing of: head, neck"):
        evaluate(config, checkpoint=finished_run.run / "distill" / "last.ckpt", output=tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_all_tables_fit_into_80_columns(finished_run: Config, by_checkpoint: Path) -> None:
    result = json.loads((by_checkpoint / "evaluation.json").read_text())
    shares = [round(0.1 * tenth, 1) for tenth in range(1, 11)]
    longest = {"stage": "published", "stream": "angular_velocity", "part": "test", "top1": 1.0, "top5": 1.0}
    result["rows"] += [{**longest, "protocol": "early", "seen": share} for share in shares]
    for stream in ("angular_velocity", "learned_fused6", "aimclr_fused3", "late_fused3", "late_fused6"):
        row = {**longest, "stream": stream}
        result["rows"] += [{**row, "protocol": "linear", "top1_best_epoch": 1.0}, {**row, "protocol": "logistic"}]
        result["rows"] += [
            {**row, "protocol": "retrieval", "neighbors": 1},
            {**row, "protocol": "knn", "neighbors": 20},
        ]
    result["dataset"] |= {"name": "northwestern-ucla", "protocol": "cross-view"}
    tables = results_tables(result)
    assert len(tables) == 2 * len({row["part"] for row in result["rows"]})
    printed = []
    for table in tables:
        console = Console(width=80)
        with console.capture() as captured:
            console.print(table)
        printed.append(captured.get())
        assert "…" not in printed[-1]
        assert max(map(len, printed[-1].splitlines())) <= 80
    words = set(printed[0].split())
    assert {row["stream"] for row in result["rows"]} <= words
    assert {"retrieval", "(1-NN)", "20-NN", "logistic", "published", "100"} <= words
    assert {"10", "90", "100"} <= set(printed[1].split())


def test_features_in_a_mapped_file(finished_run: Config, dataset: PreparedDataset, tmp_path: Path) -> None:
    encoders = dict(read_weights(finished_run.run / "pretrain" / "last.ckpt", dataset.layout).encoders)
    encoders = {"joint": encoders["joint"]}  # features of others are too large for float16 after so short a training
    clips = np.arange(20)
    expected = extract_features(encoders, dataset, clips, fabric=FABRIC, segments=2)
    mapped = extract_features(encoders, dataset, clips, fabric=FABRIC, segments=2, folder=tmp_path)
    half = extract_features(encoders, dataset, clips, fabric=FABRIC, segments=2, folder=tmp_path, dtype=torch.float16)
    if sys.platform == "linux":
        maps = Path("/proc/self/maps").read_text().splitlines()
        assert sum(str(tmp_path) in line for line in maps) == 2
    assert not list(tmp_path.iterdir())  # nothing that a killed process could leave behind
    assert torch.equal(mapped.parts, expected.parts)
    assert torch.equal(half.parts, expected.parts.half())
    z, z_half = (coordinates(parts[0, :12], parts[0, 12:]) for parts in (expected.parts, half.parts))
    np.testing.assert_allclose(z_half.train @ z_half.train.T, z.train @ z.train.T, atol=0.02)


@pytest.mark.parametrize("width", [6, 30])
def test_a_collapsed_encoder_gives_regression_nothing(width: int) -> None:
    """More features than clips are regressed by the clips' products."""
    z = coordinates(torch.full((12, width), 0.3), torch.rand(4, width))
    assert (z.train.shape, z.test.shape) == ((12, 1), (4, 1))
    assert not z.train.any()
    assert not z.test.any()
    labels = np.array([0] * 9 + [1] * 3)
    probabilities = regression(z.train, labels, z.test, num_classes=2, c=1.0)
    np.testing.assert_allclose(probabilities, [[0.75, 0.25]] * 4, atol=1e-3)


def test_logistic_regression_refuses_what_does_not_fit() -> None:
    require_few(10_000, 5_000, 25_600)
    with pytest.raises(ValueError, match=r"evaluate\.segments: expected 0 for 40091 training and 16487 test clips"):
        require_few(40_091, 16_487, 25_600)


def test_work_side_by_side_leaves_the_threads_as_they_were() -> None:
    threads = torch.get_num_threads()
    assert side_by_side(lambda item: torch.get_num_threads(), range(3), torch.device("cpu")) == [1, 1, 1]
    assert torch.get_num_threads() == threads
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda item: 1 // item, [1, 0], torch.device("cpu"))
    assert torch.get_num_threads() == threads


def test_draws_of_an_epoch_depend_on_the_seed_and_the_epoch() -> None:
    def draw(seed: int, epoch: int) -> torch.Tensor:
        return RandomLook(PROBES["mamp"], generator(seed, "probe views", epoch))(torch.tensor([200])).shear

    assert torch.equal(draw(1, 2), draw(1, 2))
    assert not torch.equal(draw(1, 2), draw(1, 3))
    assert not torch.equal(draw(1, 2), draw(2, 2))


def test_streams_side_by_side(by_checkpoint: Path) -> None:
    rows = json.loads((by_checkpoint / "evaluation.json").read_text())["rows"]
    together = by_stream(rows)
    assert not [row for row in together if "seen" in row]
    joint = next(row for row in together if (row["stage"], row["stream"]) == ("stage2", "joint"))
    assert joint["neighbors"] == {
        row["neighbors"]: row["top1"]
        for row in rows
        if row["protocol"] in ("retrieval", "knn")
        and (row["stage"], row["stream"], row["part"]) == ("stage2", "joint", "test")
    }

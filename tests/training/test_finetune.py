"""Finetuning: it learns, the seed decides everything, it can be resumed to the bit, and test labels have no part."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from training.test_runs import InterruptionError, assert_same, table

from ikem.checkpoint import load_encoders
from ikem.cli import main
from ikem.config import Config, EncoderConfig, EvaluateConfig, FinetuneConfig, LearningConfig, differences
from ikem.data.batches import Batch
from ikem.data.dataset import PreparedDataset, write_dataset
from ikem.data.views import View
from ikem.encoders import Encoder, build_encoder
from ikem.evaluation import features
from ikem.evaluation.draws import all_draws
from ikem.evaluation.scores import Spread
from ikem.evaluation.split import Split
from ikem.evaluation.table import percent
from ikem.finetune import Finetuning, command, epochs, finetune, finetunings, initial_weights, labelled_clips
from ikem.pretrain import pretrain
from ikem.training import learning_rate_factor
from ikem.use.classifier import CLASSIFIER, Classifier, load_classifier
from ikem.weights import read_weights
from ikem_ext import derive_modalities, get_layout


def options(**others: Any) -> FinetuneConfig:
    """Two epochs of two steps on two modalities, from random weights."""
    rates = {"encoder_learning_rate": 0.02, "head_learning_rate": 0.1}
    return FinetuneConfig(**{"epochs": 2, "init": "random", "modalities": ("joint", "bone"), **rates, **others})


def relabelled(folder: Path, dataset: PreparedDataset, labels: dict[int, int | None]) -> Path:
    """Write a copy of a dataset in which some clips have other labels."""
    write_dataset(
        folder,
        joints=np.array(dataset.joints),
        clips=[replace(clip, label=labels.get(i, clip.label)) for i, clip in enumerate(dataset.clips)],
        classes=dataset.classes,
        layout=dataset.layout,
        source="npz",
        preprocessing=dataset.preprocessing,
        protocols={name: {part: list(map(int, c)) for part, c in p.items()} for name, p in dataset.protocols.items()},
    )
    return folder


def weights_of(run: Config) -> dict[str, Tensor]:
    return dict(load_classifier(run.run / "finetune" / run.finetune.name / CLASSIFIER).state_dict())


def test_it_learns_what_can_be_learned(config: Callable[..., Config]) -> None:
    learning = options(epochs=25, milestones=(20,), encoder_learning_rate=0.05)
    result = finetune(config(finetune=learning))
    top1 = {row["stream"]: row["top1"] for row in result["rows"] if row["part"] == "test"}
    assert list(top1) == ["joint", "bone", "fused2"]
    assert top1["fused2"] >= 0.9


def test_rows_and_files(config: Callable[..., Config], dataset: PreparedDataset) -> None:
    run = config(finetune=options(epochs=20, milestones=(16,), encoder_learning_rate=0.05, labels=0.8, draw=3))
    result = finetune(run)
    folder = run.run / "finetune" / "random-0.8-3"
    assert json.loads((folder / "evaluation.json").read_text())["rows"] == result["rows"]
    assert [(row["stream"], row["part"]) for row in result["rows"]] == [
        (stream, part) for stream in ("joint", "bone", "fused2") for part in ("test", "test_marked")
    ]
    said = {"protocol": "finetune", "stage": "random", "control": "supervised", "seed": 1, "draw": 3, "labels": 0.8}
    said["labelled_clips"] = 17  # of 7, 7 and 6
    logged = table(run.run, "finetune/random-0.8-3")
    for row in result["rows"]:
        assert {name: row[name] for name in said} == said
        accuracies = [float(line[f"{row['part']}_accuracy/{row['stream']}"]) for line in logged]
        assert (row["top1"], row["top1_best_epoch"]) == (accuracies[-1], max(accuracies))
    # What is stored gives these numbers.
    classifier = load_classifier(folder)
    assert classifier.classes == dataset.classes
    test = dataset.split("halves", "test")
    joints, num_frames = torch.from_numpy(dataset.joints[test]), torch.from_numpy(dataset.num_frames[test])
    with torch.inference_mode():
        x = derive_modalities(joints, num_frames, dataset.layout, modalities=("joint", "bone"))
        single = [stream(each) for stream, each in zip(classifier.streams.values(), x, strict=True)]
        chosen = torch.stack([*single, classifier(joints, num_frames)]).argmax(-1)
    found = (chosen == torch.from_numpy(dataset.labels[test])).double().mean(-1).tolist()
    assert found == [row["top1"] for row in result["rows"] if row["part"] == "test"]
    for modality, encoder in load_encoders(folder / "encoders.safetensors").items():
        assert_same(encoder.state_dict(), classifier.streams[modality].encoder.state_dict())
    assert read_weights(folder / "last.ckpt", dataset.layout).stage == "finetuned"


def test_the_seed_decides_everything(config: Callable[..., Config]) -> None:
    runs = [config(name, finetune=options(), seed=seed) for name, seed in (("first", 1), ("second", 1), ("other", 2))]
    runs[1] = replace(runs[1], trainer=replace(runs[1].trainer, resident=True))  # labels come with the clips there too
    results = [finetune(run) for run in runs]
    assert results[0]["rows"] == results[1]["rows"]
    folders = [run.run / "finetune" for run in runs]
    assert table(folders[0], "random") == table(folders[1], "random") != table(folders[2], "random")
    assert_same(weights_of(runs[0]), weights_of(runs[1]))


@pytest.mark.parametrize("step", [1, 3])
def test_interrupted_and_resumed(config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Within the first epoch and within the second, whose predecessor was tested before."""
    whole, broken = (config(name, finetune=options()) for name in ("whole", "broken"))
    broken = replace(broken, trainer=replace(broken.trainer, checkpoint_minutes=0))
    expected = finetune(whole)
    training_step = Finetuning.training_step

    def interrupted(self: Finetuning, batch: Batch, batch_idx: int) -> Any:
        if self.global_step == step:
            raise InterruptionError
        return training_step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Finetuning, "training_step", interrupted)
        with pytest.raises(InterruptionError):
            finetune(broken)
    assert not (broken.run / "finetune" / "random" / "evaluation.json").exists()
    assert finetune(broken)["rows"] == expected["rows"]
    assert_same(weights_of(whole), weights_of(broken))
    assert table(whole.run, "finetune/random") == table(broken.run, "finetune/random")
    assert finetune(broken)["rows"] == expected["rows"]  # a finished one says again what it said


def test_pretrained_weights_are_where_it_begins(config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    run = config(finetune=options(init="pretrained"))
    with pytest.raises(ValueError, match="there is no file"):
        finetune(run)
    pretrain(run)
    begun: dict[str, dict[str, Tensor]] = {}
    heads = []

    def noted(self: Finetuning) -> None:
        if not begun:
            begun.update({m: {n: v.clone() for n, v in e.state_dict().items()} for m, e in self.encoders.items()})
        heads.append(self.streams["bone"].head.weight.clone())

    monkeypatch.setattr(Finetuning, "on_fit_start", noted, raising=False)
    result = finetune(run)
    exported = load_encoders(run.run / "pretrain" / "encoders.safetensors")
    for modality, state in begun.items():
        assert_same(state, dict(exported[modality].state_dict()))
    assert {(row["stage"], row["control"], row["draw"]) for row in result["rows"]} == {("stage2", None, None)}
    assert result["checkpoints"] == {"stage2": {"file": str(run.run / "pretrain" / "last.ckpt"), "epochs": 3}}
    # The same heads from random weights, in a folder of its own; both stay.
    finetune(replace(run, finetune=options()))
    assert_same(*heads)
    assert sorted(each.name for each in (run.run / "finetune").iterdir()) == ["pretrained", "random"]
    with pytest.raises(ValueError, match=r"finetune\.encoder_learning_rate: 0\.02 there, 0\.5 here"):
        finetune(replace(run, finetune=options(encoder_learning_rate=0.5)))
    with pytest.raises(ValueError, match=r"finetune\.modalities: .*has encoders of joint, motion, bone, not of rot"):
        finetune(replace(run, finetune=options(init="pretrained", modalities=("joint", "rotation_axis"), draw=1)))
    with pytest.raises(ValueError, match="was made from it as it is"):
        pretrain(replace(run, pretrain=replace(run.pretrain, epochs=4)))


def test_encoders_and_heads_have_learning_rates_of_their_own(config: Callable[..., Config]) -> None:
    slow = config("slow", finetune=options(encoder_learning_rate=1e-12, weight_decay=0.0))
    before = initial_weights(slow, PreparedDataset(slow.data.folder), None).encoders["joint"]
    finetune(slow)
    after = load_classifier(slow.run / "finetune" / "random").streams["joint"]
    for name, value in before.named_parameters():
        torch.testing.assert_close(after.encoder.get_parameter(name), value.detach(), rtol=0, atol=1e-9)
    assert after.head.bias.abs().max() > 1e-4


def test_modes(config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """Train mode in every step, after a test too and from weights that were loaded in eval mode; eval mode in tests."""
    run = config(finetune=options(init="pretrained"))
    pretrain(run)
    modes: list[tuple[str, bool]] = []
    forward, extract, encode = Classifier.forward, features.extract_features, Encoder.feature_map

    def noted(self: Classifier, x: Tensor) -> Tensor:
        modes.append(("step", all(each.training for each in self.modules())))
        return forward(self, x)

    def noted_extraction(*arguments: Any, **more: Any) -> Any:
        training = []

        def noted_encoding(self: Encoder, x: Tensor) -> Tensor:
            training.append(any(each.training for each in self.modules()))
            return encode(self, x)

        with monkeypatch.context() as within:
            within.setattr(Encoder, "feature_map", noted_encoding)
            found = extract(*arguments, **more)
        modes.append(("test", any(training)))
        return found

    monkeypatch.setattr(Classifier, "forward", noted)
    monkeypatch.setattr(features, "extract_features", noted_extraction)
    finetune(run)
    steps = [("step", True)] * 4  # two of two modalities
    assert modes == [*steps, ("test", False), *steps, ("test", False)]


def test_labels_of_test_clips_have_no_part(
    config: Callable[..., Config], dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = {clip: (int(dataset.labels[clip]) + 1) % 3 for clip in dataset.split("halves", "test").tolist()}
    other = relabelled(tmp_path / "relabelled", dataset, changed)

    def weights(name: str, folder: Path) -> dict[str, Tensor]:
        run = config(name, finetune=options())
        run = replace(run, data=replace(run.data, folder=folder))
        finetune(run)
        return weights_of(run)

    assert_same(weights("true", dataset.folder), weights("false", other))

    def leaking(clips: Any, labels: Any, *arguments: Any) -> Any:
        return np.arange(40)

    monkeypatch.setattr("ikem.finetune.plan.labelled_clips", leaking)
    with pytest.raises(ValueError, match="20 of the 40 labelled clips to learn from are test clips too"):
        weights("leak", dataset.folder)


def test_clips_without_label_are_left_out_and_counted(
    config: Callable[..., Config], dataset: PreparedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = relabelled(tmp_path / "some", dataset, {0: None, 5: None, 30: None})
    run = config(finetune=options(epochs=1))
    result = finetune(replace(run, data=replace(run.data, folder=folder)))
    assert result["unlabelled"] == {"train": 2, "test": 1, "test_marked": 1}
    assert {row["labelled_clips"] for row in result["rows"]} == {18}
    assert result["dataset"]["test_clips"] == 19
    assert "finetune: 2 clips of the part train have no label and are left out" in capsys.readouterr().out
    assert read_weights(run.run / "finetune" / "random" / "last.ckpt", dataset.layout).epochs == 1


def test_without_labels_it_says_so(
    config: Callable[..., Config], dataset: PreparedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = relabelled(tmp_path / "none", dataset, dict.fromkeys(range(40)))
    arguments = ["--run", str(tmp_path / "run"), "--data.folder", str(folder), "--data.protocol", "halves"]
    with pytest.raises(SystemExit) as stopped:
        main(["finetune", *arguments, "--finetune.init", "random"])
    said = capsys.readouterr().err.strip()
    assert stopped.value.code == 2
    assert said.count("\n") == 0 and "cannot be evaluated: " in said
    assert not (tmp_path / "run").exists()


def test_draws_are_nested_and_hold_every_class() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), (1, 3, 10, 40, 100)))
    clips = 2 * np.arange(len(labels))
    shares = (0.01, 0.05, 0.1, 0.2, 1.0)
    found = [labelled_clips(clips, labels, share, seed=1, draw=2) for share in shares]
    for few, many in pairwise(found):
        assert set(few) <= set(many)
    counts = [np.bincount(labels[each // 2]).tolist() for each in found]
    assert counts == [[1, 1, 1, 1, 1], [1, 1, 1, 2, 5], [1, 1, 1, 4, 10], [1, 1, 2, 8, 20], [1, 3, 10, 40, 100]]
    assert not np.array_equal(found[2], labelled_clips(clips, labels, 0.1, seed=1, draw=3))
    assert not np.array_equal(found[2], labelled_clips(clips, labels, 0.1, seed=2, draw=2))


def test_draws_are_those_of_an_evaluation(dataset: PreparedDataset) -> None:
    split = Split.of(dataset, "halves")
    labels = dataset.labels[split.train]
    for how in ({"draw_by": "class"}, {"draw_by": "clip"}, {"draw_by": "clip", "every_class": False}):
        drawn = all_draws(split, labels, EvaluateConfig(semi=(0.1, 0.3), draws=2, **how), seed=1)
        for draw in drawn:
            of_finetuning = labelled_clips(split.train, labels, draw.labels, 1, draw.number, *how.values())
            assert np.array_equal(np.sort(of_finetuning), split.train[draw.clips])


def test_few_labels_learn_for_as_many_steps(config: Callable[..., Config], capsys: pytest.CaptureFixture[str]) -> None:
    def steps(name: str, **more: Any) -> list[int]:
        run = config(name, finetune=options(**more))
        finetune(run)
        return [int(line["step"]) for line in table(run.run, f"finetune/{run.finetune.name}")]

    assert steps("all") == steps("equal", labels=0.5, equal_steps=True) == [2, 4]
    assert "are left out of an epoch" not in capsys.readouterr().out.partition("all/finetune")[2]
    assert steps("few", labels=0.5) == [1, 2]
    said = "batches are of 8: 3 of 11 labelled clips, others each time, are left out of an epoch"
    assert said in capsys.readouterr().out


def test_several_by_one_command(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed between two, it goes on with the one that was not finished, and each is what it would be alone."""
    run = config(finetune=options(epochs=1, modalities=("joint",), semi=(0.3, 1.0), draws=2, draw_by="clip"))
    names = ["random-0.3-0", "random-0.3-1", "random"]
    assert [single.finetune.name for single in finetunings(run)] == names
    begun: list[str] = []
    killed, fit = True, command.fit

    def counted(module: Finetuning, *arguments: Any, name: str, **more: Any) -> Path:
        begun.append(name)
        if killed and name == names[1]:
            raise InterruptionError
        return fit(module, *arguments, name=name, **more)

    steps: list[int] = []
    training_step = Finetuning.training_step
    monkeypatch.setattr(command, "fit", counted)
    monkeypatch.setattr(Finetuning, "training_step", lambda *given: steps.append(1) or training_step(*given))
    with pytest.raises(InterruptionError):
        finetune(run)
    assert begun == names[:2] and len(steps) == 1
    killed = False
    result = finetune(run)
    assert begun == [*names[:2], *names]
    assert len(steps) == 1 + 1 + 2  # the first was not trained again; of all 20 clips there are two batches
    rows = [row for row in result["rows"] if row["part"] == "test"]
    assert [(row["labels"], row["draw"], row["labelled_clips"]) for row in rows] == [
        (0.3, 0, 6),
        (0.3, 1, 6),
        (1.0, None, 20),
    ]
    assert {row["control"] for row in rows} == {"supervised"}
    printed = capsys.readouterr().out
    mean, deviation = np.mean([row["top1"] for row in rows[:2]]), np.std([row["top1"] for row in rows[:2]], ddof=1)
    expected = [percent(Spread(mean, deviation)), percent(rows[2]["top1"])]
    assert ["supervised", "joint", *expected] in [line.split() for line in printed.splitlines()]
    assert "finetune: 2 of 3, random-0.3-1: 6 labelled clips" in printed
    # The same alone, also from the configuration that lies beside it.
    single = replace(run, run=run.run.with_name("single"), finetune=replace(run.finetune, semi=(), labels=0.3, draw=1))
    assert finetune(single)["rows"] == [row for row in result["rows"] if row["draw"] == 1]
    assert_same(weights_of(single), weights_of(finetunings(run)[1]))
    assert not differences(finetunings(run)[1], "finetune")


def test_from_both_kinds_of_weights(config: Callable[..., Config], capsys: pytest.CaptureFixture[str]) -> None:
    run = config(finetune=options(epochs=1, init="both", modalities=("joint",)))
    pretrain(run)
    result = finetune(run)
    assert [(row["stage"], row["control"]) for row in result["rows"] if row["part"] == "test"] == [
        ("stage2", None),
        ("random", "supervised"),
    ]
    assert sorted(each.name for each in (run.run / "finetune").iterdir()) == ["pretrained", "random"]
    begun = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert ["stage2", "joint"] in begun and ["supervised", "joint"] in begun
    file = run.run / "pretrain" / "last.ckpt"
    singles = finetunings(replace(run, finetune=replace(run.finetune, checkpoint=file)))
    assert [single.finetune.checkpoint for single in singles] == [file, None]


def test_presets_and_what_replaces_them() -> None:
    default, aimclr, mamp = (FinetuneConfig(preset=name).learning for name in ("default", "aimclr", "mamp"))
    assert default == LearningConfig(100, "step", (80,), 0.1, 0, 0.9, 1e-4, encoder_learning_rate=0.1)
    assert (aimclr.milestones, aimclr.nesterov, aimclr.batch_size) == ((10, 30, 50), True, 128)
    assert not aimclr.pretraining_views and not aimclr.augments and mamp.augments
    assert [round(1e4 * mamp.encoder_learning_rate * learning_rate_factor(mamp, e), 2) for e in (0, 4, 5, 99)] == [
        0.5,
        2.5,
        3.0,
        0.0,
    ]
    replaced = FinetuneConfig(
        preset="mamp", optimizer="sgd", layer_decay=1.0, milestones=(3,), schedule="step"
    ).learning
    assert replaced == replace(mamp, optimizer="sgd", layer_decay=1.0, milestones=(3,), schedule="step")


def module_of(finetuning: FinetuneConfig) -> Finetuning:
    encoder = EncoderConfig(base_width=2, feature_width=6)
    encoders = {modality: build_encoder(encoder, get_layout("sbu15")) for modality in ("joint", "bone")}
    return Finetuning(finetuning, encoder, encoders, get_layout("sbu15"), 3)


def test_layers_nearer_to_the_skeleton_learn_slower() -> None:
    module = module_of(
        FinetuneConfig(preset="mamp", layer_decay=0.5, encoder_learning_rate=1.0, head_learning_rate=3.0)
    )
    optimizer = module.build_optimizer()
    assert type(optimizer) is torch.optim.AdamW
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    named = dict(module.named_parameters())
    assert found.keys() == {id(parameter) for parameter in named.values()}
    for name, parameter in named.items():
        place = name.split(".")
        depth = 1 + int(place[4]) if "blocks" in place else 0  # of ten blocks; the coordinates' norm before them
        expected = 3.0 if "head" in place else 0.5 ** (11 - depth)
        assert found[id(parameter)] == (expected, 0.0 if parameter.ndim == 1 else 0.05), name
    # Random weights have nothing to keep.
    random = module_of(FinetuneConfig(preset="mamp", init="random")).build_optimizer()
    assert {group["lr"] for group in random.param_groups} == {3e-4}
    plain = module_of(FinetuneConfig(preset="hiclr")).build_optimizer()
    assert type(plain) is torch.optim.SGD
    assert {(group["nesterov"], group["weight_decay"]) for group in plain.param_groups} == {(True, 1e-4)}


def test_smoothed_labels() -> None:
    plain, smooth = (module_of(FinetuneConfig(label_smoothing=share)).eval() for share in (0.0, 0.3))
    for stream in plain.streams.values():
        nn.init.normal_(
            stream.head.bias
        )  # features of untrained encoders are next to nothing, so this makes the logits
    smooth.load_state_dict(plain.state_dict())
    view, labels = torch.randn(2, 4, 3, 8, 15, 1, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 3
    losses, logits = plain(view, labels)
    spread = -functional.log_softmax(logits, -1).mean((1, 2))
    torch.testing.assert_close(smooth(view, labels)[0]["cross_entropy"], 0.7 * losses["cross_entropy"] + 0.3 * spread)


def test_clips_as_published_codes_see_them(
    config: Callable[..., Config], dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[View]] = {"train": [], "test": []}
    derive, extract = Finetuning.derive, epochs.extract_between_steps

    def noted(self: Finetuning, batch: Batch, view: View, modalities: tuple[str, ...]) -> Tensor:
        seen["train"].append(view)
        return derive(self, batch, view, modalities)

    def noted_extraction(*arguments: Any) -> Tensor:
        look = arguments[-1]
        seen["test"] += [] if look is None else [look(torch.tensor([100]))]
        return extract(*arguments)

    monkeypatch.setattr(Finetuning, "derive", noted)
    monkeypatch.setattr(epochs, "extract_between_steps", noted_extraction)
    few = {"epochs": 1, "modalities": ("joint",), "init": "random", "batch_size": 20}
    finetune(config("plain", finetune=FinetuneConfig(preset="aimclr", **few)))
    (view,) = seen["train"]  # one batch of the preset's size, not of data.batch_size
    assert not seen["test"] and view.crop_padding == 0
    torch.testing.assert_close(view.shear, torch.eye(3).expand_as(view.shear))
    assert view.window is not None
    torch.testing.assert_close(view.window, torch.tensor([0.0, 1.0]).expand_as(view.window))
    finetune(config("turned", finetune=FinetuneConfig(preset="mamp", **few)))
    view = seen["train"][1]
    assert view.window is not None and seen["test"][0].window is not None
    # Clips of 30 to 49 frames are seen whole, and turned.
    torch.testing.assert_close(view.window, torch.tensor([0.0, 1.0]).expand_as(view.window))
    assert (view.shear - torch.eye(3)).abs().amax((1, 2)).min() > 0.01
    torch.testing.assert_close(seen["test"][0].window, torch.tensor([[0.025, 0.95]]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"preset": "best"}, r"finetune\.preset: expected one of default, aimclr, hiclr, cmd, mamp, got best"),
        ({"semi": (0.1,), "labels": 0.5}, r"finetune\.semi: expected none with finetune\.labels"),
        ({"semi": (0.1, 0.1)}, r"finetune\.semi: expected different shares in \(0, 1\]"),
        ({"draws": 0}, r"finetune\.draws: expected at least 1, got 0"),
        ({"epochs": 0}, r"finetune\.epochs: expected at least 1, got 0"),
        ({"least_window": 0.5}, r"finetune\.least_window.*: expected finetune\.pretraining_views false"),
        ({"preset": "mamp", "nesterov": True}, r"finetune\.nesterov: expected finetune\.optimizer sgd"),
        ({"layer_decay": 0.0}, r"finetune\.layer_decay: expected in \(0, 1\], got 0\.0"),
        ({"label_smoothing": 1.0}, r"finetune\.label_smoothing: expected in \[0, 1\), got 1\.0"),
        ({"labels": 0.0}, r"finetune\.labels: expected in \(0, 1\], got 0\.0"),
        ({"draw": -1}, r"finetune\.draw: expected at least 0, got -1"),
        ({"head_learning_rate": 0.0}, r"finetune\.head_learning_rate: expected > 0, got 0\.0"),
        ({"init": "best"}, r"finetune\.init: expected pretrained, random or both, got best"),
        ({"checkpoint": Path("x")}, r"finetune\.checkpoint: expected none with finetune\.init random"),
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(**wrong)


def test_a_draw_of_one_class_is_refused_before_anything_is_trained(config: Callable[..., Config]) -> None:
    run = config(finetune=options(semi=(1.0, 0.05), draw_by="clip", every_class=False))
    with pytest.raises(ValueError, match=r"at least two classes, and 0\.05 gives 1 of one at most \(draw 0\)"):
        finetune(run)
    assert not run.run.exists()


def test_the_schedule_of_a_finished_one_may_grow(config: Callable[..., Config]) -> None:
    run = config(finetune=options(epochs=1, modalities=("joint",)))
    finetune(run)
    finetune(replace(run, finetune=replace(run.finetune, epochs=2, milestones=(80,))))
    assert len(table(run.run, "finetune/random")) == 2
    with pytest.raises(ValueError, match=r"finetune\.preset: 'default' there, 'aimclr' here"):
        finetune(replace(run, finetune=replace(run.finetune, preset="aimclr")))
    with pytest.raises(ValueError, match="epoch 0 was trained at 1 times the peak learning rate"):
        finetune(replace(run, finetune=replace(run.finetune, epochs=2, milestones=(0,))))

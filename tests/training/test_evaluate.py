"""Probe, neighbors and fusion against what they must be, and what an evaluation writes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import KNeighborsClassifier

from ikem.config import PROBES, Config, EncoderConfig, ProbeConfig
from ikem.data.dataset import PreparedDataset
from ikem.encoders import build_encoder, encoders_of
from ikem.evaluate import evaluate
from ikem.evaluation.controls import ridge_scores
from ikem.evaluation.features import Scaling, extract_features
from ikem.evaluation.linear import LinearHeads, linear_probe
from ikem.evaluation.logistic import logistic_probe
from ikem.evaluation.neighbors import nearest_labels, vote
from ikem.evaluation.scores import by_stream, per_class, score
from ikem.evaluation.split import Split
from ikem.evaluation.streams import Streams
from ikem.pretrain import Pretraining
from ikem_ext import MODALITIES, derive_modalities


def blobs(modalities: int, clips: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (G, n, 5) around a center per class, and labels (n,)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(clips) % 4
    centers = torch.randn(modalities, 4, 5, generator=generator)
    return centers[:, labels] + spread * torch.randn(modalities, clips, 5, generator=generator), labels


def probe(**options: Any) -> ProbeConfig:
    return replace(PROBES["crosclr"], **options)


def test_streams() -> None:
    six = Streams.of(MODALITIES)
    assert list(six.trained) == [*MODALITIES, "fused3", "fused6"]
    assert six.trained["fused3"] == (0, 1, 2)
    assert list(six.late) == ["late_fused3", "late_fused6"]
    assert list(Streams.of(("joint", "motion", "bone")).all) == ["joint", "motion", "bone", "fused3", "late_fused3"]
    assert list(Streams.of(("bone",)).all) == ["bone"]


def test_heads_average_the_logits_of_their_modalities() -> None:
    streams = Streams.of(("joint", "motion", "bone"))
    heads = LinearHeads(streams, in_width=5, num_classes=4, generator=torch.Generator().manual_seed(0))
    features, _ = blobs(3, 8, 1.0)
    torch.nn.init.normal_(heads.bias)
    each = [features[g] @ heads.weight[h] + heads.bias[h] for h, g in enumerate([0, 1, 2, 0, 1, 2])]
    logits, probabilities = heads(features), heads.predict(features)
    for modality in range(3):
        torch.testing.assert_close(logits[modality], each[modality])
    torch.testing.assert_close(logits[3], torch.stack(each[3:]).mean(0))  # heads of its own
    torch.testing.assert_close(probabilities[:4], logits.softmax(-1))
    torch.testing.assert_close(probabilities[4], torch.stack([part.softmax(-1) for part in each[:3]]).mean(0))


def test_fused_heads_learn_from_the_fused_loss_alone() -> None:
    """Training all streams side by side gives each what training it alone gives."""
    streams = Streams.of(("joint", "motion", "bone"))
    features, labels = blobs(3, 32, 1.0)
    heads = LinearHeads(streams, 5, 4, torch.Generator().manual_seed(0))
    logits = heads(features)
    torch.nn.functional.cross_entropy(logits[3], labels).backward()
    assert not heads.weight.grad[:3].any()
    assert heads.weight.grad[3:].any(dim=(1, 2)).all()


def test_probe_separates_what_is_separable() -> None:
    train, labels = blobs(2, 80, 0.05)
    options = probe(epochs=30, learning_rate=0.3, milestones=(20,), batch_size=16)
    streams, parts = Streams.of(("joint", "motion")), {"test": np.arange(80), "few": np.arange(4)}
    result = linear_probe(lambda epoch: train, labels, train, labels, parts, streams, 4, options, seed=1)
    assert result.probabilities.shape == (4, 80, 4)
    assert (result.probabilities.argmax(-1) == labels).all()
    assert result.best_top1["test"].tolist() == [1.0] * 4
    again = linear_probe(lambda epoch: train, labels, train, labels, parts, streams, 4, options, seed=1)
    assert torch.equal(result.probabilities, again.probabilities)
    shuffled = labels[torch.randperm(80, generator=torch.Generator().manual_seed(0))]
    chance = linear_probe(lambda epoch: train, shuffled, train, labels, parts, streams, 4, options, seed=1)
    assert (chance.probabilities.argmax(-1) == labels).float().mean() < 0.6


def test_probe_slows_down_at_its_milestones() -> None:
    train, labels = blobs(1, 40, 1.0)
    streams, parts = Streams.of(("joint",)), {"test": np.arange(40)}

    def probabilities(epochs: int, milestones: tuple[int, ...]) -> torch.Tensor:
        options = probe(epochs=epochs, learning_rate=0.5, milestones=milestones, batch_size=40)
        return linear_probe(
            lambda epoch: train, labels, train, labels, parts, streams, 4, options, seed=1
        ).probabilities

    before, slowed, as_fast = probabilities(5, ()), probabilities(8, (5,) * 6), probabilities(8, ())
    torch.testing.assert_close(slowed, before, rtol=0, atol=1e-4)  # a millionth of the learning rate is left
    assert (as_fast - before).abs().max() > 0.01


@pytest.mark.parametrize("width", [3, 500, 5000])
def test_logistic_probe_is_the_regression_in_full(width: int) -> None:
    """With more features than clips it works in the clips' span, which changes nothing."""
    generator = torch.Generator().manual_seed(0)
    labels = np.arange(40) % 3
    train, test = torch.randn(40, width, generator=generator) + torch.tensor(labels)[:, None], torch.randn(9, width)
    probabilities = logistic_probe(train, labels, test, 4, c=10.0)
    deviation, mean = torch.std_mean(train.double(), dim=0)
    deviation = deviation + 0.01 * deviation.mean()
    z, z_test = (train - mean) / deviation, (test - mean) / deviation
    length = z.square().sum(1).mean().sqrt()
    model = LogisticRegression(C=10.0, max_iter=5000, tol=1e-8).fit((z / length).numpy(), labels)
    np.testing.assert_allclose(probabilities[:, :3], model.predict_proba((z_test / length).numpy()), atol=1e-3)
    assert not probabilities[:, 3].any()  # a class without training clips


@pytest.mark.parametrize(("clips", "width", "classes"), [(60, 20, 3), (40, 300, 4), (50, 10, 2), (2500, 8, 5)])
def test_ridge_scores_are_those_of_scikit_learn(clips: int, width: int, classes: int) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(clips) % classes
    train, test = (random.normal(5, 1, size=(n, width)).astype(np.float32) for n in (clips, 9))
    train += 0.3 * random.normal(size=(classes, width))[labels].astype(np.float32)
    expected = RidgeClassifierCV(np.logspace(-3, 4, 8)).fit(train, labels).decision_function(test)
    if classes == 2:
        expected = np.stack([-expected, expected], axis=1)
    scores = ridge_scores(train, labels, test, classes + 1)
    np.testing.assert_allclose(scores[:, :classes], expected, atol=1e-4)
    assert (scores[:, classes] == -np.inf).all()  # a class without training clips


def test_nearest_by_cosine() -> None:
    train, labels = blobs(3, 60, 1.0)
    test, _ = blobs(3, 12, 1.0)
    test = test + 0.3
    for members in ((1,), (0, 2)):
        cosines = sum(torch.nn.functional.cosine_similarity(test[g][:, None], train[g][None], dim=-1) for g in members)
        expected = labels[cosines.topk(20).indices].numpy()
        np.testing.assert_array_equal(nearest_labels(train, labels.numpy(), test, members, 20), expected)
    assert nearest_labels(train[:, :7], labels[:7].numpy(), test, (0,), 20).shape == (12, 7)


def test_votes_and_scores() -> None:
    assert vote(np.array([[1, 2, 2], [0, 1, 2], [2, 0, 0]]), 3).tolist() == [2, 0, 0]
    logits = np.eye(7)[[0, 1, 2, 3]] + 0.1 * np.arange(7)
    assert score(logits, np.array([0, 1, 3, 0])) == {"top1": 0.5, "top5": 0.75}
    assert per_class(np.array([[3, 1, 0], [0, 0, 0], [1, 1, 2]])) == [0.75, None, 0.5]


def test_standardization_uses_the_training_clips_only() -> None:
    train, test = torch.randn(2, 50, 3) * 1e-7 + 4, torch.randn(2, 9, 3)
    train[:, :, 0] = 0  # a feature that never fires
    train, test = train.double(), test.double()
    scaling = Scaling.of(train)
    scaled, other = scaling(train), scaling(test)
    torch.testing.assert_close(scaled[..., 1:].mean(1), torch.zeros(2, 2).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(scaled[..., 1:].std(1), torch.ones(2, 2).double(), atol=1e-6, rtol=0)
    assert scaled.isfinite().all()
    assert other.isfinite().all()
    expected = (test - train.mean(1, keepdim=True)) / train.std(1, keepdim=True)
    torch.testing.assert_close(other[..., 1:], expected[..., 1:])
    # A test clip is scaled alike whatever other test clips there are.
    torch.testing.assert_close(scaling(test[:, :1]), other[:, :1])


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Rounding is that of the largest sums, which running statistics of a short training leave large."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_extraction_is_in_eval_mode_and_clip_by_clip(finished_run: Config, dataset: PreparedDataset) -> None:
    module = Pretraining.from_checkpoint(finished_run.run / "pretrain" / "last.ckpt").train()
    encoders = encoders_of(module.query)
    fabric = Fabric(accelerator="cpu", devices=1)
    clips = np.array([3, 30, 7])
    features = extract_features(encoders, dataset, clips, segments=2, fabric=fabric)
    assert all(part.training for encoder in encoders.values() for part in encoder.modules())  # copies encoded
    assert features.means.shape == (6, 3, 6)
    assert features.parts.shape == (6, 3, 6 * 2 * 15)
    alone = extract_features(encoders, dataset, clips[1:2], segments=2, fabric=fabric)
    for together, by_itself in ((features.means, alone.means), (features.parts, alone.parts)):
        close(together[:, 1:2], by_itself)
    assert extract_features(encoders, dataset, clips, fabric=fabric).parts.shape == (6, 3, 0)
    derived = derive_modalities(
        torch.from_numpy(dataset.joints[clips]), torch.from_numpy(dataset.num_frames[clips]), dataset.layout
    )
    position = MODALITIES.index("bone")
    bone = encoders["bone"].eval().feature_map(derived[position])
    close(features.means[position], bone.mean((2, 3)))
    motion = MODALITIES.index("motion")  # which depends on the clips' lengths
    close(features.means[motion], encoders["motion"].eval()(derived[motion]))
    parts = features.parts[position].view(3, 6, 2, 15)
    close(parts[:, :, 0], bone[:, :, : (bone.shape[2] + 1) // 2].mean(2))


def test_features_too_large_for_float16_are_refused(dataset: PreparedDataset) -> None:
    config = EncoderConfig(base_width=2, feature_width=6, initialization="kaiming")
    torch.manual_seed(0)
    encoder = build_encoder(config, dataset.layout)
    with torch.no_grad():
        encoder.blocks[-1].temporal_norm.weight.fill_(1e7)

    def extract(dtype: torch.dtype) -> None:
        fabric = Fabric(accelerator="cpu", devices=1)
        extract_features({"bone": encoder}, dataset, np.arange(3), segments=2, fabric=fabric, dtype=dtype)

    extract(torch.float32)
    with pytest.raises(ValueError, match="float16"):
        extract(torch.float16)


def test_split(dataset: PreparedDataset) -> None:
    split = Split.of(dataset, "halves")
    assert split.test.tolist() == list(range(20, 40))
    assert set(split.parts) == {"test", "test_marked"}
    assert split.test[split.parts["test_marked"]].tolist() == list(range(20, 40, 2))
    with pytest.raises(ValueError, match="protocol"):
        Split.of(dataset, "thirds")


def test_what_an_evaluation_writes(finished_run: Config, dataset: PreparedDataset) -> None:
    result = json.loads((finished_run.run / "evaluation.json").read_text())
    assert result["dataset"] == {
        "name": "npz",
        "layout": "sbu15",
        "classes": ["walk", "wave", "sit"],
        "protocol": "halves",
        "train_clips": 20,
        "test_clips": 20,
    }
    assert {row["protocol"] for row in result["rows"]} == {"linear", "retrieval", "knn"}
    assert len(result["rows"]) == 2 * ((1 + 2) + 3 * (10 + 2 * 8) + (4 + 2 * 3))
    for row in result["rows"]:
        assert (row["seed"], row["draw"]) == (1, None)
        assert row["control"] == (row["stage"] if row["stage"] in ("random", "raw") else None)
    rows = {(row["stage"], row["stream"], row["part"]): row for row in by_stream(result["rows"])}
    assert len(rows) == 2 * (1 + 3 * 10 + 4)
    assert {stage for stage, _, _ in rows} == {"raw", "random", "stage1", "stage2", "student"}
    assert {stream for stage, stream, _ in rows if stage == "student"} == {"joint", "bone", "fused2", "late_fused2"}
    with np.load(finished_run.run / "evaluation.npz", allow_pickle=False) as arrays:
        labels = arrays["labels"]
        np.testing.assert_array_equal(labels, dataset.labels[20:])
        np.testing.assert_array_equal(arrays["clips"], np.arange(20, 40))
        for stage, stream, part in rows:
            if part == "test":
                row, confusion = rows[stage, stream, part], arrays[f"confusion_{stage}_{stream}"]
                np.testing.assert_array_equal(confusion.sum(1), np.bincount(labels))
                taken_for, scores = (arrays[f"{what}_{stage}_{stream}"] for what in ("classes", "scores"))
                np.testing.assert_array_equal(confusion_matrix(labels, taken_for[:, 0]), confusion)
                assert (np.diff(scores, axis=1) <= 0).all()
                assert row["linear"]["top1"] == pytest.approx(confusion.trace() / 20)
                assert row["linear"]["per_class"] == pytest.approx(list(confusion.diagonal() / confusion.sum(1)))
                assert row["linear"]["top5"] == 1.0  # there are three classes
                best = row["linear"]["top1_best_epoch"]
                assert stage == "raw" if best is None else best >= row["linear"]["top1"]
        assert arrays["features_student_bone"].shape == (20, 6)
    assert result["checkpoints"]["stage1"] == {"file": "pretrain/stage1.ckpt", "epochs": 2}
    assert result["checkpoints"]["stage2"]["epochs"] == 3
    x = dataset.joints.transpose(0, 1, 3, 4, 2)
    resampled = torch.nn.functional.interpolate(torch.tensor(x).reshape(40, -1, 8), size=32, mode="linear").flatten(1)
    ridge = (
        RidgeClassifierCV(np.logspace(-3, 4, 8))
        .fit(resampled[:20], dataset.labels[:20])
        .score(resampled[20:], dataset.labels[20:])
    )
    assert rows["raw", "joint", "test"]["linear"]["top1"] == pytest.approx(ridge)
    assert set(rows["random", "joint", "test"]["neighbors"]) == {1, 20}
    nearest = KNeighborsClassifier(1, metric="cosine").fit(resampled[:20], dataset.labels[:20])
    found = rows["raw", "joint", "test"]["neighbors"][1]
    assert found == pytest.approx(nearest.score(resampled[20:], dataset.labels[20:]))


def test_evaluation_is_reproducible_and_its_options_work(finished_run: Config) -> None:
    first, second = evaluate(finished_run), evaluate(finished_run)
    assert first["rows"] == second["rows"]
    options = replace(finished_run.evaluate, normalize=True, standardize=True, segments=2, weight_decay=1e-3)
    other = evaluate(replace(finished_run, evaluate=options))
    assert other["rows"] != first["rows"]
    assert other["config"]["evaluate"]["segments"] == 2
    with np.load(finished_run.run / "evaluation.npz") as arrays:
        lengths = np.linalg.norm(arrays["features_student_bone"], axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)
    for row in by_stream(other["rows"]):
        if row["stream"].startswith("late"):
            assert row["logistic"] is None
        else:
            assert 0 <= row["logistic"]["top1"] <= row["logistic"]["top5"] <= 1
    assert not any(row["logistic"] for row in by_stream(first["rows"]))
    evaluate(finished_run)  # leaves the run as the other tests expect it

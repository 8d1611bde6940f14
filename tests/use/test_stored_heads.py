"""What `ikem evaluate` stores for use afterwards: the heads that its numbers were counted from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from use.conftest import demo_config

from ikem.data.dataset import PreparedDataset
from ikem.evaluate import evaluate
from ikem.evaluation.features import Scaling
from ikem.evaluation.heads import plain_heads
from ikem.evaluation.linear import LinearHeads
from ikem.evaluation.scores import Scoreboard
from ikem.evaluation.streams import Streams
from ikem.use.classifier import load_classifier


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str, str], np.ndarray]:
    """The scores that rows are counted from, by protocol, stage and stream."""
    found: dict[tuple[str, str, str], np.ndarray] = {}
    add = Scoreboard.add

    def remember(self: Scoreboard, protocol: str, stage: str, stream: str, scores: Any = None, **more: Any) -> Any:
        found[protocol, stage, stream] = scores
        return add(self, protocol, stage, stream, scores, **more)

    monkeypatch.setattr(Scoreboard, "add", remember)
    return found


CASES = {
    "learned": ({}, None, "student", "learned_fused3"),
    "together": ({"fusion": ()}, None, "student", "fused3"),
    "batch norm": ({"batch_norm": True, "fusion": ()}, None, "student", "fused3"),
    "length 1": ({"normalize": True}, None, "student", "learned_fused3"),
    "length 1, together": ({"normalize": True, "fusion": ()}, None, "student", "fused3"),
    "of a file": ({}, "pretrain/stage1.ckpt", "stage1", "learned_fused6"),
}


@pytest.mark.parametrize("case", CASES)
def test_probabilities_are_those_of_the_evaluation(
    demo: Path, tmp_path: Path, counted: dict[tuple[str, str, str], np.ndarray], case: str
) -> None:
    options, checkpoint, stage, stream = CASES[case]
    config = demo_config(demo / "runs/demo")
    config.evaluate = type(config.evaluate)(**{**vars(config.evaluate), **options})
    evaluate(config, checkpoint=checkpoint and config.run / checkpoint, output=tmp_path / "out")
    classifier = load_classifier(tmp_path / "out")
    dataset = PreparedDataset(config.data.folder)
    assert classifier.origin == {
        "stage": stage,
        "stream": stream,
        "dataset": dataset.name,
        "protocol": "cross-subject",
        "seed": config.seed,
        "num_frames": {"shortest": 43, "median": 67, "longest": 98},  # of the clips
    }
    test = dataset.split("cross-subject", "test")
    with torch.inference_mode():
        found = classifier(torch.from_numpy(dataset.joints[test]), torch.from_numpy(dataset.num_frames[test]))
    np.testing.assert_allclose(found.numpy(), counted["linear", stage, stream], rtol=0, atol=1e-4)
    assert found.std(0).max() > 1e-3  # clips are told apart


def heads_of(modalities: tuple[str, ...], *, batch_norm: bool) -> LinearHeads:
    """Heads that have seen some features."""
    generator = torch.Generator().manual_seed(0)
    heads = LinearHeads(Streams.of(modalities), 5, 4, generator, batch_norm=batch_norm)
    with torch.no_grad():
        heads.bias.normal_(generator=generator)
        heads(3 + 2 * torch.randn(len(modalities), 50, 5, generator=generator))
    return heads.eval()


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("modalities", [("joint", "motion", "bone", "acceleration"), ("bone",)], ids=["four", "one"])
def test_scaling_and_norm_move_into_the_weights(modalities: tuple[str, ...], scaled: bool, batch_norm: bool) -> None:
    heads = heads_of(modalities, batch_norm=batch_norm)
    features = 1 + torch.randn(len(modalities), 20, 5, generator=torch.Generator().manual_seed(1)) ** 2
    scaling = Scaling.of(features) if scaled else None
    expected = dict(zip(heads.streams.trained, heads(scaling(features) if scaling else features), strict=True))
    for stream, members in heads.streams.trained.items():
        plain = plain_heads(heads, stream, scaling)
        assert list(plain) == [modalities[member] for member in members]
        logits = [features[modalities.index(name)] @ weight.mT + bias for name, (weight, bias) in plain.items()]
        torch.testing.assert_close(torch.stack(logits).mean(0), expected[stream], rtol=1e-4, atol=1e-5)


def test_a_feature_that_never_fired_in_training_says_nothing() -> None:
    heads = heads_of(("joint",), batch_norm=False)
    train = torch.rand(1, 20, 5, generator=torch.Generator().manual_seed(1))
    train[..., 2] = 0
    train[..., 3] = 0.3 + 3e-8 * torch.rand(20, generator=torch.Generator().manual_seed(2))  # the last bit alone
    weight, bias = plain_heads(heads, "joint", Scaling.of(train))["joint"]
    assert weight.isfinite().all() and bias.isfinite().all()
    assert not weight[:, 2:4].any()
    assert weight[:, :2].all()

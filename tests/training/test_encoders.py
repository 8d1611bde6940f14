"""The encoder against the published one, its options, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ikem.encoders import STGCN, load_published_state_dict, mlp
from ikem_ext import get_layout


def published(
    golden: Callable[[str], dict[str, np.ndarray]],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    arrays = {name: torch.from_numpy(value) for name, value in golden("st_gcn_encoder").items()}
    parameters = {name.removeprefix("param/"): value for name, value in arrays.items() if name.startswith("param/")}
    return arrays, parameters


def small_encoder(**options: object) -> STGCN:
    torch.manual_seed(0)
    return STGCN(get_layout("ntu25"), base_width=4, feature_width=24, **options)


def test_published_encoder(golden: Callable[[str], dict[str, np.ndarray]]) -> None:
    arrays, parameters = published(golden)
    encoder = small_encoder().double().eval()
    head = load_published_state_dict(encoder, parameters)
    features = encoder(arrays["input"])
    torch.testing.assert_close(features, arrays["pooled"], rtol=0, atol=1e-9)
    logits = torch.nn.functional.linear(features, head["fc.weight"], head["fc.bias"])
    torch.testing.assert_close(logits, arrays["logits"], rtol=0, atol=1e-9)


def test_published_state_dict_must_fit(golden: Callable[[str], dict[str, np.ndarray]]) -> None:
    _, parameters = published(golden)
    with pytest.raises(RuntimeError, match="unheard_of"):
        load_published_state_dict(small_encoder().double(), {**parameters, "unheard_of": torch.zeros(1)})
    del parameters["st_gcn_networks.3.tcn.2.weight"]
    with pytest.raises(RuntimeError, match=r"blocks\.3\.temporal\.weight"):
        load_published_state_dict(small_encoder().double(), parameters)


def test_features_are_the_mean_of_the_feature_map() -> None:
    encoder = small_encoder(initialization="kaiming").eval()
    x = torch.randn(2, 3, 32, 25, 2)
    features = encoder.feature_map(x)
    assert features.shape == (2, 24, 8, 25)  # 8 frames are left after the strides
    torch.testing.assert_close(features.mean((2, 3)), encoder(x))


def test_bodies_are_averaged() -> None:
    encoder = small_encoder(initialization="kaiming").eval()
    x = torch.randn(2, 3, 16, 25, 2)
    each = torch.stack([encoder(x[..., body : body + 1]) for body in (0, 1)])
    torch.testing.assert_close(encoder(x), each.mean(0))


@pytest.mark.parametrize(("initialization", "weight_std"), [("published", 0.02), ("kaiming", (2 / (9 * 64)) ** 0.5)])
def test_initialization(initialization: str, weight_std: float) -> None:
    torch.manual_seed(0)
    encoder = STGCN(get_layout("ntu25"), initialization=initialization)
    temporal = encoder.blocks[7].temporal
    assert temporal.weight.std().item() == pytest.approx(weight_std, rel=0.05)
    assert all(not parameter.any() for name, parameter in encoder.named_parameters() if name.endswith("bias"))
    assert (encoder.blocks[0].graph.edge_importance == 1).all()
    assert bool((encoder.data_norm.weight == 1).all()) == (initialization == "kaiming")
    assert mlp(256, 256, 128)[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert mlp(256, 256, 128, "kaiming")[0].weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.05)


@pytest.mark.parametrize("shape", [(2, 3, 16, 24, 1), (2, 2, 16, 25, 1), (2, 3, 16, 25)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x: expected shape \(N, 3, T, 25, M\), got"):
        small_encoder()(torch.zeros(shape))

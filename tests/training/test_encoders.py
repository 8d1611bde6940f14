"""The encoder against the published one, its options, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ikem.config import EncoderConfig
from ikem.encoders import AGCN, CTRGCN, HCN, STGCN, Encoder, build_encoder, load_published_state_dict, mlp
from ikem.encoders.encoder import _BodyMean
from ikem.encoders.pooling import body_parts
from ikem.encoders.st_gcn import Block
from ikem_ext import SkeletonLayout, get_layout
from ikem_ext.layouts import LAYOUTS


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bodies", [1, 2])
def test_the_mean_over_bodies_is_exact_but_for_rounding(dtype: torch.dtype, bodies: int) -> None:
    maps = (100 * torch.rand(3 * bodies, 5, 13, 25)).to(dtype).contiguous(memory_format=torch.channels_last)
    maps.requires_grad_()
    mean = _BodyMean.apply(maps, bodies)
    assert mean.dtype == dtype
    expected = maps.detach().double().unflatten(0, (3, bodies)).mean((1, 3, 4))
    torch.testing.assert_close(mean.double(), expected, rtol=4 * torch.finfo(dtype).eps, atol=0)
    (grad,) = torch.autograd.grad(mean.double().sum(), maps)
    torch.testing.assert_close(grad.double(), torch.full(maps.shape, 1 / (bodies * 325)).double(), rtol=1e-2, atol=0)


@pytest.mark.parametrize("kind", [STGCN, AGCN, CTRGCN])
def test_joints_and_parts_are_kept_apart(kind: type[Encoder]) -> None:
    layout, x = get_layout("ntu25"), torch.randn(2, 3, 16, 25, 2)
    made = {}
    for pooling in ("mean", "joints", "parts"):
        torch.manual_seed(0)
        encoder = kind(layout, base_width=8, feature_width=24, initialization="kaiming", pooling=pooling).eval()
        made[pooling] = encoder(x)
        assert made[pooling].shape == (2, encoder.feature_width)
        torch.testing.assert_close(encoder.pool(encoder.feature_map(x)), made[pooling])
        assert {name for name, _ in encoder.named_buffers()} >= {"group_means"} or pooling == "mean"
        kind(layout, base_width=8, feature_width=24).load_state_dict(encoder.state_dict())
    joints = made["joints"].view(2, 24, 25)
    torch.testing.assert_close(joints, encoder.feature_map(x).mean(2))
    torch.testing.assert_close(joints.mean(2), made["mean"])
    parts = dict(zip(body_parts(layout), made["parts"].view(2, 24, 5).unbind(2), strict=True))
    for part, names in {
        "left_leg": ["left_hip", "left_knee", "left_ankle", "left_foot"],
        "trunk": ["spine_base", "spine_mid", "neck", "head", "spine_shoulder"],
    }.items():
        members = [layout.joint_names.index(name) for name in names]
        torch.testing.assert_close(parts[part], joints[:, :, members].mean(2))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_joint_belongs_to_one_part(layout: SkeletonLayout) -> None:
    parts = body_parts(layout)
    assert sorted(joint for part in parts.values() for joint in part) == list(range(layout.num_joints))
    if layout.left_right:
        assert next(iter(parts)) == "trunk" and len(parts) == 5
        for joint, partner in layout.left_right:
            here, there = (next(name for name in parts if each in parts[name]) for each in (joint, partner))
            assert here.replace("left", "right") == there
    else:
        assert sorted(parts) == ["index", "middle", "palm", "pinky", "ring", "thumb"]


def test_parts_without_names_are_refused() -> None:
    layout = SkeletonLayout("rod", ("a", "b", "c"), parents=(0, 0, 1), torso=(0, 1, 2))
    with pytest.raises(ValueError, match=r"encoder\.pooling: expected mean or joints, as the names of layout 'rod'"):
        build_encoder(EncoderConfig(pooling="parts"), layout)


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


def gradients(encoder: STGCN, x: torch.Tensor) -> list[torch.Tensor]:
    """Of the input and of all parameters that want one, from a random cotangent."""
    x = x.clone().requires_grad_()
    features = encoder(x)
    wanted = [x, *(parameter for parameter in encoder.parameters() if parameter.requires_grad)]
    cotangent = torch.randn(features.shape, generator=torch.Generator().manual_seed(1), dtype=features.dtype)
    return [features, *torch.autograd.grad(features, wanted, cotangent)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", ["", "graph", "temporal", "residual"])
def test_what_is_made_again_changes_nothing(monkeypatch: pytest.MonkeyPatch, training: bool, frozen: str) -> None:
    x = torch.randn(3, 3, 16, 25, 2, dtype=torch.float64)
    made = []
    for remakes in (True, False):
        encoder = small_encoder(initialization="kaiming", dropout=0.5).double().train(training)
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(frozen == "" or frozen not in name)
        with monkeypatch.context() as patch:
            patch.setattr(Block, "remakes", remakes)
            torch.manual_seed(2)
            made.append([*gradients(encoder, x), *encoder.buffers()])
    assert len(made[0]) == len(made[1])
    for again, kept in zip(*made, strict=True):
        torch.testing.assert_close(again, kept, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_features_are_the_same_where_no_gradients_are_wanted(training: bool) -> None:
    x = torch.randn(3, 3, 16, 25, 2)
    made = []
    for wanted in (True, False):
        encoder = small_encoder(initialization="kaiming", dropout=0.5).train(training)
        with torch.set_grad_enabled(wanted):
            torch.manual_seed(2)
            made.append([encoder(x), *encoder.buffers()])
    assert all(torch.equal(*pair) for pair in zip(*made, strict=True))


def test_an_output_that_is_forgotten_has_the_same_gradients() -> None:
    """The last block keeps one byte for each entry instead of its output."""
    block = small_encoder(initialization="kaiming", dropout=0.5).double().blocks[-1].train()
    x = torch.randn(6, 16, 13, 25, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    results = []
    for forgets in (True, False):
        block.is_last = forgets
        torch.manual_seed(0)
        y = block(x)
        kept = y.grad_fn.saved_tensors if forgets else ()  # type: ignore[union-attr]
        assert forgets == any(each.dtype == torch.int8 for each in kept if each is not None)
        generator = torch.Generator().manual_seed(1)
        cotangent = torch.randn(y.shape, generator=generator, dtype=y.dtype)  # in another memory layout
        results.append((y, *torch.autograd.grad(y, [x, *block.parameters()], cotangent)))
    for forgotten, known in zip(*results, strict=True):
        torch.testing.assert_close(forgotten, known, rtol=1e-12, atol=1e-12)


def test_gradients_under_autocast() -> None:
    x = torch.randn(4, 3, 16, 25, 2)
    exact = gradients(small_encoder(initialization="kaiming", dropout=0.0), x)
    with torch.autocast("cpu", torch.bfloat16):
        encoder = small_encoder(initialization="kaiming", dropout=0.0)
        features = encoder(x)
    features.float().square().sum().backward()
    for parameter, like in zip(encoder.parameters(), exact[2:], strict=True):
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
        assert parameter.grad.shape == like.shape and parameter.grad.isfinite().all()


@pytest.mark.parametrize(
    ("architecture", "kind", "parameters"), [("st_gcn", STGCN, 60e3), ("agcn", AGCN, 60e3), ("ctrgcn", CTRGCN, 20e3)]
)
class TestArchitectures:
    def build(self, architecture: str) -> Encoder:
        torch.manual_seed(0)
        return build_encoder(
            EncoderConfig(architecture, base_width=8, feature_width=24, dropout=0, initialization="kaiming"),
            get_layout("sbu15"),
        )

    def test_features(self, architecture: str, kind: type[Encoder], parameters: float) -> None:
        encoder = self.build(architecture)
        x = torch.randn(2, 3, 32, 15, 2, requires_grad=True)
        assert type(encoder) is kind
        assert encoder(x).shape == (2, 24)
        assert encoder.feature_map(x).shape == (2, 24, 8, 15)
        assert 0.5 * parameters < sum(each.numel() for each in encoder.parameters()) < 2 * parameters

    def test_every_parameter_learns(self, architecture: str, kind: type[Encoder], parameters: float) -> None:
        encoder = self.build(architecture)
        with torch.no_grad():
            for parameter in encoder.parameters():  # away from the zeros that some start at, which stop gradients
                parameter.add_(0.1 * torch.randn_like(parameter))
        encoder(torch.randn(4, 3, 16, 15, 1)).square().sum().backward()
        assert all(parameter.grad is not None for parameter in encoder.parameters())
        # A batch norm takes away the bias of the convolution before it: only rounding is left of its gradient.
        taken_away = {f"{name}.bias" for name, part in encoder.named_modules() if isinstance(part, torch.nn.Conv2d)}
        idle = {name for name, parameter in encoder.named_parameters() if not parameter.grad.any()}
        assert idle <= taken_away

    def test_initialization_of_the_method(self, architecture: str, kind: type[Encoder], parameters: float) -> None:
        encoder = build_encoder(EncoderConfig(architecture), get_layout("ntu25"))
        convolutions = [each.weight for each in encoder.modules() if isinstance(each, torch.nn.Conv2d)]
        assert torch.cat([weight.flatten() for weight in convolutions]).std().item() == pytest.approx(0.02, rel=0.05)


class TestHCN:
    def build(self, width: int = 16, **options: object) -> HCN:
        torch.manual_seed(0)
        return HCN(get_layout("sbu15"), base_width=width, feature_width=24, initialization="kaiming", **options)

    def test_features_are_those_of_the_published_layers(self) -> None:
        """Written out in the paper's order: point by point, then joints as channels, then the maximum over bodies."""
        encoder = self.build(dropout=0.5).eval()
        with torch.no_grad():
            for norm in (each for each in encoder.modules() if isinstance(each, torch.nn.modules.batchnorm._BatchNorm)):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
        convs = [each for each in encoder.blocks if isinstance(each, torch.nn.Conv2d)]
        norms = [each for each in encoder.blocks if isinstance(each, torch.nn.BatchNorm2d)]
        assert [tuple(conv.weight.shape) for conv in convs] == [
            (64, 3, 1, 1), (32, 64, 3, 1), (32, 15, 3, 3), (64, 32, 3, 3), (128, 64, 3, 3), (24, 128, 3, 3)
        ]  # fmt: skip
        x = torch.randn(2, 3, 32, 15, 2)
        bodies = []
        for body in x.unbind(4):
            y = encoder.data_norm(body.permute(0, 3, 1, 2).flatten(1, 2)).view(2, 15, 3, 32).permute(0, 2, 3, 1)
            for index, (conv, norm) in enumerate(zip(convs, norms, strict=True)):
                if index == 2:
                    y = y.permute(0, 3, 2, 1)
                y = norm(torch.nn.functional.conv2d(y, conv.weight, padding=[size // 2 for size in conv.kernel_size]))
                y = y.relu() if index in (0, 4, 5) else y
                y = torch.nn.functional.max_pool2d(y, 2) if index >= 2 else y
            bodies.append(y)
        maps = torch.maximum(*bodies)
        torch.testing.assert_close(encoder.feature_map(x), maps)
        torch.testing.assert_close(encoder(x), maps.mean(2).flatten(1))

    @pytest.mark.parametrize(("width", "frames", "places"), [(16, 32, (2, 2)), (2, 8, (1, 1)), (9, 50, (4, 2))])
    def test_any_width_and_length(self, width: int, frames: int, places: tuple[int, int]) -> None:
        encoder, x = self.build(width), torch.randn(3, 3, frames, 15, 1)
        assert encoder.feature_map(x).shape == (3, 24, *places)
        assert encoder(x).shape == (3, encoder.feature_width) == (3, 24 * places[1])

    def test_every_parameter_learns(self) -> None:
        encoder = self.build(4, dropout=0)
        encoder(torch.randn(4, 3, 16, 15, 2)).square().sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())

    def test_it_has_no_joints_to_keep_apart(self) -> None:
        with pytest.raises(ValueError, match="pooling: expected mean, as the maps of HCN have no joints"):
            self.build(pooling="parts")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "gcn"}, "encoder.architecture: expected one of st_gcn, agcn, ctrgcn, hcn, got gcn"),
        (
            {"architecture": "ctrgcn", "base_width": 12},
            "encoder.base_width: expected a positive multiple of 8 for ctrgcn",
        ),
        (
            {"architecture": "agcn", "feature_width": 6},
            "encoder.feature_width: expected a positive multiple of 4 for agcn",
        ),
        (
            {"architecture": "hcn", "pooling": "joints"},
            "encoder.pooling: expected mean for hcn, whose maps have no joints",
        ),
        ({"pooling": "max"}, "encoder.pooling: expected mean, joints or parts, got max"),
        ({"base_width": 0}, "encoder.base_width: expected a positive multiple of 1 for st_gcn, got 0"),
    ],
)
def test_configurations_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderConfig(**options)

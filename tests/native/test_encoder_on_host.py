"""Whole blocks of an encoder by the CUDA kernels on the host, in the place of those for the CPU.

The layers then run as they do on the CPU: a block is a chain, whose moments and norms one operation hands to the next.
Or as on a GPU, where convolutions over time are PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from on_host.operations import HostOperations
from torch import Tensor

from ikem.encoders import STGCN, load_published_state_dict
from ikem_ext import get_layout
from ikem_ext.nn import temporal_conv

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def kernels(compile_for_host: Callable[..., Path]) -> HostOperations:
    def library(family: str) -> Path:
        return compile_for_host(f"{family}.so", "-O1", "-fPIC", "-shared", HERE / f"{family}_on_host.cpp")

    return HostOperations(library)


@pytest.fixture
def on_host(kernels: HostOperations) -> Iterator[HostOperations]:
    """Has the operations on CPU tensors run the kernels for CUDA."""
    library = torch.library.Library("ikem_ext", "IMPL")
    kernels.called.clear()
    kernels.put_in_place(library)
    yield kernels
    library._destroy()


def test_published_encoder(on_host: HostOperations, golden: Callable[[str], dict[str, np.ndarray]]) -> None:
    arrays = {name: torch.from_numpy(value) for name, value in golden("st_gcn_encoder").items()}
    encoder = STGCN(get_layout("ntu25"), base_width=4, feature_width=24).double().eval()
    parameters = {name.removeprefix("param/"): value for name, value in arrays.items() if name.startswith("param/")}
    load_published_state_dict(encoder, parameters)
    torch.testing.assert_close(encoder(arrays["input"]), arrays["pooled"], rtol=0, atol=1e-9)
    assert on_host.called == {"graph_conv", "temporal_conv", "temporal_conv_normed", "batch_norm"}


def train(golden: Callable[[str], dict[str, np.ndarray]]) -> dict[str, Tensor]:
    """Features, gradients and running statistics of the published encoder in training, with dropout."""
    arrays = {name: torch.from_numpy(value) for name, value in golden("st_gcn_encoder").items()}
    encoder = STGCN(get_layout("ntu25"), base_width=4, feature_width=24, dropout=0.5).double().train()
    parameters = {name.removeprefix("param/"): value for name, value in arrays.items() if name.startswith("param/")}
    load_published_state_dict(encoder, parameters)
    torch.manual_seed(0)
    x = arrays["input"].requires_grad_()
    features = encoder(x)
    features.square().sum().backward()
    gradients = {f"gradient of {name}": each.grad for name, each in encoder.named_parameters()}
    return {"features": features.detach(), "gradient of x": x.grad, **gradients, **dict(encoder.named_buffers())}


@pytest.mark.parametrize(
    ("over_frames", "called"),
    [
        pytest.param(True, {"temporal_conv_normed_backward"}, id="as on a CPU"),
        pytest.param(False, set(), id="as on a GPU"),
    ],
)
def test_training_of_the_published_encoder_is_that_on_the_cpu(
    over_frames: bool,
    called: set[str],
    kernels: HostOperations,
    golden: Callable[[str], dict[str, np.ndarray]],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Forward and backward, dropout and running statistics included: all of a block's chain."""
    truth = train(golden)
    on_host: HostOperations = request.getfixturevalue("on_host")
    if not over_frames:
        monkeypatch.setattr(temporal_conv, "is_over_frames", lambda conv: False)
    found = train(golden)
    assert {"graph_conv_moments", "batch_norm", "batch_norm_backward", *called} <= on_host.called
    assert over_frames or not any(name.startswith("temporal_conv") for name in on_host.called)
    # What stands before a norm that takes it out has no gradient but for rounding.
    largest = max(each.abs().max().item() for each in truth.values())
    for name, expected in truth.items():
        torch.testing.assert_close(found[name], expected, rtol=1e-8, atol=1e-11 * largest, msg=f"{name}: {{}}".format)

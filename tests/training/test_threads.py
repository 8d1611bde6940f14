"""How many threads there are changes no bit of what is learned."""

from __future__ import annotations

import pytest
import torch
from operation_checks import by_threads
from torch import Tensor

from ikem.encoders import STGCN
from ikem_ext import get_layout
from ikem_ext.bench.step.batch import Sizes, random_batch
from ikem_ext.bench.step.ours import Ours, pretraining
from ikem_ext.bench.step.run import Run


def assert_same_bits(made: list[dict[str, Tensor]]) -> None:
    first, *others = made
    for other in others:
        assert [name for name, each in first.items() if not torch.equal(each, other[name])] == []


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
def test_gradients_of_a_whole_encoder(dtype: torch.dtype | None) -> None:
    torch.manual_seed(0)
    encoder, clips = STGCN(get_layout("ntu25")), torch.randn(4, 3, 50, 25, 2)

    def gradients() -> dict[str, Tensor]:
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            features = encoder(clips)
        made = torch.autograd.grad(features.square().sum(), list(encoder.parameters()))
        return {"features": features, **dict(zip(dict(encoder.named_parameters()), made, strict=True))}

    assert_same_bits(by_threads(gradients))


def test_a_step_of_pretraining_with_the_exchange() -> None:
    batch = random_batch(4, torch.device("cpu"))

    def weights() -> dict[str, Tensor]:
        torch.manual_seed(0)
        method = pretraining(2)(Sizes(clips=4, keys=64))
        Run(Ours(method), batch, torch.device("cpu"), torch.float32)()
        return method.state_dict()

    assert_same_bits(by_threads(weights))

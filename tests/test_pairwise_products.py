from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operation_checks import Arguments, OperationChecks, non_contiguous
from torch import Tensor

import ikem_ext
from ikem_ext import reference


class TestPairwiseProducts(OperationChecks):
    operation = staticmethod(ikem_ext.pairwise_products)
    reference = staticmethod(reference.pairwise_products)
    differentiable = ("x",)
    autocast_dtype = torch.bfloat16
    ulps = 4  # sums of other orders: of few numbers, either may be lucky
    batch_axes: ClassVar[dict[str, int]] = {"x": 0}

    def inputs(self, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
        torch.manual_seed(seed)
        channels, joints = ((1, 7), (3, 17), (16, 25))[seed % 3]
        x = torch.randn(3, 2 * 2 * channels, 5, joints, dtype=torch.float64)
        layout = torch.channels_last if seed == 2 else torch.contiguous_format
        return {"x": x.to(device, dtype).contiguous(memory_format=layout), "parts": 2}

    # It is for the CPU alone.
    @pytest.fixture(autouse=True)
    def _on_the_cpu(self, request: pytest.FixtureRequest) -> None:
        if request.node.get_closest_marker("gpu"):
            pytest.skip("not built for CUDA")

    def native_calls(self, arguments: Arguments) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        operations, x, parts = torch.ops.ikem_ext, arguments["x"], arguments["parts"]
        yield operations.pairwise_products.default, (x, parts)
        x = x.detach()
        gradient = torch.randn_like(ikem_ext.pairwise_products(x, parts))
        yield operations.pairwise_products_backward.default, (gradient, x, parts)
        yield operations.pairwise_products_backward.default, (non_contiguous(gradient), non_contiguous(x), parts)

    @pytest.mark.parametrize("parts", [0, -1, 3, 4])
    def test_parts_that_do_not_divide_the_channels_are_refused(self, parts: int) -> None:
        message = rf"^parts: expected to divide half the 4 channels of x, got {parts}$"
        with pytest.raises(ValueError, match=message):
            ikem_ext.pairwise_products(torch.zeros(2, 4, 5, 7), parts)


def written_out(x: Tensor, parts: int) -> Tensor:
    """Pair by pair."""
    n, channels, _, joints = x.shape
    y = x.new_zeros(n, parts, joints, joints)
    for k, part in enumerate(x.split(channels // parts, 1)):
        a, b = part.chunk(2, 1)
        for v in range(joints):
            for w in range(joints):
                y[:, k, v, w] = (a[..., v] * b[..., w]).sum((1, 2))
    return y


@settings(max_examples=50)
@given(st.tuples(st.integers(0, 3), *(st.integers(1, 9) for _ in range(4))), st.booleans())
def test_formula_written_out(sizes: tuple[int, ...], channels_last: bool) -> None:
    n, parts, channels, frames, joints = sizes
    x = torch.randn(n, parts * 2 * channels, frames, joints, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    torch.testing.assert_close(ikem_ext.pairwise_products(x, parts), written_out(x, parts))


def test_many_frames_are_summed_tile_by_tile() -> None:
    x = torch.randn(1, 2 * 40, 300, 25, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    results = []
    for function in (ikem_ext.pairwise_products, reference.pairwise_products):
        leaf = x.clone().requires_grad_()
        y = function(leaf, 1)
        results.append((y, *torch.autograd.grad(y.square().sum(), leaf)))
    torch.testing.assert_close(*results)
    assert results[0][1].is_contiguous(memory_format=torch.channels_last)

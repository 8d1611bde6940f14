from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ikem_ext


def written_out(x: Tensor, weight: Tensor, bias: Tensor | None, adjacency: Tensor) -> Tensor:
    """The formula for one clip, loop by loop: x (C_in, T, V), adjacency (K, V, W) or (K, C_out, V, W)."""
    parts, channels = weight.shape[:2]
    y = x.new_zeros(channels, x.shape[1], adjacency.shape[-1])
    for k in range(parts):
        for o in range(channels):
            transformed = torch.tensordot(weight[k, o], x, dims=1) + (0 if bias is None else bias[k, o])
            y[o] += transformed @ (adjacency[k] if adjacency.dim() == 3 else adjacency[k, o])
    return y


def arguments(n: int, c_in: int, c_out: int, t: int, v: int, w: int, k: int, per: str) -> tuple[Tensor, ...]:
    adjacency = {"shared": (k, v, w), "clip": (n, k, v, w), "channel": (n, k, c_out, v, w)}[per]
    shapes = (n, c_in, t, v), (k, c_out, c_in), (k, c_out), adjacency
    return tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)


sizes = st.tuples(
    st.integers(0, 3),
    *(st.integers(1, 7) for _ in range(5)),
    st.integers(1, 4),
    st.sampled_from(("shared", "clip", "channel")),
)


@settings(max_examples=50, deadline=None)
@given(sizes, st.booleans())
def test_formula_written_out(sizes: tuple, biased: bool) -> None:
    x, weight, bias, adjacency = arguments(*sizes)
    y = ikem_ext.graph_conv(x, weight, bias if biased else None, adjacency)
    assert y.shape == (x.shape[0], weight.shape[1], x.shape[2], adjacency.shape[-1])
    for n in range(len(x)):
        own = adjacency if sizes[-1] == "shared" else adjacency[n]
        torch.testing.assert_close(y[n], written_out(x[n], weight, bias if biased else None, own))


@pytest.mark.parametrize("per", ["shared", "clip", "channel"])
def test_groups_are_independent(per: str) -> None:
    groups = [arguments(2, 3, 4, 5, 6, 7, 3, per) for _ in range(3)]
    together = ikem_ext.graph_conv(*(torch.stack(each) for each in zip(*groups, strict=True)))
    for y, each in zip(together, groups, strict=True):
        torch.testing.assert_close(y, ikem_ext.graph_conv(*each))


def test_golden_layer_of_st_gcn(golden) -> None:
    """The published graph convolution: its 1x1 convolution holds the parts of the graph as channels."""
    arrays = {name: torch.from_numpy(array) for name, array in golden("layer_st_gcn_conv_temporal_graphical").items()}
    x = arrays["input"].requires_grad_()
    weight, bias = (arrays[f"param/conv.{name}"].requires_grad_() for name in ("weight", "bias"))
    y = ikem_ext.graph_conv(x, weight.view(3, 16, 6), bias.view(3, 16), arrays["adjacency"])
    torch.testing.assert_close(y, arrays["output"], rtol=1e-9, atol=1e-9)
    y.backward(arrays["cotangent"])
    torch.testing.assert_close(x.grad, arrays["grad_input"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(weight.grad, arrays["grad/conv.weight"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(bias.grad, arrays["grad/conv.bias"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("per", ["shared", "clip", "channel"])
def test_gradients(per: str) -> None:
    inputs = tuple(x.requires_grad_() for x in arguments(2, 3, 4, 2, 5, 6, 3, per))
    assert torch.autograd.gradcheck(ikem_ext.graph_conv, inputs)


def test_autocast_computes_in_its_dtype() -> None:
    x, weight, bias, adjacency = (a.float() for a in arguments(2, 3, 4, 5, 6, 6, 3, "shared"))
    with torch.autocast("cpu", torch.bfloat16):
        y = ikem_ext.graph_conv(x, weight, bias, adjacency)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), ikem_ext.graph_conv(x, weight, bias, adjacency), rtol=0.02, atol=0.1)


def test_compiles_without_graph_breaks() -> None:
    inputs = arguments(2, 3, 4, 5, 6, 6, 3, "shared")
    compiled = torch.compile(ikem_ext.graph_conv, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), ikem_ext.graph_conv(*inputs))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(2, 3, 5)}, ValueError, r"x: expected shape \(N, C_in, T, V\) or \(G, N, C_in, T, V\)"),
        ({"weight": torch.zeros(3, 4, 2)}, ValueError, r"weight: expected shape .* C_in=3, got \(3, 4, 2\)"),
        ({"bias": torch.zeros(3, 5)}, ValueError, r"bias: expected shape \(K, C_out\) with C_out=4, K=3, got \(3, 5\)"),
        ({"adjacency": torch.zeros(3, 5, 6)}, ValueError, r"adjacency: .* V=6, got \(3, 5, 6\)"),
        ({"adjacency": torch.zeros(3, 6, 6).double()}, TypeError, "adjacency: expected torch.float32 as x has"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Tensor], error: type[Exception], message: str) -> None:
    names = ("x", "weight", "bias", "adjacency")
    good = dict(zip(names, (a.float() for a in arguments(2, 3, 4, 5, 6, 6, 3, "shared")), strict=True))
    with pytest.raises(error, match=message):
        ikem_ext.graph_conv(**{**good, **change})

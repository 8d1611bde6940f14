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

NAMES = ("x", "weight", "bias", "relations", "mixing")


def arguments(n: int, c_in: int, c_out: int, t: int, v: int, w: int, k: int, r: int) -> dict[str, Tensor]:
    shapes = (n, c_in, t, v), (k, c_out, c_in), (k, c_out), (n, k, r, v, w), (k, c_out, r)
    return {name: torch.randn(shape, dtype=torch.float64) for name, shape in zip(NAMES, shapes, strict=True)}


class TestRefinedGraphConv(OperationChecks):
    operation = staticmethod(ikem_ext.refined_graph_conv)
    reference = staticmethod(reference.refined_graph_conv)
    differentiable = NAMES
    autocast_dtype = torch.bfloat16
    ulps = 4  # sums of other orders: of few numbers, either may be lucky
    batch_axes: ClassVar[dict[str, int]] = {"x": 0, "relations": 0}

    def inputs(self, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
        """Channels and relations that fill no vector, and more than one block of channels."""
        torch.manual_seed(seed)
        c_in, c_out, relations = ((3, 18, 2), (18, 3, 1), (16, 40, 17))[seed % 3]
        values = arguments(3, c_in, c_out, 5, 6, 7, 3, relations)
        return {name: value.to(device, dtype) for name, value in values.items()}

    # It is for the CPU alone.
    @pytest.fixture(autouse=True)
    def _on_the_cpu(self, request: pytest.FixtureRequest) -> None:
        if request.node.get_closest_marker("gpu"):
            pytest.skip("not built for CUDA")

    def native_calls(self, arguments: Arguments) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        operations = torch.ops.ikem_ext
        yield operations.refined_graph_conv.default, tuple(arguments.values())
        plain = [value.detach() for value in arguments.values()]
        gradient = torch.ones_like(ikem_ext.refined_graph_conv(*plain))
        last = non_contiguous(gradient)
        for wanted in ((True,) * 5, (False, True, False, True, False), (True, False, False, False, True)):
            yield operations.refined_graph_conv_backward.default, (gradient, *plain, *wanted)
            yield operations.refined_graph_conv_backward.default, (last, *map(non_contiguous, plain), *wanted)

    def test_no_relations_are_refused(self) -> None:
        values = self.inputs()
        values |= {name: value[..., :0] for name, value in values.items() if name == "mixing"}
        values["relations"] = values["relations"][:, :, :0]
        with pytest.raises(ValueError, match="mixing: expected at least one relation, got none"):
            ikem_ext.refined_graph_conv(**values)

    @pytest.mark.parametrize("name", NAMES)
    def test_bad_shapes_are_named(self, name: str) -> None:
        values = self.inputs()
        with pytest.raises(ValueError, match=rf"^(?!.*shape \(\)){name}: expected shape"):
            ikem_ext.refined_graph_conv(**{**values, name: values[name][None]})


sizes = st.tuples(st.integers(0, 3), *(st.integers(1, 40) for _ in range(2)), *(st.integers(1, 8) for _ in range(5)))


@settings(max_examples=50)
@given(sizes, st.booleans(), st.booleans())
def test_it_is_a_graph_convolution_by_what_is_mixed(sizes: tuple, biased: bool, channels_last: bool) -> None:
    values = arguments(*sizes)
    if channels_last:
        values["x"] = values["x"].contiguous(memory_format=torch.channels_last)
    leaves = [value.requires_grad_() for name, value in values.items() if biased or name != "bias"]
    x, weight, *bias, relations, mixing = leaves
    adjacency = torch.einsum("kor,nkrvw->nkovw", mixing, relations)
    plain = ikem_ext.graph_conv(x, weight, *(bias or [None]), adjacency)
    ours = ikem_ext.refined_graph_conv(x, weight, *(bias or [None]), relations, mixing)
    assert ours.stride() == plain.stride()
    torch.testing.assert_close(ours, plain)
    cotangent = torch.randn_like(plain)
    for a, b in zip(*(torch.autograd.grad(each, leaves, cotangent) for each in (ours, plain)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("clips", [1, 2])
def test_clips_of_many_frames_are_cut_into_tiles(clips: int) -> None:
    """And into several chunks, whose sums for the relations are added up."""
    values = {name: value.requires_grad_() for name, value in arguments(clips, 4, 5, 700, 5, 5, 2, 3).items()}
    results = []
    for function in (ikem_ext.refined_graph_conv, reference.refined_graph_conv):
        y = function(**values)
        results.append((y, *torch.autograd.grad(y.square().sum(), [*values.values()])))
    torch.testing.assert_close(*results)


def test_the_adjacency_is_never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is its gradient: no tensor that is made has its size."""
    values = {name: value.requires_grad_() for name, value in arguments(2, 4, 64, 3, 9, 9, 2, 3).items()}
    size = 2 * 2 * 64 * 9 * 9
    made = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            made.extend(each.numel() for each in torch.utils._pytree.tree_leaves(result) if isinstance(each, Tensor))
            return result

    with Sizes():
        ikem_ext.refined_graph_conv(**values).sum().backward()
    assert made and max(made) < size

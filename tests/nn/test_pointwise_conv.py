from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ikem.encoders import AGCN, CTRGCN, STGCN
from ikem_ext import get_layout
from ikem_ext.nn import PointwiseConv, stgcn

LAYOUT = get_layout("sbu15")
MEMORY_FORMATS = (torch.contiguous_format, torch.channels_last)


def twins(stride: int) -> tuple[PointwiseConv, nn.Conv2d]:
    torch.manual_seed(0)
    ours = PointwiseConv(6, 8, stride)
    torch.manual_seed(0)
    return ours, nn.Conv2d(6, 8, 1, (stride, 1))


def results(conv: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y = conv(x)
    return [y.detach(), *torch.autograd.grad(y.sin().sum(), [x, *conv.parameters()])]


def test_state_and_initialization_are_those_of_a_strided_convolution() -> None:
    ours, plain = (each.state_dict() for each in twins(2))
    assert list(ours) == list(plain)
    assert all(torch.equal(ours[name], plain[name]) for name in plain)


@pytest.mark.parametrize("memory_format", MEMORY_FORMATS)
@pytest.mark.parametrize("frames", [1, 2, 9, 12])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_results_are_those_of_a_strided_convolution(
    stride: int, frames: int, memory_format: torch.memory_format
) -> None:
    ours, plain = (each.double() for each in twins(stride))
    x = torch.randn(4, 6, frames, 5, dtype=torch.float64).to(memory_format=memory_format)
    made, expected = results(ours, x), results(plain, x)
    torch.testing.assert_close(made, expected)
    if made[0].shape[2] > 1:  # one frame's strides do not tell
        assert all(each.is_contiguous(memory_format=memory_format) for each in made[:2])


def test_dtype_under_autocast() -> None:
    ours, plain = twins(2)
    x = torch.randn(4, 6, 9, 5)
    with torch.autocast("cpu", torch.bfloat16):
        made, expected = results(ours, x), results(plain, x)
    for actual, like in zip(made, expected, strict=True):
        assert actual.dtype == like.dtype
        torch.testing.assert_close(actual, like, rtol=2e-2, atol=2e-2)


def test_compiles_in_one_graph() -> None:
    ours, _ = twins(2)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for memory_format in MEMORY_FORMATS:
        x = torch.randn(4, 6, 9, 5).to(memory_format=memory_format)
        torch.testing.assert_close(results(compiled, x), results(ours, x))


def test_other_devices_run_the_strided_convolution() -> None:
    ours, _ = twins(2)
    assert ours.to("meta")(torch.empty(4, 6, 9, 5, device="meta")).shape == (4, 8, 5, 5)


class Convolutions(TorchDispatchMode):
    """Collects kernel sizes and strides of all convolutions that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.convolution.default:
            self.seen.append((tuple(args[1].shape[2:]), tuple(args[3])))
        elif function is torch.ops.aten.convolution_backward.default:
            self.seen.append((tuple(args[2].shape[2:]), tuple(args[4])))
        return function(*args, **kwargs or {})


def models() -> Iterator[Callable[[], Tensor]]:
    clips = torch.randn(2, 3, 12, LAYOUT.num_joints, 1)
    for encoder in (STGCN, AGCN, CTRGCN):
        yield lambda encoder=encoder: encoder(LAYOUT, base_width=8, feature_width=32)(clips)
    yield lambda: stgcn.Model(3, 5, {"layout": "sbu15", "strategy": "spatial"}, True)(clips)
    parts = LAYOUT.adjacency()
    for frames in (1, 3):
        yield lambda frames=frames: stgcn.st_gcn(3, 8, (frames, len(parts)), stride=2)(clips[..., 0], parts)[0]
        yield lambda frames=frames: stgcn.ConvTemporalGraphical(3, 8, len(parts), frames, 2)(clips[..., 0], parts)[0]


def test_no_model_runs_a_strided_pointwise_convolution_on_the_cpu() -> None:
    with Convolutions() as convolutions:
        for model in models():
            model().square().sum().backward()
    assert ((1, 1), (1, 1)) in convolutions.seen
    assert [kernel for kernel, stride in convolutions.seen if max(kernel) == 1 < max(stride)] == []

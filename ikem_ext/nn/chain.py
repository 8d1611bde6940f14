"""Layers one after another, and branches side by side, in fewer passes over memory than layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from .folding import Slot
from .multi_scale import max_over_frames, multi_scale_conv
from .normalized import convolved, convolved_before, followed, normalized, normalized_apart

__all__ = ["branched", "chained", "layers", "slots"]

# A unit of convolution over time, of whatever project, holds no more than these, and applies the first three.
_UNIT = ("conv", "bn", "drop", "relu")


def slots(owner: nn.Module, *names: str) -> list[Slot]:
    """Where the layers stand that modules of ``owner`` consist of, in the order in which they are applied.

    A ``nn.Sequential`` applies what it holds; a unit of convolution over time, as those of all projects are made, its
    ``conv``, then ``bn``, then, if it has one, ``drop``. Any other module is a layer.
    """
    found: list[Slot] = []
    for name in names:
        inside = _applied(module := _held(owner, name))
        found += slots(module, *inside) if inside else [(owner, name)]
    return found


def layers(owner: nn.Module, *names: str) -> list[nn.Module]:
    """The layers that modules of ``owner`` consist of, in the order in which they are applied."""
    return [_held(*slot) for slot in slots(owner, *names)]


def _held(owner: nn.Module, name: str) -> nn.Module:
    module = owner._modules[name]
    assert module is not None
    return module


def _applied(module: nn.Module) -> list[str]:
    """The names of the modules that this one applies one after another; none if that is not what it does."""
    inside = list(module._modules)
    if type(module).forward is nn.Sequential.forward:
        return inside
    if {"conv", "bn"} <= set(inside) <= set(_UNIT) and not module._parameters and not module._buffers:
        return [name for name in _UNIT[:3] if name in inside]
    return []


def chained(
    x: Tensor,
    layers: Sequence[nn.Module],
    *,
    residual: Tensor | None = None,
    relu: bool = False,
    moments: Tensor | None = None,
) -> Tensor:
    """What layers give one after another; then, if wanted, the sum with a residual, and ReLU.

    On the CPU convolutions over time compute as :class:`ikem_ext.nn.TemporalConv`, and a batch norm takes what follows
    it along, in one pass (:func:`ikem_ext.nn.normalized`): dropout, ReLU and, behind the last layer, the residual.

    Args:
        x: (N, C, T, V).
        layers: as :func:`layers` finds them.
        residual: of the shape of the result, cast to its dtype.
        relu: whether there is a ReLU at the end.
        moments: as of :func:`ikem_ext.nn.normalized`, of ``x``.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(4, 8, (9, 1), padding=(4, 0)), nn.BatchNorm2d(8))
        >>> x = torch.randn(2, 4, 50, 25)
        >>> torch.testing.assert_close(chained(x, layers(model, "0", "1"), relu=True), torch.relu(model(x)))
    """
    y, rest = x, list(layers)
    while rest:
        layer = rest.pop(0)
        if isinstance(layer, nn.Conv2d):
            y, moments = convolved_before(rest[0] if rest else None, layer, y)
        elif isinstance(layer, nn.BatchNorm2d) and _begin_with_relu_and_convolution(rest):
            rest.pop(0)
            y, moments = convolved(layer, cast(nn.Conv2d, rest.pop(0)), y, moments)
        elif isinstance(layer, nn.BatchNorm2d) or (isinstance(layer, nn.Identity) and y is not x):
            made, moments = moments, None
            dropout = _rate(rest.pop(0)) if rest and _can_be_taken_along(rest[0]) else 0.0
            if rest and type(rest[0]) is nn.ReLU:
                rest.pop(0)
                y = normalized(layer, y, dropout=dropout, relu=True, moments=made)
            elif rest:
                y = normalized(layer, y, dropout=dropout, moments=made)
            else:
                return normalized(layer, y, dropout=dropout, residual=residual, relu=relu, moments=made)
        else:
            y, moments = max_over_frames(layer, y) if isinstance(layer, nn.MaxPool2d) else layer(y), None
    if y is x and (residual is not None or relu):
        y = x.clone()  # `followed` may write over it
    return followed(y, dropout=0.0, residual=residual, relu=relu, fresh=False)


def _begin_with_relu_and_convolution(layers: Sequence[nn.Module]) -> bool:
    return len(layers) > 1 and type(layers[0]) is nn.ReLU and isinstance(layers[1], nn.Conv2d)


def _can_be_taken_along(layer: nn.Module) -> bool:
    return type(layer) is nn.Dropout and _rate(layer) < 1


def _rate(layer: nn.Module) -> float:
    return float(layer.p) if layer.training else 0.0  # type: ignore[arg-type]


def branched(x: Tensor, branches: nn.ModuleList, *, residual: Tensor | None = None, relu: bool = False) -> Tensor:
    """The channels that branches give side by side; then, if wanted, the sum with a residual, and ReLU.

    Args:
        x: (N, C, T, V).
        branches: each a convolution, or layers one after another with a convolution among them.
        residual: as of :func:`chained`.
        relu: likewise.

    Example:
        >>> branches = nn.ModuleList([nn.Conv2d(4, 2, 1), nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6))])
        >>> branched(torch.randn(2, 4, 50, 25), branches).shape
        torch.Size([2, 8, 50, 25])
    """
    chains = [layers(branches, name) for name in branches._modules]
    for chain in chains:
        while isinstance(chain[-1], nn.Identity) or (isinstance(chain[-1], nn.Dropout) and not _rate(chain[-1])):
            chain.pop()
    widths = [_width(chain) for chain in chains]
    norms = [chain[-1] for chain in chains]
    if not all(isinstance(norm, nn.BatchNorm2d) for norm in norms):
        return followed(_side_by_side(x, chains), dropout=0.0, residual=residual, relu=relu, fresh=False)
    y = _side_by_side(x, [chain[:-1] for chain in chains])
    return normalized_apart(norms, widths, y, residual=residual, relu=relu)


def _side_by_side(x: Tensor, chains: Sequence[Sequence[nn.Module]]) -> Tensor:
    """What the branches give; those that begin alike begin together, as in a multi-scale unit all but the last do."""
    *reduced, last = chains
    if not reduced or not all(_is_reduced(chain) for chain in reduced):
        return torch.cat([chained(x, chain) for chain in chains], 1)
    entries = [(chain[0], chain[1]) for chain in reduced]
    then = [partial(chained, layers=chain[3:]) for chain in reduced]
    return multi_scale_conv(x, entries, then, partial(chained, layers=last))


def _is_reduced(chain: Sequence[nn.Module]) -> bool:
    """Whether a branch begins with a 1x1 convolution, a norm, or what folding left of one, and ReLU."""
    if len(chain) < 3 or type(chain[0]) is not nn.Conv2d or type(chain[2]) is not nn.ReLU:
        return False
    conv, norm = chain[0], chain[1]
    return (
        isinstance(norm, nn.BatchNorm2d | nn.Identity)
        and (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)
        and conv.bias is not None
    )


def _width(chain: Sequence[nn.Module]) -> int:
    """How many channels the last convolution makes."""
    return [layer.out_channels for layer in chain if isinstance(layer, nn.Conv2d)][-1]

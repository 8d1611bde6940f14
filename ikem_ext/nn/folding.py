"""Models for inference, whose batch norms are part of the convolutions before them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import pairwise
from typing import Protocol, TypeGuard, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

__all__ = [
    "FoldsNorms",
    "Shift",
    "Slot",
    "fold",
    "fold_slots",
    "folded",
    "is_foldable",
    "is_parametrized",
    "scale_and_shift",
]

Model = TypeVar("Model", bound=nn.Module)

#: The module that holds a layer, and the name that it has there.
Slot = tuple[nn.Module, str]


@runtime_checkable
class FoldsNorms(Protocol):
    """A module that has batch norms behind convolutions of its own, and knows how they become one."""

    def fold_norms(self) -> None:
        """Make them one, in place; the module is in evaluation mode, and no gradients are recorded."""


class Shift(nn.Module):
    """Adds a number to each channel: what is left of a batch norm of which the scale alone was folded.

    Without gradients it is added in place.

    Args:
        shift: (C,).

    Example:
        >>> Shift(torch.tensor([1.0, 2.0]))(torch.zeros(1, 2, 1, 3)).flatten()
        tensor([1., 1., 1., 2., 2., 2.])
    """

    shift: Tensor

    def __init__(self, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, T, V) to the same shape, and without gradients to ``x`` itself."""
        shift = self.shift.to(x.dtype)[:, None, None]
        return x + shift if torch.is_grad_enabled() else x.add_(shift)


def is_foldable(norm: nn.Module) -> TypeGuard[_BatchNorm]:
    """Whether it is a batch norm that is a scale and a shift in evaluation mode."""
    return isinstance(norm, _BatchNorm) and norm.running_mean is not None


def is_parametrized(module: nn.Module) -> bool:
    """Whether weights of it, or of what it holds, are made of others, as by ``weight_norm``, and cannot be set."""
    return any(
        parametrize.is_parametrized(part)
        or any(isinstance(hook, (SpectralNorm, WeightNorm)) for hook in part._forward_pre_hooks.values())
        for part in module.modules()
    )


def scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    r"""Scale and shift, (C,) each, that a batch norm is in evaluation mode.

    .. math:: s = \gamma / \sqrt{\sigma^2 + \epsilon}, \qquad t = \beta - s \mu
    """
    assert norm.running_mean is not None and norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
        return scale, norm.bias - norm.running_mean * scale
    return scale, -norm.running_mean * scale


def folded(model: Model) -> Model:
    r"""A copy of a model for inference, in which convolutions take over the batch norms behind them.

    .. math:: s\,(W * x + b) + t = (s W) * x + (s b + t)

    This is done to a ``BatchNorm2d`` that comes right after a ``Conv2d`` in an ``nn.Sequential``, and in modules that
    have a method ``fold_norms``, which folds what they are made of: the units of :mod:`ikem_ext.nn` and the blocks of
    ``ikem``'s encoders. A sum over joints by an adjacency lies
    between the convolution and the norm of some; such a convolution takes over the scale, and the shift stays
    (:class:`Shift`). A norm without running statistics, one behind weights that are made of others (``weight_norm``,
    ``torch.nn.utils.parametrize``), and any other, stays as it is.

    Args:
        model: stays as it is, to the bit. Its state dict does not fit the copy.

    Returns:
        The copy, in evaluation mode and without gradients of its parameters. It gives the results of the model in
        evaluation mode within rounding: the products are other ones.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU()).eval()
        >>> x = torch.randn(2, 3, 50, 25)
        >>> torch.testing.assert_close(folded(model)(x), model(x))
        >>> folded(model)[1]
        Identity()
    """
    result = copy.deepcopy(model)
    fold(result)
    return result


@torch.no_grad()
def fold(model: nn.Module) -> None:
    """Makes of a model, in place, what :func:`folded` returns; its parameters are written over."""
    model.eval().requires_grad_(False)
    for module in list(model.modules()):
        if isinstance(module, FoldsNorms):
            if not is_parametrized(module):
                module.fold_norms()
        elif isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            fold_slots([(module, name) for name in module._modules])
    model.eval()  # what is new, too


def fold_slots(layers: Iterable[Slot]) -> None:
    """Has convolutions take over the norms right behind them, in place, where layers follow one another."""
    for (owner, name), (next_owner, next_name) in pairwise(layers):
        conv, norm = owner._modules[name], next_owner._modules[next_name]
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and is_foldable(norm):
            if is_parametrized(conv) or is_parametrized(norm):
                continue
            owner._modules[name] = fuse_conv_bn_eval(conv, norm)
            next_owner._modules[next_name] = nn.Identity()

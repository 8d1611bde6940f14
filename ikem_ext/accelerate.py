"""Replaces the graph convolutions of other projects' models by those of :mod:`ikem_ext.nn`, in place."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from .acceleration.interface import COMPILED, objection
from .acceleration.recipes import recipes_for
from .acceleration.report import Acceleration, Left, Replaced
from .acceleration.unknown import unknown_graph_convolutions
from .acceleration.verification import disagreement

__all__ = ["Acceleration", "Left", "Replaced", "accelerate"]


def accelerate(model: nn.Module, verify: bool = True) -> Acceleration:
    """Replaces the graph convolutions of a model built from another project's code by fast ones, in place.

    Units are recognized by the name of their class and by what they are made of, whatever module they come from:

    ========================  ==========================================  ==============================
    project                   class                                       replaced by
    ========================  ==========================================  ==============================
    ST-GCN                    ``ConvTemporalGraphical``                   :mod:`ikem_ext.nn.stgcn`
    2s-AGCN                   ``unit_gcn``                                :mod:`ikem_ext.nn.agcn`
    CTR-GCN                   ``unit_gcn``, ``CTRGC``                     :mod:`ikem_ext.nn.ctrgcn`
    MS-G3D                    ``MultiScale_GraphConv``                    :mod:`ikem_ext.nn.msg3d`
    PYSKL                     ``unit_gcn``, ``unit_aagcn``,               :mod:`ikem_ext.nn.pyskl`
                              ``unit_ctrgcn``, ``CTRGC``, ``MSGCN``
    ========================  ==========================================  ==============================

    A replacement takes over the parameters, buffers and modules inside (the very same objects, so an optimizer made
    before stays valid), hooks, training mode, device and dtype; names in the state dict stay. Call it before
    ``torch.compile``; before or after wrapping in ``DistributedDataParallel``.

    A unit is left as it is where something else could miss it: where its ``forward`` takes other arguments, by position
    or by name, or has other defaults; where its class has methods or attributes that the replacement has not, or
    overrides those of ``torch.nn.Module``; where modules inside have hooks, or it is compiled already.

    Args:
        model: the model; changed in place.
        verify: whether each unit is also run beside its replacement, both copied and given random weights, with one
            and with several clips, in training and in evaluation mode, in float64 where the device has it. Where they
            return something else (number, nesting, shapes, dtypes also under autocast, values), where gradients of
            any output, statistics or the arguments differ afterwards, where the original sets attributes, or does not
            run, it is left as it is.

    Returns:
        What was replaced; what was recognized but left, with the reason; and what looks like a graph convolution of a
        kind that is not known. Its ``undo()`` puts the originals back.

    Raises:
        TypeError: ``model`` is not a module.

    Example:
        >>> import torch, ikem_ext
        >>> class ConvTemporalGraphical(torch.nn.Module):  # as in ST-GCN's code
        ...     def __init__(self, in_channels, out_channels, kernel_size):
        ...         super().__init__()
        ...         self.kernel_size = kernel_size
        ...         self.conv = torch.nn.Conv2d(in_channels, out_channels * kernel_size, 1)
        ...
        ...     def forward(self, x, A):
        ...         x = self.conv(x).unflatten(1, (self.kernel_size, -1))
        ...         return torch.einsum("nkctv,kvw->nctw", x, A), A
        >>> model = torch.nn.ModuleDict({"gcn": ConvTemporalGraphical(3, 8, 3)})
        >>> print(ikem_ext.accelerate(model))
        replaced 1, left 0
          replaced gcn: stgcn.ConvTemporalGraphical
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    report = Acceleration()
    if recipes_for(model):
        report.left.append(Left("", "it is the model itself, with no module around it in which to replace it"))
        return report
    outcomes: dict[nn.Module, Replaced | Left] = {}  # a module may stand in several places
    for parent, child_name, name in _candidates(model, ""):
        original = parent.get_submodule(child_name)
        if original not in outcomes:
            outcomes[original] = _replacement(name, original, verify)
        outcome = outcomes[original]
        if isinstance(outcome, Replaced):
            report._places.append((parent, child_name, outcome))
    for parent, child_name, replaced in report._places:
        parent._modules[child_name] = replaced.unit
    report.replaced += [outcome for outcome in outcomes.values() if isinstance(outcome, Replaced)]
    report.left += [outcome for outcome in outcomes.values() if isinstance(outcome, Left)]
    report.unknown += unknown_graph_convolutions(model)
    return report


def _candidates(parent: nn.Module, prefix: str) -> Iterator[tuple[nn.Module, str, str]]:
    """Parent, name in the parent and whole name of the modules named like a unit; not those inside another."""
    for name, child in parent._modules.items():  # `named_children` would leave out one that stands there twice
        if child is None:
            continue
        if recipes_for(child):
            yield parent, name, prefix + name
        else:
            yield from _candidates(child, f"{prefix}{name}.")


def _replacement(name: str, original: nn.Module, verify: bool) -> Replaced | Left:
    fitting = [recipe for recipe in recipes_for(original) if recipe.fits(original)]
    if not fitting:
        return Left(name, f"a {type(original).__name__}, but not made like any that is known")
    if name.endswith("_orig_mod"):  # what `torch.compile` made of it holds on to its `forward`
        return Left(name, COMPILED)
    reason = ""
    for recipe in fitting:
        try:
            unit = recipe.replace(original)
            reason = objection(original, recipe.unit) or (disagreement(recipe, original) if verify else "")
        except Exception as error:  # whatever a foreign module may raise leaves it as it is
            reason = f"{type(error).__name__}: {error}"
        if not reason:
            return Replaced(name, original, unit)
    return Left(name, reason)

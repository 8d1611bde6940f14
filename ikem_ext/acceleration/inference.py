"""Folds a model's batch norms into the convolutions before them, in place; what stood there is kept."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..nn.folding import FoldsNorms, fold, is_parametrized
from ..nn.pointwise_conv import PointwiseConv
from ..nn.temporal_conv import TemporalConv
from .interface import has_hooks
from .recipe import OWN, random_like
from .report import Left, Place
from .verification import equal

_CONVOLUTIONS = (nn.Conv2d, TemporalConv, PointwiseConv)


@dataclass
class Folding:
    """Folds norms, and takes that back.

    Args:
        verify: whether each convolution that takes over a norm is run beside both.

    Attributes:
        norms: names of the norms that were folded.
        left: those behind a convolution that were not, with the reason.
        now: what stands in the place of a module.
    """

    verify: bool
    norms: list[str] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    now: dict[nn.Module, nn.Module] = field(default_factory=dict)
    _places: list[Place] = field(default_factory=list)
    _moved: list[tuple[nn.Module, nn.Module, Any]] = field(default_factory=list)
    _found: dict[nn.Module, bool] = field(default_factory=dict)

    def fold(self, parent: nn.Module, prefix: str = "") -> bool:
        """Folds the norms of what a module holds; whether there were any."""
        if parent in self._found:  # a module may stand in several places
            return self._found[parent]
        found = self._fold_pairs(parent, prefix)
        for name, child in list(parent._modules.items()):
            if isinstance(child, FoldsNorms):
                found |= self._fold_unit(parent, name, child, prefix + name)
            elif child is not None:
                found |= self.fold(child, f"{prefix}{name}.")
        if found:
            refuse_training(parent)
        self._found[parent] = found
        return found

    def _fold_unit(self, parent: nn.Module, name: str, unit: nn.Module, whole_name: str) -> bool:
        """Puts a copy of a unit that folds norms itself in its place."""
        if is_parametrized(unit):
            self.left.append(Left(whole_name, "it holds a module that is parametrized"))
            return False
        if unit not in self.now:
            copied = copy.deepcopy(unit)
            pairs = list(zip(unit.modules(), copied.modules(), strict=True))
            for before, now in pairs:  # hooks among it, which can still be removed
                vars(now).update({key: value for key, value in vars(before).items() if key not in OWN})
            fold(copied)
            norms = [key for key, part in unit.named_modules() if isinstance(part, _BatchNorm)]
            folded = [key for key in norms if not isinstance(copied.get_submodule(key), _BatchNorm)]
            if not folded:
                return False
            self.norms += [f"{whole_name}.{key}" for key in folded]
            self.now.update(pairs)
            refuse_training(copied)
        self._put(parent, name, self.now[unit])
        return True

    def _fold_pairs(self, parent: nn.Module, prefix: str) -> bool:
        """Folds the norms right behind convolutions in a Sequential."""
        if type(parent).forward is not nn.Sequential.forward:
            return False
        found = False
        for (name, conv), (norm_name, norm) in pairwise(list(parent._modules.items())):
            if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
                continue
            reason = _objection(conv, norm) or (_disagreement(conv, norm) if self.verify else "")
            if reason:
                self.left.append(Left(prefix + norm_name, reason))
                continue
            self._put(parent, name, _fused(conv, norm))
            self._put(parent, norm_name, nn.Identity().eval(), parent._modules[name])
            self.norms.append(prefix + norm_name)
            found = True
        return found

    def _put(self, parent: nn.Module, name: str, now: nn.Module, witness: nn.Module | None = None) -> None:
        """Puts a module in the place of another, which will go where this one, or a witness, goes."""
        before = parent._modules[name]
        assert before is not None
        witness = now if witness is None else witness
        self._places.append(Place(parent, name, before))
        self._moved.append((before, witness, _whereabouts(witness)))
        parent._modules[name] = now

    def undo(self) -> None:
        """Puts back what stood there, to the bit, on the device and in the dtype of now."""
        for module, found in self._found.items():
            if found:
                allow_training(module)
        for place in reversed(self._places):
            place.put_back()
        for before, witness, whereabouts in self._moved:
            if (now := _whereabouts(witness)) != whereabouts:
                before.to(*now)


def _whereabouts(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    parameter = next(module.parameters())
    return parameter.device, parameter.dtype


def _objection(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> str:
    """Why a norm cannot become a part of a convolution; empty where it can."""
    if has_hooks(conv) or has_hooks(norm):
        return "it or the convolution before it has hooks, which would no longer run"
    if type(norm).forward is not nn.BatchNorm2d.forward:
        return f"it is a {type(norm).__name__}, with its own forward"
    if type(conv).forward not in [each.forward for each in _CONVOLUTIONS]:
        return f"the convolution before it is a {type(conv).__name__}, with its own forward"
    if is_parametrized(conv) or is_parametrized(norm):
        return "it or the convolution before it is parametrized"
    return "" if norm.running_mean is not None else "it has no running statistics"


@torch.no_grad()
def _fused(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Module:
    return fuse_conv_bn_eval(conv, norm).requires_grad_(False)


@torch.no_grad()
def _disagreement(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> str:
    """Runs copies of both beside the convolution that takes over the norm."""
    conv, norm = copy.deepcopy(conv), copy.deepcopy(norm)
    if conv.weight.device.type != "mps":
        conv.double(), norm.double()
    sizes = zip(conv.kernel_size, conv.dilation, conv.stride, strict=True)
    x = random_like(
        conv.weight, 2, conv.in_channels, *(size * dilation + 3 * stride for size, dilation, stride in sizes)
    )
    return "" if equal(norm(conv(x)), _fused(conv, norm)(x)) else "the output would differ from the original's"


def refuse_training(module: nn.Module) -> None:
    """Has it raise an error when it, or what holds it, is put into training mode."""
    vars(module).setdefault("train", partial(_train, module))


def allow_training(module: nn.Module) -> None:
    """Takes that back."""
    if getattr(vars(module).get("train"), "func", None) is _train:
        del vars(module)["train"]


def _train(module: nn.Module, mode: bool = True) -> nn.Module:
    if mode:
        raise RuntimeError(
            f"{type(module).__name__}: expected to stay in evaluation mode, as accelerate(inference=True) made batch "
            "norms a part of convolutions; undo() of its report makes the model one for training again"
        )
    return type(module).train(module, mode)

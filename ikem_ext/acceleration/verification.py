"""Runs a unit beside its replacement."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import keystr, tree_flatten, tree_flatten_with_path, tree_map

from ..nn.folding import folded
from .recipe import Arguments, Plan, random_like

# Clips and frames: nothing that depends on either, or takes one clip for none, may go unnoticed.
_SIZES = ((2, 6), (1, 9))


def disagreement(plan: Plan, original: nn.Module, inference: bool = False) -> str:
    """Runs copies of the original and of its replacement; says what differs, or nothing.

    Args:
        plan: how the replacement is made.
        original: stays as it is.
        inference: whether the replacement's norms are folded, and it is for evaluation alone.
    """
    theirs = copy.deepcopy(original)
    if next(theirs.parameters()).device.type != "mps":
        theirs.double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(random_like(parameter, *parameter.shape) / 2)
    dropping = [] if inference else [name for name, part in theirs.named_modules() if _drops(part)]
    for size, dropped in [(size, "") for size in _SIZES] + [(_SIZES[0], name) for name in dropping]:
        _drop_nothing_but(theirs, dropped)
        modes = (False,) if inference else (True,) if dropped else (True, False)
        ours = _replacement(plan, theirs, inference)
        for arguments in plan.recipe.arguments(ours, *size):
            for training in modes:
                try:
                    expected = _run(copy.deepcopy(theirs).train(training), arguments, plan, inference)
                except Exception as error:  # a foreign module may raise whatever it likes
                    if size != _SIZES[0]:
                        break  # it is not made for such a size
                    device = arguments[0].device
                    return f"it does not run on {device} ({error}); move the model where it runs, or do not verify"
                if expected.set_attribute:
                    return f"its forward sets {expected.set_attribute}, which the replacement's does not"
                actual = _run(copy.deepcopy(ours).train(training), arguments, plan, inference)
                if difference := _difference(expected, actual):
                    mode = "training" if training else "evaluation"
                    return f"{difference} in {mode} mode, for (clips, frames) = {size}"
    return _disagreement_under_autocast(plan, theirs, inference)


def _replacement(plan: Plan, original: nn.Module, inference: bool) -> nn.Module:
    unit = plan.build(copy.deepcopy(original))
    return folded(unit) if inference else unit


def _drops(module: nn.Module) -> bool:
    return isinstance(module, _DropoutNd) and module.p > 0


def _drop_nothing_but(unit: nn.Module, dropped: str) -> None:
    """Has one dropout module drop everything and the others nothing: what they draw is not the same for both."""
    for name, part in unit.named_modules():
        if isinstance(part, _DropoutNd):
            part.p = float(name == dropped)


def _disagreement_under_autocast(plan: Plan, theirs: nn.Module, inference: bool) -> str:
    """Of what kind the outputs are there; what they hold is rounded in other places."""
    device = next(theirs.parameters()).device.type
    if not torch.amp.is_autocast_available(device):
        return ""
    theirs = theirs.float().eval()
    ours = _replacement(plan, theirs, inference)
    for arguments in plan.recipe.arguments(ours, *_SIZES[0]):
        with torch.autocast(device), torch.set_grad_enabled(not inference):
            try:
                expected = theirs.forward(*arguments)
            except Exception:
                continue  # it does not run under autocast
            if difference := _difference_in_kind(expected, ours.forward(*arguments)):
                return f"{difference} under autocast"
    return ""


@dataclass(frozen=True)
class _Outcome:
    """What one call did.

    Args:
        output: what it returned.
        values: gradients, statistics, and the arguments as it left them, by what to call them.
        set_attribute: the name of an attribute that it set; empty for none.
    """

    output: Any
    values: dict[str, Tensor | None]
    set_attribute: str


def _run(unit: nn.Module, arguments: Arguments, plan: Plan, inference: bool) -> _Outcome:
    """One call; the random state stays, so that the next call draws the same. Without gradients for inference."""
    constants = plan.recipe.constants
    named = dict(zip(inspect.signature(unit.forward).parameters, arguments, strict=False))
    leaves = {name: value.clone().requires_grad_() for name, value in named.items()}
    passed = {name: leaf.clone() for name, leaf in leaves.items()}  # no leaves: these may be overwritten
    before = _attributes(unit, constants)
    device = arguments[0].device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.set_grad_enabled(not inference):
        output = unit.forward(*passed.values())  # not called, so that hooks do not run
        wanted = leaves | {f"self.{name}": each for name, each in unit.named_parameters() if each.requires_grad}
        made = [each for each in _tensors(output) if each.requires_grad]
        cotangents = [random_like(each, *each.shape) for each in made]
        gradients = torch.autograd.grad(made, list(wanted.values()), cotangents, allow_unused=True) if made else ()
    values: dict[str, Tensor | None] = {f"{name}, after the call,": each for name, each in passed.items()}
    if not inference:  # where the replacement has other ones
        values |= {f"self.{name}": each for name, each in unit.named_buffers()}
        values |= {f"self.{name}": vars(unit)[name] for name in constants if name in vars(unit)}
        values |= {f"the gradient of {name}": each for name, each in zip(wanted, gradients, strict=bool(made))}
    after = _attributes(unit, constants)
    changed = (name for name in after if name not in before or not _same(after[name], before[name]))
    return _Outcome(output, values, next(changed, ""))


def _tensors(output: Any) -> Iterator[Tensor]:
    return (each for each in tree_flatten(output)[0] if isinstance(each, Tensor))


def _attributes(unit: nn.Module, constants: tuple[str, ...]) -> dict[str, tuple[int, tuple[Any, ...]]]:
    """All attributes of it and of the modules inside, but for parameters, buffers, and constants, compared as those."""
    return {
        f"{prefix}.{name}": _held(value)
        for prefix, module in unit.named_modules(prefix="self")
        for name, value in vars(module).items()
        if name not in ("_parameters", "_buffers", "_modules", *constants)
    }


def _held(value: Any) -> tuple[int, tuple[Any, ...]]:
    """The version of a tensor, and what a container holds."""
    if isinstance(value, dict):
        return 0, (value, *value.keys(), *value.values())
    if isinstance(value, list | set):
        return 0, (value, *value)
    return (value._version if isinstance(value, Tensor) else 0), (value,)


def _same(a: tuple[int, tuple[Any, ...]], b: tuple[int, tuple[Any, ...]]) -> bool:
    return a[0] == b[0] and len(a[1]) == len(b[1]) and all(x is y for x, y in zip(a[1], b[1], strict=True))


def _difference(expected: _Outcome, actual: _Outcome) -> str:
    if difference := _difference_in_kind(expected.output, actual.output):
        return difference
    outputs = (tree_flatten_with_path(each.output)[0] for each in (expected, actual))
    pairs = [(_named(path), value, other) for (path, value), (_, other) in zip(*outputs, strict=True)]
    pairs += [(name, value, actual.values.get(name)) for name, value in expected.values.items()]
    for name, value, other in pairs:
        if not equal(value, other):
            return f"{name} would differ from the original's"
    return ""


def _difference_in_kind(expected: Any, actual: Any) -> str:
    """Number, nesting, types, shapes, dtypes and memory layouts of what was returned."""
    (theirs, their_nesting), (ours, our_nesting) = tree_flatten_with_path(expected), tree_flatten_with_path(actual)
    if their_nesting != our_nesting:
        return f"it returns {_types(expected)}, the replacement {_types(actual)},"
    for (path, value), (_, other) in zip(theirs, ours, strict=True):
        if type(value) is not type(other):
            return f"{_named(path)} is {type(value).__name__}, the replacement's {type(other).__name__},"
        if isinstance(value, Tensor):
            for what in ("shape", "dtype", "device", "requires_grad"):
                if getattr(value, what) != getattr(other, what):
                    return f"the {what} of {_named(path)} would differ from the original's"
            if value.is_contiguous() and not other.is_contiguous():
                return f"{_named(path)} would no longer be contiguous"
    return ""


def _named(path: Any) -> str:
    return f"the output{keystr(path)}"


class _Bare(str):
    __slots__ = ()
    __repr__ = str.__str__


def _types(output: Any) -> str:
    return repr(tree_map(lambda value: _Bare(type(value).__name__), output))


def equal(value: Any, other: Any) -> bool:
    """Whether numbers agree to rounding; all else by what it is."""
    if not isinstance(value, Tensor) or not isinstance(other, Tensor):
        return bool(value is other or value == other)
    if value.shape != other.shape:
        return False
    tolerance = 1e-8 if value.dtype == torch.float64 else 1e-3
    difference, size = (
        float(each.abs().max()) if each.numel() else 0.0 for each in (value.detach() - other.detach(), value.detach())
    )
    return difference <= tolerance * max(1.0, size)

"""What tells, without running it, that a module cannot be replaced: all by which others may reach it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from torch import nn

COMPILED = "it is compiled, and would go on being called as it was compiled"

# Overridden by every class, or with no part in what a module does for others.
_HARMLESS = frozenset({"__init__", "__repr__", "__annotate__", "extra_repr", "forward"})
# Dunder names that do have a part, beyond those that `nn.Module` defines.
_PROTOCOLS = frozenset({"__len__", "__iter__", "__getitem__", "__contains__"})


def objection(original: nn.Module, unit: type[nn.Module]) -> str:
    """Why a module of this interface cannot be replaced by a unit of that class; empty where it can be."""
    if original._compiled_call_impl is not None:
        return COMPILED
    if any(has_hooks(module) for module in original.modules() if module is not original):
        return "modules inside have hooks, which would no longer run"
    for name in _own_names(original):
        if hasattr(nn.Module, name) or name in _PROTOCOLS:
            return f"it has its own {name}, which would no longer be called"
        if not hasattr(unit, name):
            return f"it has {name}, which the replacement has not"
    theirs, ours = inspect.signature(original.forward), inspect.signature(unit.forward)
    ours = ours.replace(parameters=list(ours.parameters.values())[1:])  # without self
    if not _takes(ours, theirs):
        return f"its forward takes {_bare(theirs)}, the replacement's {_bare(ours)}"
    return ""


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module runs more than its forward."""
    forward = module._forward_pre_hooks or module._forward_hooks
    return bool(forward or module._backward_pre_hooks or module._backward_hooks)


def _own_names(original: nn.Module) -> Iterator[str]:
    """What the class has beyond `nn.Module` that others may use; and methods that the module itself has."""
    for parent in type(original).__mro__:
        if parent not in nn.Module.__mro__:
            yield from (name for name in vars(parent) if _is_for_others(name))
    yield from (name for name in vars(original) if callable(getattr(nn.Module, name, None)))


def _is_for_others(name: str) -> bool:
    if name in _HARMLESS:
        return False
    if name.startswith("__"):  # Python itself gives every class some, and `nn.Module` has them as data
        return name in _PROTOCOLS or callable(vars(nn.Module).get(name))
    return not name.startswith("_") or hasattr(nn.Module, name)


def _takes(ours: inspect.Signature, theirs: inspect.Signature) -> bool:
    """Whether every call that fits theirs means the same for ours."""
    ours_left = dict(ours.parameters)
    for position, (name, parameter) in enumerate(theirs.parameters.items()):
        mine = ours_left.pop(name, None)
        if mine is None or mine.kind != parameter.kind or mine.default is not parameter.default:
            return False
        if list(ours.parameters).index(name) != position:
            return False
    return all(each.default is not each.empty for each in ours_left.values())


def _bare(signature: inspect.Signature) -> str:
    """Without annotations."""
    bare = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))

"""How torch.compile makes peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

Function = Callable[..., Any]
#: torch.compile in one of its modes, or nothing: what peers, or parts of them, are put through.
Compiler = Callable[[Function], Function]

COMPILED, AUTOTUNED = "compiled", "max-autotune"


def eager(function: Function) -> Function:
    """The function as it is."""
    return function


_COMPILERS: dict[str, Compiler] = {
    COMPILED: lambda function: torch.compile(function, dynamic=False),
    AUTOTUNED: lambda function: torch.compile(function, dynamic=False, mode="max-autotune"),
}
_wanted: ContextVar[tuple[str, ...]] = ContextVar("_wanted", default=(COMPILED,))


@contextmanager
def compiling(*wanted: str) -> Iterator[None]:
    """Within it, peers are compiled in these ways, of `COMPILED` and `AUTOTUNED`; in none where none is named."""
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)


def compilers() -> dict[str, Compiler]:
    """torch.compile for fixed sizes, by what its variants are called."""
    return {name: _COMPILERS[name] for name in _wanted.get()}

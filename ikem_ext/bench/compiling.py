"""How torch.compile makes peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch

Function = Callable[..., Any]
#: torch.compile in one of its modes, or nothing: what peers, or parts of them, are put through.
Compiler = Callable[[Function], Function]

COMPILED, AUTOTUNED = "compiled", "max-autotune"


def eager(function: Function) -> Function:
    """The function as it is."""
    return function


_autotune = ContextVar("_autotune", default=False)


@contextmanager
def autotuning(wanted: bool) -> Iterator[None]:
    """Within it, what is compiled is compiled by ``mode="max-autotune"`` too, where that is wanted."""
    token = _autotune.set(wanted)
    try:
        yield
    finally:
        _autotune.reset(token)


def compilers() -> dict[str, Compiler]:
    """torch.compile for fixed sizes, by what its variants are called."""
    compilers: dict[str, Compiler] = {COMPILED: partial(torch.compile, dynamic=False)}
    if _autotune.get():
        compilers[AUTOTUNED] = partial(torch.compile, dynamic=False, mode="max-autotune")
    return compilers

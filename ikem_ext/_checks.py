"""Checks of arguments: each error names the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def not_for_torchscript(function: _Function) -> _Function:
    """Decorates a function that `torch.jit.script` cannot compile, so that it says so, and what can."""

    def refuse() -> NoReturn:
        raise RuntimeError(
            f"ikem_ext.{function.__name__}: torch.jit.script cannot compile it; use torch.compile or torch.export, "
            "or torch.jit.trace"
        )

    function.__prepare_scriptable__ = refuse  # type: ignore[attr-defined]  # which is called before compiling begins
    return function


class Shapes:
    """Letters for sizes, bound by the first tensor that has them and required of all that follow.

    Example:
        >>> shapes = Shapes()
        >>> shapes.check("q", torch.zeros(2, 8), "N C")
        >>> shapes.check("queue", torch.zeros(5, 7), "K C")
        Traceback (most recent call last):
            ...
        ValueError: queue: expected shape (K, C) with C=8, got (5, 7)
    """

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}

    def check(self, name: str, tensor: Tensor, *forms: str) -> None:
        """Requires a dense ``tensor`` of one of the ``forms``, space-separated letters or numbers."""
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
        if tensor.is_nested:
            raise TypeError(f"{name}: expected a tensor, got a nested one; torch.nested.to_padded_tensor pads it")
        if tensor.layout != torch.strided:
            raise TypeError(f"{name}: expected a dense tensor, got one of {tensor.layout}; use {name}.to_dense()")
        sizes = dict(self.sizes)
        for axes in (form.split() for form in forms):
            if tensor.dim() == len(axes):
                fits = [
                    size == (int(axis) if axis.isdigit() else sizes.setdefault(axis, size))
                    for axis, size in zip(axes, tensor.shape, strict=True)
                ]
                if all(fits):
                    self.sizes = sizes
                    return
        self._refuse(name, tensor, [form.split() for form in forms])

    def _refuse(self, name: str, tensor: Tensor, forms: list[list[str]]) -> None:
        shapes = " or ".join(f"({', '.join(axes)}{',' if len(axes) == 1 else ''})" for axes in forms)
        letters = sorted({axis for axes in forms for axis in axes} & self.sizes.keys())
        known = ", ".join(f"{letter}={self.sizes[letter]}" for letter in letters)
        raise ValueError(
            f"{name}: expected shape {shapes}{' with ' + known if known else ''}, got {tuple(tensor.shape)}"
        )


def cast_floating(tensor: Any, dtype: torch.dtype) -> Any:
    """What is floating in ``dtype``; the rest is for a check to refuse."""
    return tensor.to(dtype) if tensor is not None and tensor.dtype in FLOATING else tensor


def check_same(reference: tuple[str, Tensor], **others: Tensor | None) -> None:
    """Requires a supported floating dtype of the first tensor, and its dtype and device of all others."""
    first_name, first = reference
    if first.dtype not in FLOATING:
        raise TypeError(f"{first_name}: expected one of {[str(t) for t in FLOATING]}, got {first.dtype}")
    for name, tensor in others.items():
        if tensor is not None and tensor.dtype != first.dtype:
            raise TypeError(f"{name}: expected {first.dtype} as {first_name} has, got {tensor.dtype}")
        if tensor is not None and tensor.device != first.device:
            raise ValueError(f"{name}: expected to be on {first.device} as {first_name} is, got {tensor.device}")


def check_per_channel(shapes: Shapes, name: str, tensor: Tensor, form: str, x: Tensor) -> None:
    """Requires numbers of the channels of ``x``, in a floating dtype of their own, on its device."""
    shapes.check(name, tensor, form)
    if tensor.dtype not in FLOATING:
        raise TypeError(f"{name}: expected one of {[str(t) for t in FLOATING]}, got {tensor.dtype}")
    if tensor.device != x.device:
        raise ValueError(f"{name}: expected to be on {x.device} as x is, got {tensor.device}")

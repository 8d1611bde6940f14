"""Derivatives of the native operations and what vmap makes of them, under autograd and under `torch.func` alike.

`torch.library.register_autograd` gives backward passes alone: a tangent is lost in silence, and `torch.func.grad` is
refused. So each operation has its own kernel for the dispatcher's key Autograd, made here. As with PyTorch's own, it is
called once for each derivative that is being taken, with tensors of that one level, and what it calls is carried to the
next level by the dispatcher: hence "single level".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

_registrations = torch.library.Library("ikem_ext", "FRAGMENT")


def register_derivatives(
    name: str,
    *,
    setup_context: Callable[[Any, tuple[Any, ...], Any], None],
    backward: Callable[..., Any],
    jvp: Callable[..., Any],
    prepare: Callable[..., tuple[Any, ...]] | None = None,
) -> None:
    """Makes the native operation ``name`` differentiable, in reverse and in forward mode.

    Args:
        name: the operation, without its namespace.
        setup_context: as of :class:`torch.autograd.Function`; whatever saves for both modes says so by `save`.
        backward: likewise; of several gradients, those that nobody gave are None.
        jvp: is given ctx, what was saved, and the tangents; those that nobody gave are None.
        prepare: sees the arguments first: refuses what has no derivative, or changes them.
    """
    operation = getattr(torch.ops.ikem_ext, name).default

    def below(*arguments: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return operation(*arguments)

    # Function turns both modes off, as this level is done with them; the levels below are not.
    def forward(*arguments: Any) -> Any:
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
            return below(*arguments)

    def reverse_mode(ctx: Any, *gradients: Any) -> Any:
        if all(gradient is None for gradient in gradients):
            return (None,) * len(ctx.needs_input_grad)
        return backward(ctx, *gradients)

    def forward_mode(ctx: Any, *tangents: Any) -> Any:
        saved = [None if each is None else forward_ad.unpack_dual(each, level=0).primal for each in ctx.saved_tensors]
        with forward_ad._set_fwd_grad_enabled(True):
            return jvp(ctx, saved, *tangents)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        setup_context(ctx, inputs, output)

    methods = {"forward": forward, "setup_context": setup, "backward": reverse_mode, "jvp": forward_mode}
    function: Any = type(name, (_SingleLevelFunction,), {key: staticmethod(each) for key, each in methods.items()})

    def differentiable(*arguments: Any) -> Any:
        if not (transforms_are_active() or (torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments))):
            return below(*arguments)
        if prepare is not None:
            arguments = prepare(*arguments)
        with enable_single_level_autograd_function():
            return function.apply(*arguments)

    _registrations.impl(name, differentiable, "Autograd")


def save(ctx: Any, *tensors: Tensor | None) -> None:
    """Saves for the backward pass and for the tangents."""
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


def wants_gradient(tensor: Tensor | None) -> bool:
    """Whether the call that is being prepared has to be differentiable in it, by a backward pass."""
    return tensor is not None and torch.is_grad_enabled() and tensor.requires_grad


def transforms_are_active() -> bool:
    """Whether other derivatives may be taken than the one at hand: what only they depend on has to be kept, too."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def refuse(operation: str, what: str) -> NoReturn:
    """Raises: a clear word instead of a derivative that is wrong."""
    raise NotImplementedError(f"{operation}: no {what}; the plain PyTorch of ikem_ext.reference has them")


FORWARD_MODE = "derivatives in forward mode (torch.func.jvp, jacfwd and linearize, torch.autograd.forward_ad)"
SECOND_DERIVATIVES = "second derivatives (those of a gradient or a tangent, as torch.func.hessian takes them)"


def register_end(name: str, called: str) -> None:
    """Has the native operation ``name``, a gradient, refuse to be differentiated, in words about what is ``called``."""

    def refused(*_: Any) -> NoReturn:
        refuse(called, SECOND_DERIVATIVES)

    register_derivatives(name, setup_context=lambda *_: None, backward=refused, jvp=refused)


def register_vmap(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a rule of the operation ``name``, as `torch.library.register_vmap` takes it."""
    return torch.library.register_vmap(f"ikem_ext::{name}")


def mapped_first(argument: Tensor, axis: int | None, size: int) -> Tensor:
    """The argument with the mapped axis in front, expanded where it has none."""
    return argument.expand(size, *argument.shape) if axis is None else argument.movedim(axis, 0)


def one_by_one(operation: Callable[..., tuple[Tensor, ...]], info: Any, in_dims: Any, *arguments: Any) -> Any:
    """A rule for vmap where the mapped axis is not one more of the operation's: one call after another."""
    results = [
        operation(
            *(
                argument if axis is None else argument.select(axis, index)
                for argument, axis in zip(arguments, in_dims, strict=True)
            )
        )
        for index in range(info.batch_size)
    ]
    return tuple(torch.stack(each) for each in zip(*results, strict=True)), (0,) * len(results[0])

"""CUDA graphs on a machine without CUDA.

The imitation stands for what a graph does and for what it does not: a capture changes nothing and refuses to wait; a
launch runs the same operations on the same tensors, whatever Python's own state is by then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from ikem import cuda_graphs

aten = torch.ops.aten
#: Operations that need a number of the device, or bring one there from memory that is not the device's.
WAITING = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2, aten.lift_fresh}


class Recording(TorchDispatchMode):
    """Notes all operations with their tensors, and can run them again."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert operation.overloadpacket not in WAITING, f"{operation} waits for the device"
        for x in tree_leaves((args, kwargs)):
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in self.before:
                storage = x.untyped_storage()
                self.before[storage.data_ptr()] = storage, storage.clone()
        made = operation(*args, **kwargs or {})
        self.operations.append((operation, args, kwargs or {}, made))
        return made

    def undo(self) -> None:
        """Take back what the operations have changed."""
        for storage, content in self.before.values():
            storage.copy_(content)

    def launch(self) -> None:
        """Run the operations again and put what they make where they put it before."""
        with torch._C._AutoDispatchBelowAutograd():
            for operation, args, kwargs, made in self.operations:
                for new, old in zip(tree_leaves(operation(*args, **kwargs)), tree_leaves(made), strict=True):
                    if isinstance(old, Tensor) and new.untyped_storage().data_ptr() != old.untyped_storage().data_ptr():
                        old.copy_(new)


class ImitatedGraphs:
    """Stands for `torch.cuda.make_graphed_callables`."""

    def __init__(self) -> None:
        self.captures = 0

    def __call__(
        self, call: Callable[..., Any], sample: tuple[Tensor, ...], num_warmup_iters: int, allow_unused_input: bool
    ) -> Callable[..., Any]:
        assert num_warmup_iters == 0
        assert not torch.is_autocast_enabled("cpu"), "the backward pass would be captured with autocast"
        self.captures += 1
        forward, backward = Recording(), Recording()
        with forward:
            outputs, spec = tree_flatten(call(*sample))
        differentiable = [x for x in outputs if x.requires_grad]
        cotangents = [torch.empty_like(x) for x in differentiable]
        leaves = [x for x in sample if x.requires_grad]
        with backward:
            found = iter(torch.autograd.grad(differentiable, leaves, cotangents, allow_unused=allow_unused_input))
        backward.undo()
        forward.undo()
        gradients = [next(found) if x.requires_grad else None for x in sample]

        class Launch(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
                for mine, given in zip(sample, inputs, strict=True):
                    if mine.data_ptr() != given.data_ptr():
                        mine.copy_(given)
                forward.launch()
                return tuple(x.detach() for x in outputs)

            @staticmethod
            def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
                of_differentiable = [grad for x, grad in zip(outputs, given, strict=True) if x.requires_grad]
                for mine, grad in zip(cotangents, of_differentiable, strict=True):
                    mine.copy_(grad)
                backward.launch()
                return tuple(None if x is None else x.detach() for x in gradients)

        return lambda *inputs: tree_unflatten(Launch.apply(*inputs), spec)


def imitate_graphs(monkeypatch: pytest.MonkeyPatch) -> ImitatedGraphs:
    """Let the CPU have graphs while a test runs."""
    graphs = ImitatedGraphs()
    monkeypatch.setattr(cuda_graphs, "DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphs)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return graphs

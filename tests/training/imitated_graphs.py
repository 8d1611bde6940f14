"""CUDA graphs on a machine without CUDA.

The imitation stands for what a graph does and for what it does not: a capture changes nothing and refuses to wait; a
launch runs the same operations on the same tensors, whatever Python's own state is by then. All else is PyTorch's own
`torch.cuda.make_graphed_callables`.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ikem import cuda_graphs

aten = torch.ops.aten
#: Operations that need a number of the device, or bring one there from memory that is not the device's.
WAITING = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2, aten.lift_fresh}


class ImitatedGraph(TorchDispatchMode):
    """Notes all operations with their tensors, takes back what they changed, and runs them again."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert operation.overloadpacket not in WAITING, f"{operation} waits for the device"
        kwargs = kwargs or {}
        for x in tree_leaves((args, kwargs)):
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in self.before:
                storage = x.untyped_storage()
                self.before[storage.data_ptr()] = storage, storage.clone()
        made = operation(*args, **kwargs)
        self.operations.append((operation, args, kwargs, made))
        return made

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for storage, content in self.before.values():
            storage.copy_(content)

    def replay(self) -> None:
        """Run the operations again and put what they make where they put it before."""
        with torch._C._AutoDispatchBelowAutograd():
            for operation, args, kwargs, made in self.operations:
                for new, old in zip(tree_leaves(operation(*args, **kwargs)), tree_leaves(made), strict=True):
                    if isinstance(old, Tensor) and new.untyped_storage().data_ptr() != old.untyped_storage().data_ptr():
                        old.copy_(new)


class ImitatedGraphs:
    """Stands for the parts of `torch.cuda` that a capture needs."""

    def __init__(self) -> None:
        self.captured: list[ImitatedGraph] = []

    @property
    def captures(self) -> int:
        """How often a forward and a backward pass were captured."""
        assert len(self.captured) % 2 == 0
        return len(self.captured) // 2

    def graph(self, graph: ImitatedGraph, pool: Any) -> ImitatedGraph:
        """Return the context in which a graph is captured."""
        assert not torch.is_autocast_enabled("cpu"), "the backward pass would be captured with autocast"
        self.captured.append(graph)
        return graph


def imitate_graphs(monkeypatch: pytest.MonkeyPatch) -> ImitatedGraphs:
    """Let the CPU have graphs while a test runs."""
    graphs = ImitatedGraphs()
    for name, imitation in {
        "CUDAGraph": ImitatedGraph,
        "graph": graphs.graph,
        "is_current_stream_capturing": lambda: False,
        "synchronize": lambda: None,
        "Event": lambda: SimpleNamespace(record=lambda: None, synchronize=lambda: None),
        "Stream": lambda: None,
        "stream": contextlib.nullcontext,
    }.items():
        monkeypatch.setattr(torch.cuda, name, imitation)
    monkeypatch.setattr(torch.cuda.graphs, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(cuda_graphs, "DEVICE", "cpu")
    return graphs

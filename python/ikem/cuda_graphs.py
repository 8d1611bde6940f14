"""CUDA graphs of a module: its kernels launched all at once, and independent branches of it side by side.

A training step of many small kernels takes as long as the processor needs to launch them one by one. A CUDA graph
holds the kernels with their arguments and launches them in one go.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

#: The type of the devices that have such graphs.
DEVICE = "cuda"

Result = TypeVar("Result")


class CapturedModule:
    """Calls a module by CUDA graphs of its forward and its backward pass, captured anew for every phase of its work.

    The first call of a phase is made as ever: it loads kernels and lets libraries choose among theirs, which a capture
    has no room for. The second is captured; that computes nothing, and so changes nothing. From then on the graphs are
    launched. What is computed is the same in all of them, down to the random numbers of PyTorch's generator on the
    device.

    A graph works on the tensors that it was captured with. Inputs are copied into those of the capture; parameters and
    buffers have to be changed in place. What is returned is overwritten by the next call, and gradients too: they must
    not be accumulated over calls.

    Args:
        module: maps tensors to nested tuples and dictionaries of tensors, by the same operations at every call of a
            phase, of which none waits for the device.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.phase: tuple[Hashable, list[torch.Size]] | None = None
        self.graphs: Callable[..., Any] | None = None

    def __call__(self, phase: Hashable, *inputs: Tensor) -> Any:
        """Return what the module makes of its inputs.

        Args:
            phase: changes when what the module does changes.
            inputs: on a CUDA device, of the same shapes at every call.

        Raises:
            ValueError: if the inputs are on another device, or have other shapes than in the calls before.
        """
        shapes = [x.shape for x in inputs]
        if self.phase is None:
            _require_device(inputs)
        elif shapes != self.phase[1]:
            raise ValueError(f"trainer.cuda_graphs: expected views of the shapes {self.phase[1]}, got {shapes}")
        if self.phase != (phase, shapes):
            self.phase, self.graphs = (phase, shapes), None
            gc.collect()  # the graphs before are part of a cycle, and hold the memory that they work in
            return self.module(*inputs)
        if self.graphs is None:
            self.graphs = self.capture(inputs)
        return self.graphs(*inputs)

    def capture(self, inputs: tuple[Tensor, ...]) -> Callable[..., Any]:
        """Return a function of such inputs that launches the graphs, also for the gradients of the parameters."""
        trained = {name: each for name, each in self.module.named_parameters() if each.requires_grad}
        # The graphs differentiate for aliases of the parameters. What autograd keeps of the parameters themselves may
        # belong to the stream of an earlier step, which a capture cannot wait for, and shall not belong to this one's.
        aliases = {name: nn.Parameter(each.detach()) for name, each in trained.items()}
        device = inputs[0].device.type
        enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

        def call(*tensors: Tensor) -> Any:
            # A cast that autocast had kept would be one of weights long gone.
            with torch.autocast(device, dtype, enabled, cache_enabled=False):
                return self.module(*tensors[: len(inputs)])

        self.replace(aliases)
        try:
            with torch.autocast(device, enabled=False):  # as where the backward pass is called from
                graphed = torch.cuda.make_graphed_callables(
                    call, (*inputs, *aliases.values()), num_warmup_iters=0, allow_unused_input=True
                )
        finally:
            self.replace(trained)
        return lambda *views: graphed(*views, *trained.values())

    def replace(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Put others in the place of the module's parameters."""
        for name, parameter in parameters.items():
            owner, _, attribute = name.rpartition(".")
            setattr(self.module.get_submodule(owner), attribute, parameter)


def _require_device(inputs: Sequence[Tensor]) -> None:
    for x in inputs:
        if x.device.type != DEVICE:
            raise ValueError(f"trainer.cuda_graphs: expected a training on a CUDA device, got one on {x.device}")


def side_by_side(calls: Sequence[Callable[[], Result]], device: torch.device) -> list[Result]:
    """Return what each function returns; in the capture of a CUDA graph they become branches that may run at once.

    Each function's kernels go to a stream of its own. In the backward pass autograd sends those of each operation to
    the stream of the forward pass, and has streams wait for each other where a gradient changes them.

    Memory: what is freed on a side stream is given out again on the same one, after its next wait for the current
    stream, and so after everything that the current stream was to do with it. Hence nothing here needs
    ``record_stream``, which would keep memory from being used twice within a graph.

    Args:
        calls: functions that do not depend on each other, each on what the current stream has made before.
        device: that they work on.

    Example:
        >>> side_by_side([lambda: "joint", lambda: "bone"], torch.device("cpu"))
        ['joint', 'bone']
    """
    if device.type != DEVICE or not torch.cuda.is_current_stream_capturing():
        return [call() for call in calls]
    current = torch.cuda.current_stream(device)
    sides = [_side_stream(device, index) for index in range(len(calls))]
    results = []
    for call, side in zip(calls, sides, strict=True):
        side.wait_stream(current)
        with torch.cuda.stream(side):
            results.append(call())
    for side in sides:
        current.wait_stream(side)
    return results


@cache
def _side_stream(device: torch.device, index: int) -> torch.cuda.Stream:
    """Return always the same stream: libraries keep a workspace for each that they were used on."""
    return torch.cuda.Stream(device)

"""Graph convolutions that are seen by what they hold and take, of whatever project."""

from __future__ import annotations

import inspect
from itertools import chain

from torch import Tensor, nn

from .recipes import is_graph_convolution
from .report import Left

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_ADJACENCIES = ("A", "adj", "adjacency")


def unknown_graph_convolutions(model: nn.Module) -> list[Left]:
    """The innermost modules that look like graph convolutions; not those that are known, nor what holds such."""
    found: dict[nn.Module, Left] = {}  # a module may stand in several places
    _search(model, "", found)
    return list(found.values())


def _search(module: nn.Module, name: str, found: dict[nn.Module, Left]) -> bool:
    """Whether there is a graph convolution, known or not; the unknown ones are added to those that were found."""
    if is_graph_convolution(module) or module in found:
        return True
    inside = [_search(child, f"{name}.{key}".lstrip("."), found) for key, child in module.named_children()]
    if any(inside):
        return True
    if reason := _appearance(module):
        found[module] = Left(
            name, f"a {type(module).__name__}, which {reason}, but is no graph convolution that is known"
        )
    return bool(reason)


def _appearance(module: nn.Module) -> str:
    """What makes the module look like a graph convolution: an adjacency that it holds or takes, and layers inside."""
    if type(module).__module__.startswith("torch.") or not any(isinstance(each, _LAYERS) for each in module.modules()):
        return ""
    for name, value in chain(module._parameters.items(), module._buffers.items(), vars(module).items()):
        if isinstance(value, Tensor) and _is_adjacency(name, value):
            return f"holds an adjacency {name} {tuple(value.shape)}"
    for name in inspect.signature(module.forward).parameters:
        if name in _ADJACENCIES:
            return f"takes an adjacency {name}"
    return ""


def _is_adjacency(name: str, value: Tensor) -> bool:
    """Square in its last axes, with parts before them or, under the name of an adjacency, parts below one another."""
    if value.dim() < 2 or not value.is_floating_point() or value.shape[-1] < 3:
        return False
    rows, columns = value.shape[-2:]
    return rows == columns or (name.split("_")[0] in _ADJACENCIES and rows % columns == 0)

"""Replaces the graph convolutions of other projects' models by those of :mod:`ikem_ext.nn`, in place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .nn import agcn, ctrgcn, msg3d, pyskl, stgcn

__all__ = ["Acceleration", "Left", "Replaced", "accelerate"]


@dataclass(frozen=True)
class Replaced:
    """A unit that was replaced.

    Args:
        name: the unit's, as in ``model.named_modules()``.
        original: the module that stood there.
        unit: the module that stands there now.
    """

    name: str
    original: nn.Module
    unit: nn.Module

    def __str__(self) -> str:
        project = type(self.unit).__module__.rpartition(".")[2]
        return f"{self.name}: {project}.{type(self.unit).__name__}"


@dataclass(frozen=True)
class Left:
    """A module that has the name of a unit and was left as it is.

    Args:
        name: the module's, as in ``model.named_modules()``.
        reason: why it was left.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass
class Acceleration:
    """What :func:`accelerate` did: the units that were ``replaced``, and those ``left``; ``print`` shows both."""

    replaced: list[Replaced] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    _places: list[tuple[nn.Module, str, Replaced]] = field(default_factory=list, repr=False)

    def undo(self) -> None:
        """Puts the original modules back, with the state and the mode that their replacements are in."""
        for parent, name, replaced in self._places:
            original, unit = replaced.original, replaced.unit
            original.training = unit.training
            original._parameters.update({key: unit._parameters[key] for key in original._parameters})
            original._buffers.update({key: unit._buffers[key] for key in original._buffers})
            parent._modules[name] = original
        self._places.clear()

    def __str__(self) -> str:
        lines = [f"replaced {len(self.replaced)}, left {len(self.left)}"]
        for title, units in (("replaced", self.replaced), ("left", self.left)):
            lines += [f"  {title:8} {unit}" for unit in units]
        return "\n".join(lines)


def accelerate(model: nn.Module, verify: bool = True) -> Acceleration:
    """Replaces the graph convolutions of a model built from another project's code by fast ones, in place.

    Units are recognized by the name of their class and by what they are made of, whatever module they come from:

    ========================  ==========================================  ==============================
    project                   class                                       replaced by
    ========================  ==========================================  ==============================
    ST-GCN                    ``ConvTemporalGraphical``                   :mod:`ikem_ext.nn.stgcn`
    2s-AGCN                   ``unit_gcn``                                :mod:`ikem_ext.nn.agcn`
    CTR-GCN                   ``unit_gcn``, ``CTRGC``                     :mod:`ikem_ext.nn.ctrgcn`
    MS-G3D                    ``MultiScale_GraphConv``                    :mod:`ikem_ext.nn.msg3d`
    PYSKL                     ``unit_gcn``, ``unit_aagcn``,               :mod:`ikem_ext.nn.pyskl`
                              ``unit_ctrgcn``, ``CTRGC``
    ========================  ==========================================  ==============================

    A replacement takes over the parameters, buffers and modules inside (the very same objects, so an optimizer made
    before stays valid), hooks, training mode, device and dtype; names in the state dict stay. Call it before
    ``torch.compile``; before or after wrapping in ``DistributedDataParallel``.

    Args:
        model: the model; changed in place.
        verify: whether each unit is first run beside its replacement, both copied and given random weights, in
            training and in evaluation mode, in float64 where the device has it. Where outputs, gradients or
            statistics differ, or the original does not run, the unit is left as it is.

    Returns:
        What was replaced, and what was recognized but left, with the reason. Its ``undo()`` puts the originals back.

    Raises:
        TypeError: ``model`` is not a module.

    Example:
        >>> import torch, ikem_ext
        >>> class ConvTemporalGraphical(torch.nn.Module):  # as in ST-GCN's code
        ...     def __init__(self, in_channels, out_channels, kernel_size):
        ...         super().__init__()
        ...         self.kernel_size = kernel_size
        ...         self.conv = torch.nn.Conv2d(in_channels, out_channels * kernel_size, 1)
        ...
        ...     def forward(self, x, A):
        ...         x = self.conv(x).unflatten(1, (self.kernel_size, -1))
        ...         return torch.einsum("nkctv,kvw->nctw", x, A), A
        >>> model = torch.nn.ModuleDict({"gcn": ConvTemporalGraphical(3, 8, 3)})
        >>> print(ikem_ext.accelerate(model))
        replaced 1, left 0
          replaced gcn: stgcn.ConvTemporalGraphical
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    report = Acceleration()
    if _recipes_for(model):
        report.left.append(Left("", "it is the model itself, with no module around it in which to replace it"))
        return report
    outcomes: dict[nn.Module, Replaced | Left] = {}  # a module may stand in several places
    for parent, child_name, name in _candidates(model, ""):
        original = parent.get_submodule(child_name)
        if original not in outcomes:
            outcomes[original] = _replacement(name, original, verify)
        outcome = outcomes[original]
        if isinstance(outcome, Replaced):
            report._places.append((parent, child_name, outcome))
    for parent, child_name, replaced in report._places:
        parent._modules[child_name] = replaced.unit
    report.replaced += [outcome for outcome in outcomes.values() if isinstance(outcome, Replaced)]
    report.left += [outcome for outcome in outcomes.values() if isinstance(outcome, Left)]
    return report


def _candidates(parent: nn.Module, prefix: str) -> Iterator[tuple[nn.Module, str, str]]:
    """Parent, name in the parent and whole name of the modules named like a unit; not those inside another."""
    for name, child in parent._modules.items():  # `named_children` would leave out one that stands there twice
        if child is None:
            continue
        if _recipes_for(child):
            yield parent, name, prefix + name
        else:
            yield from _candidates(child, f"{prefix}{name}.")


def _replacement(name: str, original: nn.Module, verify: bool) -> Replaced | Left:
    fitting = [recipe for recipe in _recipes_for(original) if recipe.fits(original)]
    if not fitting:
        return Left(name, f"a {type(original).__name__}, but not made like any that is known")
    if any(_hooks(module) for module in original.modules() if module is not original):
        return Left(name, "modules inside have hooks, which would no longer run")
    reason = ""
    for recipe in fitting:
        try:
            unit = recipe.replace(original)
            reason = _disagreement(recipe, original) if verify else ""
        except Exception as error:  # whatever a foreign module may raise leaves it as it is
            reason = f"{type(error).__name__}: {error}"
        if not reason:
            return Replaced(name, original, unit)
    return Left(name, reason)


def _hooks(module: nn.Module) -> bool:
    forward = module._forward_pre_hooks or module._forward_hooks
    return bool(forward or module._backward_pre_hooks or module._backward_hooks)


@dataclass(frozen=True)
class _Recipe:
    """How units of one class are recognized and replaced.

    Args:
        unit: the class of ours, named as the original, whose attributes have the names of the original's too.
        needs: attributes that tell the original from others of its name.
        sizes: channels and joints of the features that a unit takes.
        constants: tensors of the original that are plain attributes, and become buffers of the unit.
        derived: attributes that the unit has beyond the original's.
        arguments: what a unit is called with beyond features.
    """

    unit: type[nn.Module]
    needs: tuple[str, ...]
    sizes: Callable[[Any], tuple[int, int]]
    constants: tuple[str, ...] = ()
    derived: Callable[[Any], dict[str, Any]] = lambda original: {}
    arguments: Callable[[Any], tuple[Any, ...]] = lambda unit: ()

    def fits(self, module: nn.Module) -> bool:
        """Whether the module has what the original has."""
        return all(hasattr(module, name) for name in self.needs)

    def replace(self, original: nn.Module) -> nn.Module:
        """A unit with the very parameters, buffers, modules inside, hooks and mode of the original."""
        unit = self.unit.__new__(self.unit)  # not initialized: all that it has is the original's
        vars(unit).update({name: _own(value) for name, value in vars(original).items()})
        vars(unit).update(self.derived(original))
        like = next(original.parameters())
        for name in self.constants:
            if isinstance(constant := vars(unit).pop(name, None), Tensor):
                unit.register_buffer(name, constant.detach().to(like), persistent=False)
        return unit

    def inputs(self, unit: nn.Module) -> tuple[Any, ...]:
        """Random arguments to call the unit with."""
        channels, joints = self.sizes(unit)
        return (_random_like(next(unit.parameters()), 2, channels, 6, joints), *self.arguments(unit))


def _own(value: Any) -> Any:
    """The containers that a module keeps its parts in are copied, the parts are not."""
    return copy.copy(value) if isinstance(value, dict | set) else value


def _disagreement(recipe: _Recipe, original: nn.Module) -> str:
    """Runs copies of the original and of its replacement; says what differs, or nothing."""
    theirs = copy.deepcopy(original)
    if next(theirs.parameters()).device.type != "mps":
        theirs.double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(_random_like(parameter, *parameter.shape) / 2)
    ours = recipe.replace(copy.deepcopy(theirs))
    arguments = recipe.inputs(ours)
    for training in (True, False):
        try:
            expected = _run(theirs.train(training), arguments)
        except Exception as error:  # a foreign module may raise whatever it likes
            device = arguments[0].device
            return f"it does not run on {device} ({error}); move the model where it runs, or do not verify"
        actual = _run(ours.train(training), arguments)
        for what, value in expected.items():
            tolerance = 1e-8 if value.dtype == torch.float64 else 1e-3
            if actual[what].shape != value.shape or not _close(actual[what], value, tolerance):
                return f"{what} would differ from the original's in {'training' if training else 'evaluation'} mode"
    return ""


def _close(actual: Tensor, expected: Tensor, tolerance: float) -> bool:
    difference, size = (float(each.abs().max()) if each.numel() else 0.0 for each in (actual - expected, expected))
    return difference <= tolerance * max(1.0, size)


def _run(unit: nn.Module, arguments: tuple[Any, ...]) -> dict[str, Tensor]:
    """Output, gradients and statistics after one call; the random state stays, so that the next call draws the same."""
    x = arguments[0].clone().requires_grad_()
    with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []), torch.enable_grad():
        output = unit.forward(x, *arguments[1:])  # not called, so that hooks do not run
        output = output[0] if isinstance(output, tuple) else output
        wanted = {"x": x, **{name: each for name, each in unit.named_parameters() if each.requires_grad}}
        cotangent = _random_like(output, *output.shape)
        gradients = torch.autograd.grad(output, list(wanted.values()), cotangent, allow_unused=True)
    results = {"the output": output.detach(), **{name: buffer.clone() for name, buffer in unit.named_buffers()}}
    for (name, parameter), gradient in zip(wanted.items(), gradients, strict=True):
        results[f"the gradient of {name}"] = torch.zeros_like(parameter) if gradient is None else gradient
    return results


def _random_like(like: Tensor, *shape: int) -> Tensor:
    """Normal numbers, always the same, that leave the user's random state alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like)


def _channels_and_joints(unit: Any) -> tuple[int, int]:
    return unit.in_c, (unit.A if hasattr(unit, "A") else unit.PA).shape[-1]


def _refinement(unit: type[nn.Module], *needs: str) -> _Recipe:
    return _Recipe(
        unit,
        ("conv1", "conv2", "conv3", "conv4", "in_channels", *needs),
        sizes=lambda unit: (unit.in_channels, 5),
        arguments=lambda unit: (_random_like(unit.conv1.weight, 5, 5), 0.5),
    )


_RECIPES = (
    _Recipe(
        stgcn.ConvTemporalGraphical,
        ("conv", "kernel_size"),
        sizes=lambda unit: (unit.conv.in_channels, 5),
        arguments=lambda unit: (_random_like(unit.conv.weight, unit.kernel_size, 5, 5),),
    ),
    _Recipe(
        agcn.unit_gcn,
        ("conv_a", "conv_b", "conv_d", "PA", "A", "num_subset", "down", "bn"),
        sizes=lambda unit: (unit.conv_d[0].in_channels, unit.PA.shape[-1]),
        constants=("A",),
    ),
    _Recipe(
        ctrgcn.unit_gcn,
        ("convs", "alpha", "adaptive", "in_c", "down", "bn"),
        sizes=_channels_and_joints,
        constants=("A",),
    ),
    _refinement(ctrgcn.CTRGC, "mid_channels"),
    _Recipe(
        msg3d.MultiScale_GraphConv,
        ("A_powers", "num_scales", "use_mask", "mlp"),
        sizes=lambda unit: (unit.in_channels, unit.A_powers.shape[-1]),
        constants=("A_powers",),
        derived=lambda original: {"in_channels": _first_conv(original.mlp).in_channels // original.num_scales},
    ),
    _Recipe(
        pyskl.unit_gcn,
        ("conv", "A", "adaptive", "conv_pos", "with_res", "num_subsets", "in_channels", "out_channels", "bn", "act"),
        sizes=lambda unit: (unit.in_channels, unit.A.shape[-1]),
    ),
    _Recipe(
        pyskl.unit_aagcn,
        ("conv_d", "A", "adaptive", "attention", "in_c", "down", "bn"),
        sizes=_channels_and_joints,
    ),
    _Recipe(pyskl.unit_ctrgcn, ("convs", "A", "alpha", "in_c", "down", "bn"), sizes=_channels_and_joints),
    _refinement(pyskl.CTRGC),
)


def _first_conv(module: nn.Module) -> nn.Conv2d:
    return next(each for each in module.modules() if isinstance(each, nn.Conv2d))


def _recipes_for(module: nn.Module) -> list[_Recipe]:
    """Those for classes of the module's name; none for what is ours already."""
    if isinstance(module, tuple(recipe.unit for recipe in _RECIPES)):
        return []
    return [recipe for recipe in _RECIPES if recipe.unit.__name__ == type(module).__name__]

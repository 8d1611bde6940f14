"""Replaces the units of other projects' models by those of :mod:`ikem_ext.nn`, in place."""

from __future__ import annotations

from torch import nn

from .acceleration.inference import Folding
from .acceleration.interface import COMPILED, objection
from .acceleration.recipe import Plan
from .acceleration.recipes import is_ours, recipes_for
from .acceleration.report import Acceleration, Left, Place, Replaced
from .acceleration.unknown import unknown_graph_convolutions
from .acceleration.verification import disagreement
from .nn.folding import FoldsNorms

__all__ = ["Acceleration", "Left", "Replaced", "accelerate"]

_ALONE = "it is the model itself, with no module around it in which to replace it"


def accelerate(model: nn.Module, verify: bool = True, inference: bool = False) -> Acceleration:
    """Replaces the units of a model built from another project's code by fast ones, in place.

    Units, and blocks of such, are recognized by the name of their class and by what they are made of, whatever module
    they come from:

    ==========  ==============================  =================================  ====================================
    project     graph convolution               temporal unit                      block
    ==========  ==============================  =================================  ====================================
    ST-GCN      ``ConvTemporalGraphical``                                          ``st_gcn``
    2s-AGCN     ``unit_gcn``                    ``unit_tcn``                       ``TCN_GCN_unit``
    CTR-GCN     ``unit_gcn``, ``CTRGC``         ``unit_tcn``, ``TemporalConv``,    ``TCN_GCN_unit``
                                                ``MultiScale_TemporalConv``
    MS-G3D      ``MultiScale_GraphConv``        ``TemporalConv``,
                                                ``MultiScale_TemporalConv``
    PYSKL       ``unit_gcn``, ``unit_aagcn``,   ``unit_tcn``, ``mstcn``,           ``STGCNBlock``, ``AAGCNBlock``,
                ``unit_ctrgcn``, ``CTRGC``,     ``MSTCN``                          ``CTRGCNBlock``
                ``MSGCN``
    ==========  ==============================  =================================  ====================================

    They become those of :mod:`ikem_ext.nn.stgcn`, :mod:`~ikem_ext.nn.agcn`, :mod:`~ikem_ext.nn.ctrgcn`,
    :mod:`~ikem_ext.nn.msg3d` and :mod:`~ikem_ext.nn.pyskl`. Of a block all units that can be are replaced, too; and of
    one that is left as it is.

    A replacement takes over the parameters, buffers and modules inside (the very same objects, so an optimizer made
    before stays valid), hooks, training mode, device and dtype; names in the state dict stay. Call it before
    ``torch.compile``; before or after wrapping in ``DistributedDataParallel``.

    A unit is left as it is where something else could miss it: where its ``forward`` takes other arguments, by position
    or by name, or has other defaults; where its class has methods or attributes that the replacement has not, or
    overrides those of ``torch.nn.Module``; where modules inside have hooks, or it is compiled already.

    For inference, batch norms become parts of the convolutions before them, as by :func:`ikem_ext.nn.folded`: those of
    units of ours, whether or not they were replaced just now, and each ``BatchNorm2d`` right behind a ``Conv2d`` in an
    ``nn.Sequential``, which has to be called as a whole. What is folded holds parameters of its own, without gradients
    and under fewer names, so that the state dict is no longer the original's. Such a model cannot be trained: putting
    it into training mode is an error, until ``undo()`` of the report.

    Args:
        model: the model; changed in place.
        verify: whether each unit is also run beside its replacement, both copied and given random weights, with one
            and with several clips, in training and in evaluation mode, in float64 where the device has it. Where they
            return something else (number, nesting, shapes, dtypes also under autocast, values), where gradients of
            any output, statistics or the arguments differ afterwards, where the original sets attributes, or does not
            run, it is left as it is. What dropout draws is not compared, but where it is applied. For inference
            replacements are run with their norms folded, in evaluation mode alone.
        inference: whether the model is to be used for inference alone; it has to be in evaluation mode.

    Returns:
        What was replaced; what was recognized but left, with the reason; what looks like a graph convolution of a
        kind that is not known; and which batch norms were folded. Its ``undo()`` puts the originals back, after
        ``inference=True`` to the bit.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: it is for inference, and a module of it is in training mode.

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
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.BatchNorm2d(8)).eval()
        >>> print(ikem_ext.accelerate(model, inference=True))
        replaced 0, left 0, folded 1
          folded   1
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if inference:
        _check_evaluation(model)
    report = Acceleration()
    if recipes_for(model) or (inference and isinstance(model, FoldsNorms)):
        report.left.append(Left("", _ALONE))
    search = _Search(report, verify, inference)
    search.inside(model)
    search.replace()
    report.unknown += unknown_graph_convolutions(model)
    if inference:
        folding = Folding(verify)
        try:
            folding.fold(model)
        except BaseException:  # nobody has the report yet, by which it could be taken back
            folding.undo()
            report.undo()
            raise
        report.take(folding)
    return report


def _check_evaluation(model: nn.Module) -> None:
    training = [name or "the model" for name, module in model.named_modules() if module.training]
    if training:
        raise ValueError(f"model: expected evaluation mode (model.eval()) for inference, got {training[0]} in training")


class _Search:
    """Looks for units and blocks of other projects' code; replaces them when all are found, and writes a report."""

    def __init__(self, report: Acceleration, verify: bool, inference: bool) -> None:
        self.report = report
        self.verify = verify
        self.inference = inference
        self.plans: dict[nn.Module, Plan | None] = {}  # a module may stand in several places
        self.names: dict[nn.Module, str] = {}
        self.searched: set[nn.Module] = set()

    def inside(self, parent: nn.Module, prefix: str = "") -> None:
        """Finds what is to be replaced of what a module holds, and of what that holds."""
        if parent in self.searched or is_ours(parent):
            return
        self.searched.add(parent)
        for key, child in parent._modules.items():  # `named_children` would leave out one that stands there twice
            if child is None:
                continue
            name = prefix + key
            if self.plan(child, name) is not None:
                self.report._places.append(Place(parent, key, child))
            elif not (recipes_for(child) and _is_compiled(child, name)):
                self.inside(child, f"{name}.")

    def plan(self, original: nn.Module, name: str) -> Plan | None:
        """What becomes of a module; None where it stays."""
        if original not in self.plans and recipes_for(original):
            found = self._made(original, name)
            self.plans[original] = found if isinstance(found, Plan) else None
            self.names[original] = name
            if isinstance(found, str):
                self.report.left.append(Left(name, found))
        return self.plans.get(original)

    def _made(self, original: nn.Module, name: str) -> Plan | str:
        """The plan, or why there is none."""
        fitting = [recipe for recipe in recipes_for(original) if recipe.fits(original)]
        if not fitting:
            return f"a {type(original).__name__}, but not made like any that is known"
        if _is_compiled(original, name):
            return COMPILED
        reason = ""
        for recipe in fitting:
            held = {key: original._modules.get(key) for key in recipe.inside}
            plans = {key: self.plan(part, f"{name}.{key}") for key, part in held.items() if part is not None}
            plan = Plan(recipe, {key: each for key, each in plans.items() if each is not None})
            try:
                plan.build(original)
                reason = objection(original, recipe.unit)
                reason = reason or (disagreement(plan, original, self.inference) if self.verify else "")
            except Exception as error:  # whatever a foreign module may raise leaves it as it is
                reason = f"{type(error).__name__}: {error}"
            if not reason:
                return plan
        return reason

    def replace(self) -> None:
        """Puts the units there."""
        units: dict[nn.Module, nn.Module] = {}
        for place in self.report._places:
            original = place.before
            plan = self.plans[original]
            if original not in units and plan is not None:
                units[original] = plan.build(original)
                self._tell(original, units[original], plan)
            place.parent._modules[place.name] = units[original]

    def _tell(self, original: nn.Module, unit: nn.Module, plan: Plan) -> None:
        self.report.replaced.append(Replaced(self.names[original], original, unit))
        self.report._units.append((original, unit))
        for key, inside in plan.inside.items():
            self._tell(original.get_submodule(key), unit.get_submodule(key), inside)


def _is_compiled(module: nn.Module, name: str) -> bool:
    """Whether what `torch.compile` made of it holds on to its `forward`."""
    return name.endswith("_orig_mod") or module._compiled_call_impl is not None

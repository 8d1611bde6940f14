"""Runs models in plain PyTorch: the twins stand in for the operations of the graphs that models are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..skeleton import SkeletonLayout
from .graph_conv import graph_conv
from .modalities import MODALITIES, derive_modalities

__all__ = ["plain_operations"]


class plain_operations(TorchFunctionMode):  # noqa: N801 (a context manager, named as PyTorch names its own)
    """Within it, models that call :func:`ikem_ext.graph_conv` and :func:`ikem_ext.derive_modalities` run their twins.

    So a model that is exported in it holds PyTorch's own operations alone: it runs where `ikem_ext` is not installed,
    and can be translated to ONNX. Numbers agree to rounding. (The losses keep their operations.)

    Example:
        >>> import torch, ikem_ext
        >>> unit = ikem_ext.nn.agcn.unit_gcn(3, 8, ikem_ext.get_layout("ntu25").adjacency()).eval()
        >>> with ikem_ext.reference.plain_operations():
        ...     exported = torch.export.export(unit, (torch.randn(2, 3, 50, 25),))
        >>> any("ikem_ext" in str(node.target) for node in exported.graph.nodes)
        False
    """

    def __init__(self) -> None:
        super().__init__()
        operations = torch.ops.ikem_ext
        self._twins: dict[Any, Callable[..., Tensor]] = {
            operations.graph_conv: _graph_conv,
            operations.derive_modalities: _derive_modalities,
        }

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Calls the twin, or what was to be called."""
        return self._twins.get(func, func)(*args, **(kwargs or {}))


def _graph_conv(x: Tensor, weight: Tensor, bias: Tensor | None, adjacency: Tensor, allow_tf32: bool) -> Tensor:
    return graph_conv(x, weight, bias, adjacency)


def _derive_modalities(
    joints: Tensor,
    num_frames: Tensor,
    modalities: Sequence[int],
    parents: Sequence[int],
    angle_partners: Sequence[int],
    torso: Sequence[int],
    reference_frames: float,
    shear: Tensor | None,
    crop_start: Tensor | None,
    crop_padding: int,
    clip_index: Tensor | None,
) -> Tensor:
    """The twin by the arguments of the operation, which knows of a layout no more than these."""
    spine, left, right = torso
    layout = SkeletonLayout(
        "unnamed",
        tuple(map(str, range(len(parents)))),
        tuple(parents),
        (spine, left, right),
        angle_partners=tuple(angle_partners),
    )
    return derive_modalities(
        joints,
        num_frames,
        layout,
        modalities=[MODALITIES[index] for index in modalities],
        reference_frames=reference_frames,  # type: ignore[arg-type]  # as the operation has it
        shear=shear,
        crop_start=crop_start,
        crop_padding=crop_padding,
        clip_index=clip_index,
    )

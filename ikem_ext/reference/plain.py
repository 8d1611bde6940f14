"""Runs models in plain PyTorch: the twins stand in for the operations of the graphs that models are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..skeleton import SkeletonLayout
from .batch_norm import batch_norm
from .graph_conv import graph_conv
from .modalities import MODALITIES, derive_modalities
from .pairwise_products import pairwise_products
from .refined_graph_conv import refined_graph_conv
from .temporal_conv import temporal_conv

__all__ = ["plain_operations"]


class plain_operations(TorchFunctionMode):  # noqa: N801 (a context manager, named as PyTorch names its own)
    """Within it, models that call an operation of features or :func:`ikem_ext.derive_modalities` run its twin.

    Operations of features are :func:`ikem_ext.graph_conv`, :func:`ikem_ext.refined_graph_conv`,
    :func:`ikem_ext.pairwise_products`, :func:`ikem_ext.temporal_conv` and, in evaluation, :func:`ikem_ext.batch_norm`.

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
        self._twins: dict[Any, Callable[..., Any]] = {
            operations.batch_norm: _batch_norm,
            operations.graph_conv: _graph_conv,
            operations.pairwise_products: pairwise_products,
            operations.refined_graph_conv: refined_graph_conv,
            operations.temporal_conv: _temporal_conv,
            operations.temporal_conv_normed: _temporal_conv_normed,
            operations.derive_modalities: _derive_modalities,
        }

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Calls the twin, or what was to be called."""
        return self._twins.get(func, func)(*args, **(kwargs or {}))


def _graph_conv(x: Tensor, weight: Tensor, bias: Tensor | None, adjacency: Tensor, allow_tf32: bool) -> Tensor:
    return graph_conv(x, weight, bias, adjacency)


def _temporal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, dilation: int, allow_tf32: bool
) -> Tensor:
    return temporal_conv(x, weight, bias, stride=stride, padding=padding, dilation=dilation)


def _temporal_conv_normed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    norm_moments: Tensor,
    eps: float,
    training: bool,
    stride: int,
    padding: int,
    dilation: int,
    allow_tf32: bool,
) -> tuple[Tensor, Tensor]:
    _require_evaluation(training)
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    norm = norm_weight, norm_bias, norm_moments, eps
    return temporal_conv(x, weight, bias, **options, norm=norm, training=False, moments=True)


def _require_evaluation(training: bool) -> None:
    if training:
        raise RuntimeError("plain_operations: expected models in evaluation mode, got a batch norm in training")


def _batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    residual: Tensor | None,
    seed: Tensor | None,
    dropout: float,
    eps: float,
    relu: bool,
    training: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """In evaluation: in training the running statistics would need the batch's, which the twin keeps to itself."""
    _require_evaluation(training)
    y = batch_norm(x, weight, bias, mean, variance, training=False, eps=eps, residual=residual, relu=relu)
    return y, mean, variance


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

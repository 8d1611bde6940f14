"""Batch normalization whose result may lie where another tensor is no longer needed."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ikem_ext.nn.folding import Shift


class _NormedInto(torch.autograd.Function):
    """Batch normalization of ``x`` by its own statistics, written to ``out``."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running: tuple[Tensor | None, Tensor | None],
        momentum: float,
        eps: float,
        out: Tensor,
    ) -> Tensor:
        mean, deviation = (torch.empty_like(weight) for _ in range(2))
        torch.ops.aten.native_batch_norm.out(
            x, weight, bias, *running, True, momentum, eps, out=out, save_mean=mean, save_invstd=deviation
        )
        ctx.eps = eps
        ctx.mark_dirty(out)
        ctx.save_for_backward(x, weight, mean, deviation)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *statistics = ctx.saved_tensors
        gradients = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, None, None, *statistics, True, ctx.eps, ctx.needs_input_grad[:3]
        )
        return *gradients, None, None, None, None


def batch_norm(
    norm: nn.Module, x: Tensor, *, gain: float = 1.0, update: bool = True, out: Tensor | None = None
) -> Tensor:
    """Apply a module's batch normalization, times a gain.

    Args:
        norm: the module, or what :func:`ikem_ext.nn.folded` left of it.
        x: (N, C, T, V).
        gain: factor of weight and bias.
        update: in training, whether the running statistics take part; without, they stay as they are.
        out: in training, on a CPU, where the result may be written; ``x`` itself if no gradients are wanted.
    """
    if isinstance(norm, nn.Identity | Shift):
        return norm(x)
    norm = cast(nn.BatchNorm2d, norm)
    weight, bias = (norm.weight, norm.bias) if gain == 1 else (norm.weight * gain, norm.bias * gain)
    if not norm.training:
        return functional.batch_norm(x, norm.running_mean, norm.running_var, weight, bias, eps=norm.eps)
    assert norm.num_batches_tracked is not None and norm.momentum is not None
    running = (norm.running_mean, norm.running_var) if update else (None, None)
    norm.num_batches_tracked += update
    if out is None:
        return functional.batch_norm(x, *running, weight, bias, True, norm.momentum, norm.eps)
    return _NormedInto.apply(x, weight, bias, running, norm.momentum, norm.eps, out)


def disposable(x: Tensor) -> Tensor | None:
    """Return ``x`` where its normalization may overwrite it: on a CPU, if no gradients are wanted."""
    return None if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling() else x

"""Batch normalization: into the memory of a tensor that is no longer needed, and by the batches of all processes."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
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


class _NormedTogether(torch.autograd.Function):
    """Batch normalization of ``x`` by a mean and a variance that are those of the ``x`` of all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
        ctx.eps = eps
        ctx.save_for_backward(x, weight, mean, var)
        return functional.batch_norm(x, mean, var, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = ctx.saved_tensors
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, var, None, None, False, ctx.eps, (True, True, True)
        )  # as if the statistics were constants; what follows from their being made of x is a line in x
        deviation = (var + ctx.eps).rsqrt()
        sums = torch.stack((grad_weight, grad_bias))
        dist.all_reduce(sums)
        along, level = sums / (dist.get_world_size() * x.numel() // len(mean))
        slope = weight * along * deviation**2
        offset = weight * level * deviation - slope * mean
        channels = (1, -1, *[1] * (x.dim() - 2))
        slope, offset = (each.to(grad_x.dtype).view(channels) for each in (slope, offset))
        return grad_x.sub_(offset).addcmul_(x, slope, value=-1), grad_weight, grad_bias, None, None, None


@torch.no_grad()
def _joined_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel over the ``x`` of all processes, which are of the same size.

    By one sum over the processes, of means and squares; in float64, whose digits the difference of squares can spare.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    mean, var = torch.batch_norm_update_stats(wide, None, None, 0.0)  # what `torch.var_mean` does in 50 times as long
    sums = torch.stack((mean, var)).double()
    sums[1] += sums[0] ** 2
    dist.all_reduce(sums)
    mean, squares = sums / dist.get_world_size()
    return mean.to(wide.dtype), (squares - mean**2).clamp_min(0).to(wide.dtype)


class SyncedBatchNorm(nn.Module):
    """Batch normalization in training by the batches of all processes together, which are of the same size.

    What `torch.nn.SyncBatchNorm` does on GPUs, on any device and for layers that have the norm's parameters applied by
    `batch_norm`. Source: Ioffe and Szegedy, ICML 2015, algorithm 1, over the joined batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, ...)."""
        return batch_norm(self, x)


class SyncedBatchNorm1d(SyncedBatchNorm, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` by the batches of all processes."""


class SyncedBatchNorm2d(SyncedBatchNorm, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` by the batches of all processes."""


SYNCED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: SyncedBatchNorm1d,
    nn.BatchNorm2d: SyncedBatchNorm2d,
}


def synchronize(module: nn.Module, together: bool = True) -> None:
    """Make the batch norms in a module normalize by the batches of all processes, or by their own again.

    Parameters and buffers, and so checkpoints, stay what they are.

    Example:
        >>> norm = nn.BatchNorm2d(3)
        >>> synchronize(norm)
        >>> type(norm).__name__
        'SyncedBatchNorm2d'
    """
    becomes = SYNCED if together else {after: before for before, after in SYNCED.items()}
    for each in module.modules():
        each.__class__ = becomes.get(type(each), type(each))


def batch_norm(
    norm: nn.Module, x: Tensor, *, gain: float = 1.0, update: bool = True, out: Tensor | None = None
) -> Tensor:
    """Apply a module's batch normalization, times a gain.

    Args:
        norm: the module, or what :func:`ikem_ext.nn.folded` left of it; a `SyncedBatchNorm` takes statistics, in
            training, from the ``x`` of all processes.
        x: (N, C, ...).
        gain: factor of weight and bias.
        update: in training, whether the running statistics take part; without, they stay as they are.
        out: in training, on a CPU, where the result may be written; ``x`` itself if no gradients are wanted.
    """
    if isinstance(norm, nn.Identity | Shift):
        return norm(x)
    together = isinstance(norm, SyncedBatchNorm)
    norm = cast(nn.BatchNorm2d, norm)
    weight, bias = (norm.weight, norm.bias) if gain == 1 else (norm.weight * gain, norm.bias * gain)
    if not norm.training:
        return functional.batch_norm(x, norm.running_mean, norm.running_var, weight, bias, eps=norm.eps)
    assert norm.num_batches_tracked is not None and norm.momentum is not None
    running = (norm.running_mean, norm.running_var) if update else (None, None)
    norm.num_batches_tracked += update
    if together:
        mean, var = _joined_statistics(x)
        if update:
            _move_running_statistics(norm, mean, var, dist.get_world_size() * x.numel() // len(mean))
        return _NormedTogether.apply(x, weight, bias, mean, var, norm.eps)
    if out is None:
        return functional.batch_norm(x, *running, weight, bias, True, norm.momentum, norm.eps)
    return _NormedInto.apply(x, weight, bias, running, norm.momentum, norm.eps, out)


@torch.no_grad()
def _move_running_statistics(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor, count: int) -> None:
    assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
    norm.running_var.lerp_((var * count / (count - 1)).to(norm.running_var.dtype), norm.momentum)


def disposable(x: Tensor) -> Tensor | None:
    """Return ``x`` where its normalization may overwrite it: on a CPU, if no gradients are wanted."""
    return None if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling() else x

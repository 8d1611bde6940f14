"""Batch normalization of blocks, which may forget its result, and by the batches of all processes."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ikem_ext.batch_norm import draw_seed, update_running
from ikem_ext.nn.normalized import computes_natively, followed, normalized, update_statistics


class _Forgotten(torch.autograd.Function):
    """Batch normalization, dropout, sum and ReLU; of the result one byte an entry is kept, whether it is positive."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        norm: nn.BatchNorm2d,
        dropout: float,
        moments: Tensor | None,
    ) -> Tensor:
        seed = draw_seed(x.device) if dropout > 0 else None
        wide = torch.promote_types(x.dtype, torch.float32)
        weight, bias = weight.to(wide), bias.to(wide)
        given = (None, None) if moments is None else moments.unbind()
        y, mean, variance = torch.ops.ikem_ext.batch_norm(
            x, weight, bias, *given, residual, seed, dropout, norm.eps, True, True
        )
        update_statistics(norm, x, torch.stack((mean, variance)))
        ctx.settings = dropout, norm.eps
        ctx.save_for_backward(x, y.bool().view(torch.int8), weight, mean, variance, seed)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        for_residual = ctx.needs_input_grad[3]
        *gradients, grad_residual = torch.ops.ikem_ext.batch_norm_backward(
            grad, *ctx.saved_tensors, *ctx.settings, True, for_residual
        )
        return *gradients, grad_residual if for_residual else None, None, None, None


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
    norm: nn.Module,
    x: Tensor,
    *,
    dropout: float = 0.0,
    residual: Tensor | None = None,
    relu: bool = False,
    update: bool = True,
    forget: bool = False,
    moments: Tensor | None = None,
) -> Tensor:
    """Apply a module's batch normalization and what follows it in a block: see `ikem_ext.nn.normalized`.

    Args:
        norm: the module, or what :func:`ikem_ext.nn.folded` left of it; a `SyncedBatchNorm` takes statistics, in
            training, from the ``x`` of all processes.
        x: (N, C, T, V).
        dropout: probability, 0 in evaluation.
        residual: (N, C, T, V).
        relu: whether there is a ReLU.
        update: in training, whether the running statistics take part; without, they stay as they are.
        forget: whether nobody else keeps a result that went through a ReLU: on a CPU, in training, the backward pass
            then does without it.
        moments: of ``x``, (2, C), where they were made with it.
    """
    if isinstance(norm, SyncedBatchNorm):
        return followed(_synced(norm, x, update), dropout=dropout, residual=residual, relu=relu)
    if forget and relu and norm.training and computes_natively(norm, x) and torch.is_grad_enabled():
        norm = cast(nn.BatchNorm2d, norm)
        residual = None if residual is None else residual.to(x.dtype)
        return _Forgotten.apply(x, norm.weight, norm.bias, residual, norm, dropout, moments)
    return normalized(norm, x, dropout=dropout, residual=residual, relu=relu, update=update, moments=moments)


def _synced(module: SyncedBatchNorm, x: Tensor, update: bool) -> Tensor:
    norm = cast(nn.BatchNorm2d, module)
    if not norm.training:
        return functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    mean, var = _joined_statistics(x)
    if update:
        assert norm.num_batches_tracked is not None and norm.momentum is not None
        norm.num_batches_tracked += 1
        count = dist.get_world_size() * x.numel() // len(mean)
        update_running(norm.running_mean, norm.running_var, mean, var, count, norm.momentum)
    return _NormedTogether.apply(x, norm.weight, norm.bias, mean, var, norm.eps)

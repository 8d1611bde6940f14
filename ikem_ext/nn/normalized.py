"""A module's batch normalization together with what follows it in a block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..batch_norm import batch_norm


def normalized(
    norm: nn.Module,
    x: Tensor,
    *,
    dropout: float = 0.0,
    residual: Tensor | None = None,
    relu: bool = False,
    update: bool = True,
) -> Tensor:
    """``relu(dropout(norm(x)) + residual)``, of which dropout, residual and ReLU may each be left out.

    On the CPU a ``nn.BatchNorm2d`` computes through :func:`ikem_ext.batch_norm`: all of it in one pass. Other norms,
    what :func:`ikem_ext.nn.folded` left of one, and other devices take PyTorch's own operations one after another;
    without gradients these write over ``x`` where a norm left nothing. So does CUDA: there
    :func:`ikem_ext.batch_norm` does the same, but has not been measured against PyTorch's own.

    Args:
        norm: the module.
        x: (N, C, T, V).
        dropout: probability, 0 in evaluation.
        residual: (N, C, T, V), cast to the dtype of what the norm makes.
        relu: whether there is a ReLU.
        update: in training, whether the running statistics of a ``nn.BatchNorm2d`` take part; without, they stay.

    Example:
        >>> x = torch.randn(2, 8, 50, 25)
        >>> y = normalized(nn.BatchNorm2d(8), x, residual=x, relu=True)
        >>> torch.testing.assert_close(y, torch.relu(nn.BatchNorm2d(8)(x) + x))
    """
    if not isinstance(norm, nn.BatchNorm2d) or (update and not computes_natively(norm, x)):
        fresh = not isinstance(norm, nn.Identity)
        return followed(norm(x), dropout=dropout, residual=residual, relu=relu, fresh=fresh)
    running = (norm.running_mean, norm.running_var) if update or not norm.training else (None, None)
    training = norm.training or norm.running_mean is None
    if not computes_natively(norm, x):
        y = functional.batch_norm(x, *running, norm.weight, norm.bias, training, eps=norm.eps)
        return followed(y, dropout=dropout, residual=residual, relu=relu)
    if norm.training and update and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    assert norm.momentum is not None
    return batch_norm(
        x,
        norm.weight,
        norm.bias,
        *running,
        training=training,
        momentum=norm.momentum,
        eps=norm.eps,
        dropout=dropout,
        residual=None if residual is None else residual.to(x.dtype),
        relu=relu,
    )


def computes_natively(norm: nn.Module, x: Tensor) -> bool:
    """Whether :func:`ikem_ext.batch_norm` does what the module does."""
    return type(norm) is nn.BatchNorm2d and x.device.type == "cpu" and norm.affine and norm.momentum is not None


def followed(y: Tensor, *, dropout: float, residual: Tensor | None, relu: bool, fresh: bool = True) -> Tensor:
    """``relu(dropout(y) + residual)`` by PyTorch's own operations; a ``fresh`` y, which nobody else needs, is rectified
    in place, and any without gradients.
    """
    in_place = not torch.is_grad_enabled()
    if dropout > 0:
        y = functional.dropout(y, dropout)
    if residual is not None:
        y = y.add_(residual) if in_place else y + residual.to(y.dtype)
    return functional.relu(y, inplace=in_place or fresh or residual is not None) if relu else y

"""Batch normalization, and what follows it in a residual block."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from . import _library
from ._checks import Shapes, check_per_channel, check_same, not_for_torchscript
from ._features import empty_features
from ._transforms import (
    FORWARD_MODE,
    one_by_one,
    refuse,
    register_derivatives,
    register_end,
    register_vmap,
)

__all__ = ["batch_norm"]


@not_for_torchscript
def batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    dropout: float = 0.0,
    residual: Tensor | None = None,
    relu: bool = False,
    moments: Tensor | None = None,
) -> Tensor:
    r"""Batch normalization, dropout, the sum with a residual and ReLU, in one pass over memory behind the statistics.

    .. math:: y = \mathrm{relu}\Big(\mathrm{dropout}\Big(\gamma\, \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}}
              + \beta\Big) + r\Big)

    with :math:`\mu` and :math:`\sigma^2` the mean and the variance of each channel over the batch, frames and joints,
    or in evaluation the running ones. It is what ``torch.nn.functional`` does by ``batch_norm``, ``dropout``, a sum and
    ``relu``; x is read twice and y written once, and nothing else is written.

    Args:
        x: features, (N, C, T, V).
        weight: :math:`\gamma`, (C,).
        bias: :math:`\beta`, (C,).
        running_mean: (C,), moves towards the batch's in training, in place; needed in evaluation.
        running_var: likewise, of the unbiased variance.
        training: normalize by the batch; else by the running statistics.
        momentum: how far the running statistics move.
        eps: added to the variance.
        dropout: probability p to zero an entry, in evaluation, too; the others are divided by 1 - p.
        residual: r, of the shape and dtype of ``x``.
        relu: whether the result goes through a ReLU.
        moments: in training, mean and biased variance of each channel of x, (2, C), where
            :func:`ikem_ext.graph_conv` or :func:`ikem_ext.temporal_conv` made them with x: they are not made again, and
            x is read once. The gradient is the same.

    Returns:
        y, of the shape and dtype of ``x``, summed in float32 or wider; in memory channels last if ``x`` is. Once
        differentiable, in reverse mode, in ``x``, ``weight``, ``bias`` and ``residual``. The same bits each time, on
        the CPU for any number of threads. The random bits of dropout are made of a number drawn from PyTorch's default
        generator of the device and of an entry's place, in either pass, and not kept; by the same number the same
        entries are dropped on every device.

    Raises:
        ValueError: the shapes do not fit together, an argument is out of range or missing, or the inputs lie on
            different devices, or neither on the CPU nor on a CUDA device: elsewhere
            :func:`ikem_ext.reference.batch_norm` does it in plain PyTorch.
        TypeError: the dtypes differ or are not floating, or an input is sparse or nested.
        RuntimeError: the inputs are on a CUDA device, and this build has no CUDA operations.

    Source: Ioffe and Szegedy, "Batch Normalization", ICML 2015, algorithm 1; the order of Yan et al., "Spatial Temporal
    Graph Convolutional Networks for Skeleton-Based Action Recognition", AAAI 2018, section 3.6.

    Example:
        >>> import torch, ikem_ext
        >>> x, residual = torch.randn(2, 4, 50, 25), torch.randn(2, 4, 50, 25)
        >>> y = ikem_ext.batch_norm(x, torch.ones(4), torch.zeros(4), residual=residual, relu=True)
        >>> plain = torch.relu(torch.nn.functional.batch_norm(x, None, None, training=True) + residual)
        >>> torch.testing.assert_close(y, plain)
    """
    running = (running_mean, running_var)
    check_batch_norm(x, weight, bias, *running, residual, training, dropout, moments)
    _library.require_device("x", x)
    wide = torch.promote_types(x.dtype, torch.float32)
    weight, bias = weight.to(wide), bias.to(wide)
    given = (None, None) if training else tuple(each.to(wide) for each in running if each is not None)
    if moments is not None:
        given = moments.to(wide).unbind()
    seed = draw_seed(x.device) if dropout > 0 else None
    y, mean, variance = torch.ops.ikem_ext.batch_norm(
        x, weight, bias, *given, residual, seed, dropout, eps, relu, training
    )
    if training:
        update_running(running_mean, running_var, mean, variance, x.numel() // x.shape[1], momentum)
    return y


def check_batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    residual: Tensor | None,
    training: bool,
    dropout: float,
    moments: Tensor | None,
) -> None:
    """Requires arguments that :func:`batch_norm` takes."""
    shapes = Shapes()
    shapes.check("x", x, "N C T V")
    per_channel = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    check_same(("x", x))
    for name, tensor in per_channel.items():
        if tensor is None:
            if not training:
                raise ValueError(f"{name}: expected a tensor in evaluation, got None")
            continue
        check_per_channel(shapes, name, tensor, "C", x)
    if moments is not None:
        check_per_channel(shapes, "moments", moments, "2 C", x)
        if not training:
            raise ValueError("moments: expected None in evaluation, where the running statistics take their place")
    if residual is not None:
        shapes.check("residual", residual, "N C T V")
        check_same(("x", x), residual=residual)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected at least 0 and less than 1, got {dropout}")
    if training and x.numel() == x.shape[1]:
        raise ValueError(f"x: expected more than one value per channel in training, got shape {tuple(x.shape)}")


def draw_seed(device: torch.device) -> Tensor:
    """64 random bits from PyTorch's default generator of the device, on it: int64, ()."""
    return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device=device)


@torch.no_grad()
def update_running(
    running_mean: Tensor | None, running_var: Tensor | None, mean: Tensor, variance: Tensor, count: int, momentum: float
) -> None:
    """Moves running statistics, in place, towards a batch's, of ``count`` values a channel, whose variance is biased.

    An empty batch moves nothing.
    """
    if count == 0:
        return
    if running_mean is not None:
        running_mean.lerp_(mean.detach().to(running_mean.dtype), momentum)
    if running_var is not None:
        unbiased = variance.detach() * (count / (count - 1))
        running_var.lerp_(unbiased.to(running_var.dtype), momentum)


@torch.library.register_fake("ikem_ext::batch_norm")
def _fake(x: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return empty_features(x, *x.shape), torch.empty_like(weight), torch.empty_like(weight)


@torch.library.register_fake("ikem_ext::batch_norm_backward")
def _fake_backward(
    grad_y: Tensor, x: Tensor, y: Tensor | None, weight: Tensor, *settings: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    residual = empty_features(x, *x.shape) if settings[-1] else x.new_empty(0)
    return empty_features(x, *x.shape), torch.empty_like(weight), torch.empty_like(weight), residual


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, _, _, _, _, seed, *ctx.settings, relu, ctx.training = inputs
    y, mean, variance = output
    ctx.mark_non_differentiable(mean, variance)
    ctx.save_for_backward(x, y if relu else None, weight, mean, variance, seed)
    ctx.save_for_forward(x)


def _backward(ctx: Any, grad_y: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    for_residual = ctx.needs_input_grad[5]
    *gradients, grad_residual = torch.ops.ikem_ext.batch_norm_backward(
        grad_y, *ctx.saved_tensors, *ctx.settings, ctx.training, for_residual
    )
    wanted = (each if asked else None for each, asked in zip(gradients, ctx.needs_input_grad[:3], strict=True))
    return *wanted, None, None, grad_residual if for_residual else None, *(None,) * 5


def _no_forward_mode(*_: Any) -> NoReturn:
    refuse("batch_norm", FORWARD_MODE)


register_derivatives("batch_norm", setup_context=_setup_context, backward=_backward, jvp=_no_forward_mode)
register_end("batch_norm_backward", "batch_norm")


@register_vmap("batch_norm")
def _vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
    return one_by_one(torch.ops.ikem_ext.batch_norm, info, in_dims, *arguments)


@register_vmap("batch_norm_backward")
def _vmap_of_backward(info: Any, in_dims: Any, *arguments: Any) -> Any:
    return one_by_one(torch.ops.ikem_ext.batch_norm_backward, info, in_dims, *arguments)

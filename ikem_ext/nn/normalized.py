"""A module's batch normalization together with what comes before it and follows it in a block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..batch_norm import batch_norm, update_running
from ..temporal_conv import Norm, temporal_conv
from .folding import Shift
from .temporal_conv import convolve, convolves_natively, settings


def normalized(
    norm: nn.Module,
    x: Tensor,
    *,
    dropout: float = 0.0,
    residual: Tensor | None = None,
    relu: bool = False,
    update: bool = True,
    moments: Tensor | None = None,
) -> Tensor:
    """``relu(dropout(norm(x)) + residual)``, of which dropout, residual and ReLU may each be left out.

    On the CPU and on CUDA a ``nn.BatchNorm2d`` computes through :func:`ikem_ext.batch_norm`: all of it in one pass.
    Other norms, what :func:`ikem_ext.nn.folded` left of one, and other devices take PyTorch's own operations one after
    another; without gradients these write over ``x`` where a norm left nothing.

    Args:
        norm: the module.
        x: (N, C, T, V).
        dropout: probability, 0 in evaluation.
        residual: (N, C, T, V), cast to the dtype of what the norm makes.
        relu: whether there is a ReLU.
        update: in training, whether the running statistics of a ``nn.BatchNorm2d`` take part; without, they stay.
        moments: mean and biased variance of each channel of ``x``, (2, C), where they were made with it: a norm that
            `takes_moments` does not make them again.

    Example:
        >>> x = torch.randn(2, 8, 50, 25)
        >>> y = normalized(nn.BatchNorm2d(8), x, residual=x, relu=True)
        >>> torch.testing.assert_close(y, torch.relu(nn.BatchNorm2d(8)(x) + x))
    """
    if not isinstance(norm, nn.BatchNorm2d) or (update and not computes_natively(norm, x)):
        fresh = not isinstance(norm, nn.Identity)
        return followed(norm(x), dropout=dropout, residual=residual, relu=relu, fresh=fresh)
    running = (norm.running_mean, norm.running_var) if update or not norm.training else (None, None)
    training = _by_the_batch(norm)
    if not computes_natively(norm, x):
        y = functional.batch_norm(x, *running, norm.weight, norm.bias, training, eps=norm.eps)
        return followed(y, dropout=dropout, residual=residual, relu=relu)
    if update:
        _count(norm)
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
        moments=moments if training else None,
    )


def shortened(shortcut: nn.Module, x: Tensor) -> Tensor:
    """What a block's shortcut makes of ``x``; of a convolution and a batch norm the norm as by :func:`normalized`.

    Example:
        >>> shortcut, x = nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)).eval(), torch.randn(2, 8, 50, 25)
        >>> torch.testing.assert_close(shortened(shortcut, x), shortcut(x))
    """
    if type(shortcut) is not nn.Sequential or len(shortcut) != 2:
        return shortcut(x)
    conv, norm = shortcut
    y, moments = convolved_before(norm, conv, x)
    return normalized(norm, y, moments=moments)


def normalized_apart(
    norms: Sequence[nn.Module],
    widths: Sequence[int],
    x: Tensor,
    *,
    dropout: float = 0.0,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """As :func:`normalized` for channels that have several modules' normalizations, each ``widths[i]`` of them.

    Where all of them are alike ``nn.BatchNorm2d`` that compute natively, all is one pass; otherwise they run apart.

    Example:
        >>> norms, x = [nn.BatchNorm2d(4), nn.BatchNorm2d(8)], torch.randn(2, 12, 50, 25)
        >>> y = normalized_apart(norms, [4, 8], x, relu=True)
        >>> torch.testing.assert_close(y[:, :4], torch.relu(nn.BatchNorm2d(4)(x[:, :4])))
    """
    if not _are_one(norms, x):
        if not all(isinstance(norm, nn.Identity) for norm in norms):
            x = torch.cat([norm(part) for norm, part in zip(norms, x.split(list(widths), 1), strict=True)], 1)
        return followed(x, dropout=dropout, residual=residual, relu=relu)
    batch_norms = cast("Sequence[nn.BatchNorm2d]", norms)
    first = batch_norms[0]
    tracked = first.running_mean is not None
    running = [_joined(batch_norms, name) if tracked else None for name in ("running_mean", "running_var")]
    y = batch_norm(
        x,
        _joined(batch_norms, "weight"),
        _joined(batch_norms, "bias"),
        *running,
        training=first.training or not tracked,
        momentum=cast(float, first.momentum),
        eps=first.eps,
        dropout=dropout,
        residual=None if residual is None else residual.to(x.dtype),
        relu=relu,
    )
    if first.training and tracked:
        _remember(batch_norms, widths, *running)
    return y


def _are_one(norms: Sequence[nn.Module], x: Tensor) -> bool:
    """Whether one batch norm over all channels does what the norms do."""
    if not all(computes_natively(norm, x) for norm in norms):
        return False
    batch_norms = cast("Sequence[nn.BatchNorm2d]", norms)
    settings = {(norm.training, norm.momentum, norm.eps, norm.running_mean is None) for norm in batch_norms}
    return len(settings) == 1


def _joined(norms: Sequence[nn.Module], name: str) -> Tensor:
    return torch.cat([getattr(norm, name) for norm in norms])


@torch.no_grad()
def _remember(
    norms: Sequence[nn.BatchNorm2d], widths: Sequence[int], mean: Tensor | None, variance: Tensor | None
) -> None:
    """Gives each norm its part of the running statistics."""
    assert mean is not None and variance is not None
    for norm, *parts in zip(norms, mean.split(list(widths)), variance.split(list(widths)), strict=True):
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(parts[0])
        norm.running_var.copy_(parts[1])
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)


def convolved(
    norm: nn.Module, conv: nn.Conv2d, x: Tensor, moments: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """``conv(relu(norm(x)))``, and moments of it for a norm that follows, as `normalized` takes them, or None.

    On the CPU a ``nn.BatchNorm2d``, or what :func:`ikem_ext.nn.folded` left of one, and a convolution over frames are
    one pass (:func:`ikem_ext.temporal_conv`), in training where the moments of ``x`` are given.

    Args:
        norm: the module.
        conv: the module.
        x: (N, C, T, V).
        moments: mean and biased variance of each channel of ``x``, (2, C); needed by a norm that `takes_moments`.

    Example:
        >>> from ikem_ext.nn import TemporalConv
        >>> norm, conv, x = nn.BatchNorm2d(8), TemporalConv(8, 4, 9), torch.randn(2, 8, 50, 25)
        >>> moments = torch.stack((x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)))
        >>> y, _ = convolved(norm, conv, x, moments)
        >>> torch.testing.assert_close(y, conv(torch.relu(nn.BatchNorm2d(8)(x))))
    """
    given = prologue(norm, x, moments) if convolves_natively(conv, x) else None
    if given is None:
        return convolve(conv, normalized(norm, x, relu=True, moments=moments)), None
    training = isinstance(norm, nn.BatchNorm2d) and _by_the_batch(norm)
    made = temporal_conv(
        x, conv.weight[..., 0], conv.bias, **settings(conv), norm=given, training=training, moments=True
    )
    if isinstance(norm, nn.BatchNorm2d) and norm.training and moments is not None:
        update_statistics(norm, x, moments)
    return made


def convolved_before(norm: nn.Module | None, conv: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """``conv(x)``, and its moments, where the module behind it is a norm that `takes_moments` and both are one pass.

    Example:
        >>> y, moments = convolved_before(nn.BatchNorm2d(4), nn.Conv2d(8, 4, (3, 1)), torch.randn(2, 8, 50, 25))
        >>> y.shape, moments.shape
        (torch.Size([2, 4, 48, 25]), torch.Size([2, 4]))
    """
    if norm is None or not takes_moments(norm, x) or not convolves_natively(conv, x):
        return convolve(conv, x), None
    return temporal_conv(x, conv.weight[..., 0], conv.bias, **settings(conv), moments=True)


def prologue(norm: nn.Module, x: Tensor, moments: Tensor | None) -> Norm | None:
    """The norm as :func:`ikem_ext.temporal_conv` takes it; None where it computes otherwise, or moments are missing."""
    if isinstance(norm, Shift):
        ones = torch.ones_like(norm.shift)
        return ones, norm.shift, torch.stack((torch.zeros_like(ones), ones)), 0.0
    if not computes_natively(norm, x):
        return None
    assert isinstance(norm, nn.BatchNorm2d)
    if not _by_the_batch(norm):
        assert norm.running_mean is not None and norm.running_var is not None
        moments = torch.stack((norm.running_mean, norm.running_var))
    return None if moments is None else (norm.weight, norm.bias, moments, norm.eps)


def update_statistics(norm: nn.BatchNorm2d, x: Tensor, moments: Tensor) -> None:
    """Has the norm's running statistics take part in a batch of these moments."""
    _count(norm)
    assert norm.momentum is not None
    mean, variance = moments.unbind()
    update_running(norm.running_mean, norm.running_var, mean, variance, x.numel() // x.shape[1], norm.momentum)


def takes_moments(norm: nn.Module, x: Tensor) -> bool:
    """Whether the module, applied to what is made of ``x`` and lies where it does, takes moments to normalize by."""
    return computes_natively(norm, x) and isinstance(norm, nn.BatchNorm2d) and _by_the_batch(norm)


def _by_the_batch(norm: nn.BatchNorm2d) -> bool:
    return norm.training or norm.running_mean is None


def _count(norm: nn.BatchNorm2d) -> None:
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)


def computes_natively(norm: nn.Module, x: Tensor) -> bool:
    """Whether :func:`ikem_ext.batch_norm` does what the module does."""
    native = type(norm) is nn.BatchNorm2d and norm.affine and norm.momentum is not None
    return native and x.device.type in ("cpu", "cuda")


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

"""Plain-PyTorch twin of :func:`ikem_ext.temporal_conv`."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from ..temporal_conv import Norm, check_temporal_conv
from .batch_norm import moments_of, scaled


@overload
def temporal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    norm: Norm | None = None,
    training: bool = True,
    moments: Literal[False] = False,
) -> Tensor: ...
@overload
def temporal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    norm: Norm | None = None,
    training: bool = True,
    moments: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def temporal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    norm: Norm | None = None,
    training: bool = True,
    moments: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """See :func:`ikem_ext.temporal_conv`; the same arguments, values and gradients, on any device.

    In training the moments of a norm are made once more, so that PyTorch differentiates them.
    """
    check_temporal_conv(x, weight, bias, stride, padding, dilation, norm, training)
    wide = torch.promote_types(x.dtype, torch.float32)
    x, kernel, bias = x.to(wide), weight.to(wide)[..., None], None if bias is None else bias.to(wide)
    if norm is not None:
        norm_weight, norm_bias, norm_moments, eps = norm
        mean, variance = (moments_of(x) if training else norm_moments).unbind()
        x = scaled(x, norm_weight, norm_bias, mean, variance, eps).relu()
    if weight.shape[2] == 1:  # PyTorch's own with a stride writes beyond its memory: see ikem_ext.nn.PointwiseConv
        y = conv2d(pad(x, (0, 0, padding, padding))[:, :, ::stride], kernel, bias)
    else:
        y = conv2d(x, kernel, bias, (stride, 1), (padding, 0), (dilation, 1))
    return (y.to(weight.dtype), moments_of(y.detach())) if moments else y.to(weight.dtype)

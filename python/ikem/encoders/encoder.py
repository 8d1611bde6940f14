"""What all encoders share: their ten blocks, the way of skeletons through them, and how their weights start."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ikem.encoders.pooling import Pooling, group_means
from ikem_ext.nn import PointwiseConv
from ikem_ext.skeleton import SkeletonLayout

Initialization = Literal["published", "kaiming"]

TEMPORAL_KERNEL = 9


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Return a block's residual: the identity where shapes agree, else a strided 1x1 convolution and batch norm."""
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return nn.Sequential(PointwiseConv(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))


class _BodyMean(torch.autograd.Function):
    """Mean over time, joints and bodies, (N * M, F, T, V) to (N, F), whose gradient is a view of (N * M, F) numbers.

    That of `torch.mean` over the bodies' own axis is written out, and in another memory layout than the maps have.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, bodies: int) -> Tensor:
        ctx.shape, ctx.bodies = maps.shape, bodies
        if maps.dtype == torch.bfloat16 and maps.device.type == "cpu":  # where `mean` would write them in float32 first
            sums = maps.sum((2, 3)).float().unflatten(0, (-1, bodies)).sum(1)
            return (sums / (bodies * maps.shape[2] * maps.shape[3])).to(maps.dtype)
        return maps.unflatten(0, (-1, bodies)).mean((1, 3, 4))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        *_, frames, joints = ctx.shape
        each = (grad / (ctx.bodies * frames * joints)).repeat_interleave(ctx.bodies, 0)
        return each[:, :, None, None].expand(ctx.shape), None


class Encoder(nn.Module):
    """Ten blocks of graph and temporal convolution, averaged over time, joints and bodies, or joints kept apart.

    Channels are w w w w | 2w 2w 2w | 4w 4w F, time is halved in blocks 5 and 8 (Yan et al., AAAI 2018; Wei et al.,
    arXiv 2309.12009, implementation details). Which block it is made of, a subclass says.

    Args:
        layout: the skeleton; its graph has V joints.
        base_width: w.
        feature_width: F, channels of the last block.
        dropout: probability in blocks 2 to 10, after the temporal convolution.
        initialization: ``published`` draws convolutions from N(0, 0.02) and batch-norm weights from N(1, 0.02), as the
            method's code does in any encoder; ``kaiming`` draws convolutions from N(0, 2 / fan_out) and leaves batch
            norms as the block made them.
        in_channels: coordinates per joint.
        pooling: what the features are: ``mean``, over time and joints; ``joints``, the means over time of every joint;
            or ``parts``, those of every part of the body (see `body_parts`).

    Attributes:
        map_width: F.
        map_joints: the size of the feature map's last axis: V.
        feature_width: of the features; F, or F times the number of joints or parts that are kept apart.

    Raises:
        ValueError: if the parts of the body are asked for, of which the layout's names tell nothing.
    """

    group_means: Tensor | None

    #: Makes a block: (in_channels, out_channels, adjacency (K, V, V), *, stride, dropout, residual) -> module.
    block: ClassVar[Callable[..., nn.Module]]

    def __init__(
        self,
        layout: SkeletonLayout,
        *,
        base_width: int = 16,
        feature_width: int = 256,
        dropout: float = 0.5,
        initialization: Initialization = "published",
        in_channels: int = 3,
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__()
        self.num_joints = self.map_joints = layout.num_joints
        self.in_channels = in_channels
        self.map_width = feature_width
        self.data_norm = nn.BatchNorm1d(self.num_joints * in_channels)
        self.build(layout, base_width, dropout)
        self.register_buffer("group_means", group_means(pooling, layout), persistent=False)
        self.feature_width = feature_width * (1 if self.group_means is None else self.group_means.shape[1])
        self.apply(partial(self.initialize, initialization=initialization))

    def build(self, layout: SkeletonLayout, base_width: int, dropout: float) -> None:
        """Make the layers: ``blocks``, which map (N * M, 3, T, V) to (N * M, F, T', V)."""
        adjacency = layout.adjacency()
        widths = [base_width] * 4 + [2 * base_width] * 3 + [4 * base_width] * 2 + [self.map_width]
        self.blocks = nn.Sequential(
            *(
                self.block(
                    before,
                    after,
                    adjacency,
                    stride=2 if index in (4, 7) else 1,
                    dropout=dropout if index > 0 else 0.0,
                    residual=index > 0,
                )
                for index, (before, after) in enumerate(zip([self.in_channels, *widths], widths, strict=False))
            )
        )

    def initialize(self, module: nn.Module, initialization: Initialization) -> None:
        """Draw the weights of one module of the encoder."""
        if isinstance(module, nn.Conv2d) and initialization == "published":
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and initialization == "published":
            nn.init.normal_(module.weight, 1.0, 0.02)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)

    def layers(self) -> list[nn.Module]:
        """Return what holds the parameters, from the skeleton on: the norm of the coordinates, then the blocks."""
        return [self.data_norm, *self.blocks]

    def forward(self, x: Tensor) -> Tensor:
        """Map skeletons (N, 3, T, V, M) to features (N, F), the mean of the feature map over time and joints.

        Or, where joints or parts of the body are kept apart, to (N, F * V').
        """
        if self.group_means is None:
            return _BodyMean.apply(self.body_maps(x), x.shape[-1])
        return self.pool(self.feature_map(x))

    def pool(self, maps: Tensor) -> Tensor:
        """Map feature maps (N, F, T', V) to features (N, F), or (N, F * V'), all joints or parts of a channel in a row.

        Of what `feature_map` returns this makes what `forward` returns.
        """
        if self.group_means is None:
            return maps.mean((2, 3))
        return (maps.mean(2) @ self.group_means.to(maps.dtype)).flatten(1)

    def feature_map(self, x: Tensor) -> Tensor:
        """Encode skeletons, time and joints apart.

        Args:
            x: (N, 3, T, V, M).

        Returns:
            (N, F, T', V), T' a quarter of T: the output of the last block, averaged over the bodies.

        Raises:
            ValueError: if the channels or joints of ``x`` are not those of the encoder.
        """
        maps = self.body_maps(x)
        return maps if x.shape[-1] == 1 else maps.unflatten(0, (-1, x.shape[-1])).mean(1)

    def body_maps(self, x: Tensor) -> Tensor:
        """Encode skeletons (N, 3, T, V, M) as by `feature_map`, bodies apart too: (N * M, F, T', V)."""
        if x.dim() != 5 or x.shape[1] != self.in_channels or x.shape[3] != self.num_joints:
            raise ValueError(
                f"x: expected shape (N, {self.in_channels}, T, {self.num_joints}, M), got {tuple(x.shape)}"
            )
        clips, channels, frames, joints, bodies = x.shape
        x = x.permute(0, 4, 3, 1, 2).reshape(clips * bodies, joints * channels, frames)
        x = self.data_norm(x).view(clips * bodies, joints, channels, frames).permute(0, 2, 3, 1)
        # On a CPU all layers are fastest with the channels innermost, and keep them there.
        layout = torch.channels_last if x.device.type == "cpu" else torch.contiguous_format
        return self.blocks(x.contiguous(memory_format=layout))

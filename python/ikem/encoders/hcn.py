"""The hierarchical co-occurrence network (Li et al., IJCAI 2018) as an encoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ikem.encoders.encoder import Encoder
from ikem_ext.skeleton import SkeletonLayout

HALVINGS = 4  # of time and of conv2's channels


class JointsAsChannels(nn.Module):
    """Exchanges joints and channels, so that what follows convolves over time and channels and sums over all joints."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, T, V) to (N, V, T, C)."""
        return x.transpose(1, 3)


class HCN(Encoder):
    """Hierarchical co-occurrence network, one branch of it, as an encoder.

    conv1 (1x1, 4w channels) and conv2 (3x1, 2w) see each joint by itself. Then joints become channels, and channels an
    axis beside time: conv3 (3x3, 2w), conv4 (4w), conv5 (8w) and conv6 (F) see all joints at once, each with a maximum
    over 2x2 behind it. ReLU follows conv1, conv5 and conv6, dropout of whole channels conv4, conv5 and conv6. With
    w = 16 and F = 256 these are the published sizes. Of several bodies the maximum is taken.

    The features are the means over time of the F channels at each of the V' = 2w / 16 places that are left of conv2's
    channels (rounded up, as are all halvings), in the place of fc7, which the first layer of a head is.

    Motion is not a second branch, but a modality with an encoder of its own. Batch norm before conv1 and behind each
    convolution is not published; it is what the other encoders have.

    Source: Li et al., "Co-occurrence Feature Learning from Skeleton Data for Action Recognition and Detection with
    Hierarchical Aggregation", IJCAI 2018, arXiv 1804.06055, figure 3; the mean over time is that of the authors' later
    code.

    Args:
        layout: the skeleton, of which only the number of joints matters.
        base_width: w.
        feature_width: F.
        dropout: probability.
        options: as of `Encoder`, but the pooling.

    Example:
        >>> import torch
        >>> from ikem_ext.skeleton import get_layout
        >>> encoder = HCN(get_layout("ntu25"), base_width=16, feature_width=24)
        >>> clips = torch.zeros(2, 3, 32, 25, 2)
        >>> encoder(clips).shape, encoder.feature_map(clips).shape
        (torch.Size([2, 48]), torch.Size([2, 24, 2, 2]))
    """

    def __init__(self, layout: SkeletonLayout, **options: Any) -> None:
        super().__init__(layout, **options)
        if self.group_means is not None:
            raise ValueError("pooling: expected mean, as the maps of HCN have no joints")
        self.feature_width = self.map_width * self.map_joints

    def build(self, layout: SkeletonLayout, base_width: int, dropout: float) -> None:
        """Make the layers, of which the last axis is no longer one of joints."""
        w = base_width
        self.map_joints = -(-2 * w // 2**HALVINGS)
        self.blocks = nn.Sequential(
            *_conv(self.in_channels, 4 * w, (1, 1)),
            nn.ReLU(inplace=True),
            *_conv(4 * w, 2 * w, (3, 1)),
            JointsAsChannels(),
            *_conv(layout.num_joints, 2 * w, (3, 3)),
            _halving(),
            *_conv(2 * w, 4 * w, (3, 3)),
            nn.Dropout2d(dropout),
            _halving(),
            *_conv(4 * w, 8 * w, (3, 3)),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            _halving(),
            *_conv(8 * w, self.map_width, (3, 3)),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            _halving(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map skeletons (N, 3, T, V, M) to features (N, F * V')."""
        return self.pool(self.feature_map(x))

    def feature_map(self, x: Tensor) -> Tensor:
        """Encode skeletons (N, 3, T, V, M), time and places apart: (N, F, T', V'), T' = T / 16, rounded up."""
        return self.body_maps(x).unflatten(0, (-1, x.shape[-1])).amax(1)

    def pool(self, maps: Tensor) -> Tensor:
        """Map feature maps (N, F, T', V') to features (N, F * V')."""
        return maps.mean(2).flatten(1)


def _conv(in_channels: int, out_channels: int, kernel: tuple[int, int]) -> Iterator[nn.Module]:
    padding = (kernel[0] // 2, kernel[1] // 2)
    yield nn.Conv2d(in_channels, out_channels, kernel, padding=padding, bias=False)
    yield nn.BatchNorm2d(out_channels)


def _halving() -> nn.Module:
    return nn.MaxPool2d(2, ceil_mode=True)

"""ST-GCN with its projection, in the published formulation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ikem.encoders import unit

from ..operations import frames_met
from .batch import BODIES, FRAMES, NTU

#: Channels and strides of the blocks.
BLOCKS = ((16, 1),) * 4 + ((32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (256, 1))
FEATURES = 256


class PublishedBlock(nn.Module):
    """A block of ST-GCN."""

    def __init__(self, before: int, after: int, parts: int, stride: int, dropout: float, residual: bool) -> None:
        super().__init__()
        self.gcn = nn.ModuleDict({"conv": nn.Conv2d(before, parts * after, 1)})
        self.tcn = nn.Sequential(
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            nn.Conv2d(after, after, (9, 1), (stride, 1), (4, 0)),
            nn.BatchNorm2d(after),
            nn.Dropout(dropout, inplace=True),
        )
        self.residual: nn.Module | None = None
        if residual:
            same = before == after and stride == 1
            self.residual = (
                nn.Identity()
                if same
                else nn.Sequential(nn.Conv2d(before, after, 1, (stride, 1)), nn.BatchNorm2d(after))
            )

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """Map (N, C_in, T, V) to (N, C_out, T', V)."""
        parts = self.gcn["conv"](x).unflatten(1, (len(adjacency), -1))
        y = self.tcn(torch.einsum("nkctv,kvw->nctw", parts, adjacency).contiguous())
        return torch.relu_(y if self.residual is None else y + self.residual(x))


class PublishedEncoder(nn.Module):
    """ST-GCN with its projection, under the published names."""

    A: Tensor

    def __init__(self, projected: int, hidden: int = FEATURES, dropout: float = 0.5) -> None:
        super().__init__()
        adjacency = NTU.adjacency()
        self.register_buffer("A", adjacency)
        self.data_bn = nn.BatchNorm1d(3 * NTU.num_joints)
        widths = [3] + [width for width, _ in BLOCKS]
        self.st_gcn_networks = nn.ModuleList(
            PublishedBlock(before, after, len(adjacency), stride, dropout if i else 0.0, i > 0)
            for i, (before, (after, stride)) in enumerate(zip(widths, BLOCKS, strict=False))
        )
        self.edge_importance = nn.ParameterList(torch.ones_like(adjacency) for _ in BLOCKS)
        self.fc = published_head(projected, hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, 3, T, V, M) to features and normalized embeddings."""
        clips, channels, frames, joints, bodies = x.shape
        x = x.permute(0, 4, 3, 1, 2).contiguous().view(clips * bodies, joints * channels, frames)
        x = self.data_bn(x).view(clips, bodies, joints, channels, frames)
        x = x.permute(0, 1, 3, 4, 2).contiguous().view(clips * bodies, channels, frames, joints)
        for block, importance in zip(self.st_gcn_networks, self.edge_importance, strict=True):
            x = block(x, self.A * importance)
        features = x.mean((2, 3)).view(clips, bodies, -1).mean(1)
        return features, unit(self.fc(features))


def published_head(projected: int, hidden: int) -> nn.Sequential:
    """Two linear layers."""
    return nn.Sequential(nn.Linear(FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, projected))


def encoder_operations(clips: int) -> int:
    """Multiplications and additions of one encoder's forward pass; the sums over joints are sparse, and left out."""
    parts = len(NTU.adjacency())
    frames, before, total = FRAMES, 3, 0
    for after, stride in BLOCKS:
        total += parts * before * after * frames
        total += frames_met(frames, 9, stride, padding=4) * after * after
        frames = -(-frames // stride)
        if before > 3 and (before != after or stride > 1):
            total += before * after * frames
        before = after
    return 2 * clips * BODIES * NTU.num_joints * total

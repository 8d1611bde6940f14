"""Stand-ins, made and computing as other projects' code does, for the units and blocks that `accelerate` knows."""
# ruff: noqa: N801, N803

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

import ikem_ext
from ikem_ext.bench import layers
from ikem_ext.nn import agcn, ctrgcn, msg3d, pyskl, stgcn

CHANNELS, CLASSES = 8, 5
LAYOUT = ikem_ext.get_layout("sbu15")
JOINTS = LAYOUT.num_joints
ADJACENCY = LAYOUT.adjacency()
PARTS = len(ADJACENCY)


class ConvTemporalGraphical(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.kernel_size = PARTS
        self.conv = nn.Conv2d(in_channels, out_channels * PARTS, (1, 1))

    def forward(self, x: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
        return layers.published_conv_temporal_graphical(self, x, A), A


def convolutions(in_channels: int, out_channels: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(in_channels, out_channels, 1) for _ in range(PARTS))


def shortcut(in_channels: int, out_channels: int) -> nn.Module | Callable[[Tensor], Tensor]:
    if in_channels == out_channels:
        return lambda x: x
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels))


class AdaptiveUnit(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.inter_c = out_channels // 4
        self.PA = nn.Parameter(torch.full_like(ADJACENCY, 1e-6))
        self.A = ADJACENCY.clone()
        self.num_subset = PARTS
        self.conv_a = convolutions(in_channels, self.inter_c)
        self.conv_b = convolutions(in_channels, self.inter_c)
        self.conv_d = convolutions(in_channels, out_channels)
        self.down = shortcut(in_channels, out_channels)
        self.bn = nn.BatchNorm2d(out_channels)
        self.soft = nn.Softmax(-2)
        self.relu = nn.ReLU()

    forward = layers.published_agcn


AdaptiveUnit.__name__ = "unit_gcn"


class CTRGC(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.rel_channels, self.mid_channels = 2, in_channels
        self.conv1 = nn.Conv2d(in_channels, self.rel_channels, 1)
        self.conv2 = nn.Conv2d(in_channels, self.rel_channels, 1)
        self.conv3 = nn.Conv2d(in_channels, out_channels, 1)
        self.conv4 = nn.Conv2d(self.rel_channels, out_channels, 1)
        self.tanh = nn.Tanh()

    def forward(self, x: Tensor, A: Tensor | None = None, alpha: Tensor | float = 1) -> Tensor:
        return layers.published_ctrgc(self, x, A, alpha)


class RefinedUnit(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, adaptive: bool = True, residual: bool = True) -> None:
        super().__init__()
        self.in_c, self.out_c, self.inter_c = in_channels, out_channels, out_channels // 4
        self.adaptive = adaptive
        self.num_subset = PARTS
        self.convs = nn.ModuleList(CTRGC(in_channels, out_channels) for _ in range(PARTS))
        self.down = shortcut(in_channels, out_channels) if residual else lambda x: 0
        if adaptive:
            self.PA = nn.Parameter(ADJACENCY.clone())
        else:
            self.A = ADJACENCY.clone()
        self.alpha = nn.Parameter(torch.zeros(1))
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    forward = layers.published_ctrgcn


RefinedUnit.__name__ = "unit_gcn"


SCALES = 4
EDGES = ADJACENCY[1:].sum(0) > 0


class MLP(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        dropouts = [nn.Dropout(dropout)] if dropout else []
        conv = nn.Conv2d(in_channels, out_channels, 1)
        self.layers = nn.ModuleList([*dropouts, conv, nn.BatchNorm2d(out_channels), nn.ReLU()])

    def forward(self, x: Tensor) -> Tensor:
        return nn.Sequential(*self.layers)(x)


class MultiScale_GraphConv(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, dropout: float = 0) -> None:
        super().__init__()
        self.num_scales = SCALES
        self.use_mask = True
        self.A_powers = msg3d.MultiScale_GraphConv(SCALES, 1, 1, EDGES).A_powers.clone()
        self.A_res = nn.Parameter(1e-6 * torch.rand_like(self.A_powers))
        self.mlp = MLP(in_channels * SCALES, out_channels, dropout)

    def forward(self, x: Tensor) -> Tensor:
        self.A_powers = self.A_powers.to(x.device)
        return layers.published_multi_scale(self, x)


class MSGCN(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, dropout: float = 0) -> None:
        super().__init__()
        self.num_scales = SCALES
        self.register_buffer("A", pyskl.MSGCN(SCALES, 1, 1, EDGES).A.clone())
        self.PA = nn.Parameter(1e-6 * torch.rand_like(self.A))
        self.mlp = MLP(in_channels * SCALES, out_channels, dropout)

    forward = layers.published_pyskl_multi_scale


class PysklUnit(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, adaptive: str | None, conv_pos: str, res: bool) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.num_subsets = in_channels, out_channels, PARTS
        self.adaptive, self.conv_pos, self.with_res = adaptive, conv_pos, res
        self.bn, self.act = nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
        if adaptive == "init":
            self.A = nn.Parameter(ADJACENCY.clone())
        else:
            self.register_buffer("A", ADJACENCY.clone())
        if adaptive in ("offset", "importance"):
            self.PA = nn.Parameter(torch.rand_like(ADJACENCY))
        widths = (in_channels, out_channels * PARTS) if conv_pos == "pre" else (in_channels * PARTS, out_channels)
        self.conv = nn.Conv2d(*widths, 1)
        if res:
            self.down = shortcut(in_channels, out_channels)

    def forward(self, x: Tensor, A: Tensor | None = None) -> Tensor:
        return layers.published_pyskl_gcn(self, x)


PysklUnit.__name__ = "unit_gcn"


class unit_aagcn(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.inter_c, self.out_c, self.in_c = out_channels // 4, out_channels, in_channels
        self.num_subset = PARTS
        self.adaptive = self.attention = True
        self.conv_d = convolutions(in_channels, out_channels)
        self.A = nn.Parameter(ADJACENCY.clone())
        self.alpha = nn.Parameter(torch.ones(1))
        self.conv_a, self.conv_b = (convolutions(in_channels, self.inter_c) for _ in range(2))
        self.conv_ta = nn.Conv1d(out_channels, 1, 9, padding=4)
        self.conv_sa = nn.Conv1d(out_channels, 1, JOINTS, padding=JOINTS // 2)
        self.fc1c, self.fc2c = nn.Linear(out_channels, out_channels // 2), nn.Linear(out_channels // 2, out_channels)
        self.down = shortcut(in_channels, out_channels)
        self.bn = nn.BatchNorm2d(out_channels)

    forward = layers.published_aagcn


class PysklCTRGC(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.rel_channels = in_channels, out_channels, 8
        self.conv1, self.conv2 = nn.Conv2d(in_channels, 8, 1), nn.Conv2d(in_channels, 8, 1)
        self.conv3, self.conv4 = nn.Conv2d(in_channels, out_channels, 1), nn.Conv2d(8, out_channels, 1)

    def forward(self, x: Tensor, A: Tensor | None = None, alpha: Tensor | float = 1) -> Tensor:
        return layers.published_pyskl_ctrgc(self, x, A, alpha)


PysklCTRGC.__name__ = "CTRGC"


class unit_ctrgcn(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.inter_c, self.out_c, self.in_c, self.num_subset = out_channels // 4, out_channels, in_channels, PARTS
        self.convs = nn.ModuleList(PysklCTRGC(in_channels, out_channels) for _ in range(PARTS))
        self.down = shortcut(in_channels, out_channels)
        self.A = nn.Parameter(ADJACENCY.clone())
        self.alpha = nn.Parameter(torch.zeros(1))
        self.bn = nn.BatchNorm2d(out_channels)

    forward = layers.published_pyskl_ctrgcn


class WithGraph(nn.Module):
    """Units that want the adjacency with each call."""

    def __init__(self, unit: nn.Module, adjacency: Tensor) -> None:
        super().__init__()
        self.unit = unit
        self.edges = nn.Parameter(adjacency.clone())

    def forward(self, x: Tensor) -> Tensor:
        y = self.unit(x, self.edges)
        return functional.relu(y[0] if isinstance(y, tuple) else y)


class TimeUnit(nn.Module):
    """2s-AGCN's and CTR-GCN's; and, under other names, MS-G3D's."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 9, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        pad = dilation * (kernel_size - 1) // 2
        self.conv = nn.Conv2d(
            in_channels, out_channels, (kernel_size, 1), (stride, 1), (pad, 0), dilation=(dilation, 1)
        )
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


TimeUnit.__name__ = "unit_tcn"


class TemporalConv(TimeUnit):
    pass


class PysklTimeUnit(TimeUnit):
    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 9, stride: int = 1, dropout: float = 0
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)
        self.in_channels, self.out_channels, self.norm_cfg, self.stride = in_channels, out_channels, {}, stride
        self.drop = nn.Dropout(dropout, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(super().forward(x))

    def init_weights(self) -> None:
        pass


PysklTimeUnit.__name__ = "unit_tcn"


def block_shortcut(
    in_channels: int, out_channels: int, stride: int, residual: bool, unit: Callable[..., nn.Module] = TimeUnit
) -> nn.Module | Callable[[Tensor], Tensor | int]:
    if not residual:
        return lambda x: 0
    if in_channels == out_channels and stride == 1:
        return lambda x: x
    return unit(in_channels, out_channels, kernel_size=1, stride=stride)


class MultiScale(nn.Module):
    """CTR-GCN's."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, residual: bool = True) -> None:
        super().__init__()
        width = out_channels // 4
        self.num_branches = 4

        def entry() -> tuple[nn.Module, ...]:
            return nn.Conv2d(in_channels, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)

        self.branches = nn.ModuleList(
            nn.Sequential(*entry(), TemporalConv(width, width, 5, stride, dilation)) for dilation in (1, 2)
        )
        pool = nn.MaxPool2d((3, 1), (stride, 1), (1, 0))
        self.branches.append(nn.Sequential(*entry(), pool, nn.BatchNorm2d(width)))
        last = nn.Conv2d(in_channels, width, 1, (stride, 1))
        self.branches.append(nn.Sequential(last, nn.BatchNorm2d(width)))
        self.residual = block_shortcut(in_channels, out_channels, stride, residual, TemporalConv)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([branch(x) for branch in self.branches], 1)
        y += self.residual(x)
        return y


MultiScale.__name__ = "MultiScale_TemporalConv"


class ActivatedMultiScale(MultiScale):
    """MS-G3D's; and, under another name, PYSKL's."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, residual: bool = True) -> None:
        super().__init__(in_channels, out_channels, stride, residual)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


ActivatedMultiScale.__name__ = "MultiScale_TemporalConv"


class MSTCN(ActivatedMultiScale):
    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, residual: bool = True) -> None:
        super().__init__(in_channels, out_channels, stride, residual)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(super().forward(x))

    def init_weights(self) -> None:
        pass


class mstcn(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.in_channels, width = in_channels, out_channels // 4
        self.act = nn.ReLU()
        self.branches = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(in_channels, 2 * width, 1),
                    nn.BatchNorm2d(2 * width),
                    self.act,
                    PysklTimeUnit(2 * width, 2 * width, 3, stride),
                ),
                nn.Sequential(
                    nn.Conv2d(in_channels, width, 1),
                    nn.BatchNorm2d(width),
                    self.act,
                    nn.MaxPool2d((3, 1), (stride, 1), (1, 0)),
                ),
                nn.Conv2d(in_channels, width, 1, (stride, 1)),
            ]
        )
        self.branches[0][3].bn = nn.Identity()
        self.transform = nn.Sequential(nn.BatchNorm2d(out_channels), self.act, nn.Conv2d(out_channels, out_channels, 1))
        self.bn, self.drop = nn.BatchNorm2d(out_channels), nn.Dropout(0.0, inplace=True)

    def inner_forward(self, x: Tensor) -> Tensor:
        return self.transform(torch.cat([branch(x) for branch in self.branches], 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.bn(self.inner_forward(x)))

    def init_weights(self) -> None:
        pass


class st_gcn(nn.Module):
    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, residual: bool = True, dropout: float = 0
    ) -> None:
        super().__init__()
        self.gcn = ConvTemporalGraphical(in_channels, out_channels)
        self.tcn = nn.Sequential(
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, (9, 1), (stride, 1), (4, 0)),
            nn.BatchNorm2d(out_channels),
            nn.Dropout(dropout, inplace=True),
        )

        def projection(in_channels: int, out_channels: int, kernel_size: int, stride: int) -> nn.Module:
            conv = nn.Conv2d(in_channels, out_channels, kernel_size, (stride, 1))
            return nn.Sequential(conv, nn.BatchNorm2d(out_channels))

        self.residual = block_shortcut(in_channels, out_channels, stride, residual, projection)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
        residual = self.residual(x)
        x, A = self.gcn(x, A)
        return self.relu(self.tcn(x) + residual), A


class AdaptiveBlock(nn.Module):
    """2s-AGCN's."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, residual: bool = True) -> None:
        super().__init__()
        self.gcn1 = AdaptiveUnit(in_channels, out_channels)
        self.tcn1 = TimeUnit(out_channels, out_channels, stride=stride)
        self.relu = nn.ReLU()
        self.residual = block_shortcut(in_channels, out_channels, stride, residual)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.tcn1(self.gcn1(x)) + self.residual(x))


AdaptiveBlock.__name__ = "TCN_GCN_unit"


class RefinedBlock(AdaptiveBlock):
    """CTR-GCN's."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, residual: bool = True) -> None:
        super().__init__(in_channels, out_channels, stride, residual)
        self.gcn1 = RefinedUnit(in_channels, out_channels)
        self.tcn1 = MultiScale(out_channels, out_channels, stride, residual=False)


RefinedBlock.__name__ = "TCN_GCN_unit"


class PysklBlock(nn.Module):
    """PYSKL's, of whatever units."""

    def __init__(
        self, in_channels: int, out_channels: int, gcn: nn.Module, tcn: nn.Module, stride: int, number: str = ""
    ) -> None:
        super().__init__()
        self.names = f"gcn{number}", f"tcn{number}"
        for name, unit in zip(self.names, (gcn, tcn), strict=True):
            self.add_module(name, unit)
        self.relu = nn.ReLU()
        self.residual = block_shortcut(in_channels, out_channels, stride, True, PysklTimeUnit)

    def forward(self, x: Tensor) -> Tensor:
        gcn, tcn = (self._modules[name] for name in self.names)
        return self.relu(tcn(gcn(x)) + self.residual(x))


class STGCNBlock(PysklBlock):
    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        gcn = PysklUnit(in_channels, out_channels, "importance", "pre", res=True)
        super().__init__(in_channels, out_channels, gcn, mstcn(out_channels, out_channels, stride), stride)

    def forward(self, x: Tensor, A: Tensor | None = None) -> Tensor:
        residual = self.residual(x)
        return self.relu(self.tcn(self.gcn(x, A)) + residual)


class AAGCNBlock(PysklBlock):
    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        tcn = PysklTimeUnit(out_channels, out_channels, stride=stride)
        super().__init__(in_channels, out_channels, unit_aagcn(in_channels, out_channels), tcn, stride)

    def init_weights(self) -> None:
        pass


class CTRGCNBlock(PysklBlock):
    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        tcn = MSTCN(out_channels, out_channels, stride, residual=False)
        super().__init__(in_channels, out_channels, unit_ctrgcn(in_channels, out_channels), tcn, stride, "1")

    def init_weights(self) -> None:
        pass


#: What makes a unit of two widths, what it becomes, and how many modules of the two in `Model` are replaced.
UNITS: dict[str, tuple[Callable[[int, int], nn.Module], type[nn.Module], int]] = {
    "st-gcn": (lambda a, b: WithGraph(ConvTemporalGraphical(a, b), ADJACENCY), stgcn.ConvTemporalGraphical, 2),
    "2s-agcn": (AdaptiveUnit, agcn.unit_gcn, 2),
    "ctr-gcn": (RefinedUnit, ctrgcn.unit_gcn, 2),
    "ctr-gcn-fixed": (partial(RefinedUnit, adaptive=False, residual=False), ctrgcn.unit_gcn, 2),
    "ctr-gcn-alone": (lambda a, b: WithGraph(CTRGC(a, b), ADJACENCY[0]), ctrgcn.CTRGC, 2),
    "ms-g3d": (MultiScale_GraphConv, msg3d.MultiScale_GraphConv, 2),
    "ms-g3d-dropout": (partial(MultiScale_GraphConv, dropout=0.3), msg3d.MultiScale_GraphConv, 2),
    "pyskl-pre": (partial(PysklUnit, adaptive="importance", conv_pos="pre", res=False), pyskl.unit_gcn, 2),
    "pyskl-post": (partial(PysklUnit, adaptive="offset", conv_pos="post", res=True), pyskl.unit_gcn, 2),
    "pyskl-init": (partial(PysklUnit, adaptive="init", conv_pos="pre", res=True), pyskl.unit_gcn, 2),
    "pyskl-none": (partial(PysklUnit, adaptive=None, conv_pos="post", res=False), pyskl.unit_gcn, 2),
    "pyskl-aagcn": (unit_aagcn, pyskl.unit_aagcn, 2),
    "pyskl-ctrgcn": (unit_ctrgcn, pyskl.unit_ctrgcn, 2),
    "pyskl-ctrgc": (lambda a, b: WithGraph(PysklCTRGC(a, b), ADJACENCY[0]), pyskl.CTRGC, 2),
    "pyskl-ms-g3d": (MSGCN, pyskl.MSGCN, 2),
    "pyskl-ms-g3d-dropout": (partial(MSGCN, dropout=0.3), pyskl.MSGCN, 2),
    "2s-agcn-tcn": (TimeUnit, agcn.unit_tcn, 2),
    "ctr-gcn-tcn": (MultiScale, ctrgcn.MultiScale_TemporalConv, 2),
    "ms-g3d-tcn": (ActivatedMultiScale, msg3d.MultiScale_TemporalConv, 2),
    "ms-g3d-tcn-alone": (partial(TemporalConv, kernel_size=3, dilation=2), msg3d.TemporalConv, 2),
    "pyskl-tcn": (PysklTimeUnit, pyskl.unit_tcn, 2),
    "pyskl-mstcn": (mstcn, pyskl.mstcn, 2),
    "pyskl-ms-g3d-tcn": (MSTCN, pyskl.MSTCN, 2),
    "st-gcn-block": (lambda a, b: WithGraph(st_gcn(a, b), ADJACENCY), stgcn.st_gcn, 4),
    "2s-agcn-block": (AdaptiveBlock, agcn.TCN_GCN_unit, 7),
    "2s-agcn-first-block": (partial(AdaptiveBlock, residual=False), agcn.TCN_GCN_unit, 6),
    "ctr-gcn-block": (RefinedBlock, ctrgcn.TCN_GCN_unit, 7),
    "pyskl-st-gcn-block": (STGCNBlock, pyskl.STGCNBlock, 7),
    "pyskl-aagcn-block": (AAGCNBlock, pyskl.AAGCNBlock, 7),
    "pyskl-ctr-gcn-block": (CTRGCNBlock, pyskl.CTRGCNBlock, 7),
}


class Block(nn.Module):
    def __init__(self, unit: nn.Module, channels: int, stride: int) -> None:
        super().__init__()
        self.gcn1 = unit
        self.tcn1 = nn.Sequential(nn.Conv2d(channels, channels, (5, 1), (stride, 1), (2, 0)), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.tcn1(self.gcn1(x)))


class Model(nn.Module):
    def __init__(self, make_unit: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.l1 = Block(make_unit(CHANNELS, CHANNELS), CHANNELS, 1)
        self.l2 = Block(make_unit(CHANNELS, 2 * CHANNELS), 2 * CHANNELS, 2)
        self.fc = nn.Linear(2 * CHANNELS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.l2(self.l1(x)).mean((2, 3)))


def clips(n: int = 4) -> Tensor:
    return torch.randn(n, CHANNELS, 12, JOINTS, generator=torch.Generator().manual_seed(1))

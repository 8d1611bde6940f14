"""PYSKL's blocks under their names: graph convolution, then temporal convolution, around a shortcut."""
# ruff: noqa: N803

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy.typing as npt
from torch import Tensor, nn

from .._temporal_units import end_of_block, over_time_shortcut
from .gcn import unit_aagcn, unit_ctrgcn, unit_gcn
from .tcn import MSTCN, mstcn, unit_tcn

__all__ = ["AAGCNBlock", "CTRGCNBlock", "STGCNBlock"]

_projection = partial(unit_tcn, kernel_size=1)
_TEMPORAL: dict[str, Callable[..., nn.Module]] = {"unit_tcn": partial(unit_tcn, kernel_size=9), "mstcn": mstcn}


class _Block(nn.Module):
    """``gcn``, then ``tcn``, which arguments that begin so are for.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        A: adjacency (K, V, V).
        stride: of the temporal unit, in frames.
        residual: whether there is a shortcut.
        unit: the graph convolution.
        kwargs: arguments of the units.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        A: Tensor | npt.NDArray,
        stride: int,
        residual: bool,
        unit: type[nn.Module],
        kwargs: Mapping[str, Any],
    ) -> None:
        super().__init__()
        unknown = [name for name in kwargs if name[:4] not in ("gcn_", "tcn_")]
        if unknown:
            raise TypeError(f"{unknown[0]}: expected arguments that begin with gcn_ or tcn_")
        gcn, tcn = (
            {name[4:]: value for name, value in kwargs.items() if name[:4] == start} for start in ("gcn_", "tcn_")
        )
        graph = {unit.__name__: unit}
        gcn_type, tcn_type = gcn.pop("type", unit.__name__), tcn.pop("type", "unit_tcn")
        for argument, name, known in (("gcn_type", gcn_type, graph), ("tcn_type", tcn_type, _TEMPORAL)):
            if name not in known:
                raise ValueError(f"{argument}: expected one of {', '.join(known)}, got {name!r}")
        self.gcn: Any = unit(in_channels, out_channels, A, **gcn)
        self.tcn: Any = _TEMPORAL[tcn_type](out_channels, out_channels, stride=stride, **tcn)
        self.residual = over_time_shortcut(in_channels, out_channels, stride, residual, _projection)


class STGCNBlock(_Block):
    r"""The block of PYSKL's ST-GCN, and of its ST-GCN++.

    .. math:: y = \mathrm{relu}\big(\mathrm{tcn}(\mathrm{gcn}(x)) + \mathrm{residual}(x)\big)

    Args:
        in_channels: C_in.
        out_channels: C_out.
        A: adjacency (K, V, V), as of :class:`unit_gcn`.
        stride: of the temporal unit, in frames.
        residual: whether there is a shortcut: the identity where shapes agree, else 1x1 convolution and batch norm.
        kwargs: arguments of :class:`unit_gcn`, each with ``gcn_`` before its name; and of the temporal unit with
            ``tcn_``, of which ``tcn_type`` says whether it is :class:`unit_tcn` or :class:`mstcn`.

    Raises:
        TypeError: an argument begins with neither.
        ValueError: a type is another one; or from the units.

    Source: Duan et al., "PYSKL: Towards Good Practices for Skeleton Action Recognition", ACM MM 2022.

    Example:
        >>> import torch
        >>> from ikem_ext import get_layout
        >>> A = get_layout("ntu25").adjacency()
        >>> block = STGCNBlock(64, 128, A, stride=2, gcn_adaptive="init", gcn_with_res=True, tcn_type="mstcn")
        >>> block(torch.randn(2, 64, 50, 25)).shape
        torch.Size([2, 128, 25, 25])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        A: Tensor | npt.NDArray,
        stride: int = 1,
        residual: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, A, stride, residual, unit_gcn, kwargs)

    def forward(self, x: Tensor, A: Tensor | None = None) -> Tensor:
        """Maps (N, C_in, T, V) to (N, C_out, T', V); ``A`` is handed to ``gcn``, which ignores it."""
        return end_of_block(self, "tcn", self.gcn(x, A), x)


class AAGCNBlock(_Block):
    r"""The block of PYSKL's AAGCN.

    .. math:: y = \mathrm{relu}\big(\mathrm{tcn}(\mathrm{gcn}(x)) + \mathrm{residual}(x)\big)

    Args:
        in_channels: C_in.
        out_channels: C_out.
        A: adjacency (K, V, V), as of :class:`unit_aagcn`.
        stride: of the temporal unit, in frames.
        residual: whether there is a shortcut: the identity where shapes agree, else 1x1 convolution and batch norm.
        kwargs: as of :class:`STGCNBlock`, ``gcn_`` for :class:`unit_aagcn`.

    Raises:
        TypeError: an argument begins with neither.
        ValueError: a type is another one; or from the units.

    Source: Shi et al., IEEE Transactions on Image Processing 2020; Duan et al., ACM MM 2022.

    Example:
        >>> import torch
        >>> from ikem_ext import get_layout
        >>> block = AAGCNBlock(64, 128, get_layout("ntu25").adjacency(), stride=2)
        >>> block.init_weights()
        >>> block(torch.randn(2, 64, 50, 25)).shape
        torch.Size([2, 128, 25, 25])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        A: Tensor | npt.NDArray,
        stride: int = 1,
        residual: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, A, stride, residual, unit_aagcn, kwargs)

    def init_weights(self) -> None:
        """The published initialization, which PYSKL's models ask for after construction; not of the shortcut."""
        self.tcn.init_weights()
        self.gcn.init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C_in, T, V) to (N, C_out, T', V)."""
        return end_of_block(self, "tcn", self.gcn(x), x)


class CTRGCNBlock(nn.Module):
    r"""The block of PYSKL's CTR-GCN.

    .. math:: y = \mathrm{relu}\big(\mathrm{tcn1}(\mathrm{gcn1}(x)) + \mathrm{residual}(x)\big)

    Args:
        in_channels: C_in.
        out_channels: C_out.
        A: adjacency (K, V, V), as of :class:`unit_ctrgcn`.
        stride: of the temporal unit, in frames.
        residual: whether there is a shortcut: the identity where shapes agree, else 1x1 convolution and batch norm.
        kernel_size: as of :class:`MSTCN`.
        dilations: likewise.
        tcn_dropout: likewise.

    Raises:
        ValueError: from the units.

    Source: Chen et al., ICCV 2021, section 3.4; Duan et al., ACM MM 2022.

    Example:
        >>> import torch
        >>> from ikem_ext import get_layout
        >>> block = CTRGCNBlock(64, 128, get_layout("ntu25").adjacency(), stride=2)
        >>> block.init_weights()
        >>> block(torch.randn(2, 64, 50, 25)).shape
        torch.Size([2, 128, 25, 25])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        A: Tensor | npt.NDArray,
        stride: int = 1,
        residual: bool = True,
        kernel_size: int | Sequence[int] = 5,
        dilations: Sequence[int] = (1, 2),
        tcn_dropout: float = 0,
    ) -> None:
        super().__init__()
        self.gcn1 = unit_ctrgcn(in_channels, out_channels, A)
        self.tcn1 = MSTCN(
            out_channels, out_channels, kernel_size, stride, dilations, residual=False, tcn_dropout=tcn_dropout
        )
        self.residual = over_time_shortcut(in_channels, out_channels, stride, residual, _projection)

    def init_weights(self) -> None:
        """The published initialization, which PYSKL's models ask for after construction; not of the shortcut."""
        self.tcn1.init_weights()
        self.gcn1.init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C_in, T, V) to (N, C_out, ceil(T / stride), V)."""
        return end_of_block(self, "tcn1", self.gcn1(x), x)

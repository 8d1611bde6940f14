"""PYSKL's units and blocks under their names, without mmcv.

``gcn`` has the graph convolutions, ``tcn`` the temporal units, ``blocks`` what both make; ``config`` the norms and
activations that are named as in mmcv.
"""

from .blocks import AAGCNBlock, CTRGCNBlock, STGCNBlock
from .gcn import CTRGC, MSGCN, unit_aagcn, unit_ctrgcn, unit_gcn
from .tcn import MSTCN, mstcn, unit_tcn

__all__ = [
    "CTRGC",
    "MSGCN",
    "MSTCN",
    "AAGCNBlock",
    "CTRGCNBlock",
    "STGCNBlock",
    "mstcn",
    "unit_aagcn",
    "unit_ctrgcn",
    "unit_gcn",
    "unit_tcn",
]

"""Modules built on the operations, and the graph convolutions of other projects under their own names."""

from . import agcn, ctrgcn, msg3d, pyskl, stgcn
from .folding import folded
from .key_queue import KeyQueue
from .normalized import normalized
from .pointwise_conv import PointwiseConv
from .temporal_conv import TemporalConv

__all__ = [
    "KeyQueue",
    "PointwiseConv",
    "TemporalConv",
    "agcn",
    "ctrgcn",
    "folded",
    "msg3d",
    "normalized",
    "pyskl",
    "stgcn",
]

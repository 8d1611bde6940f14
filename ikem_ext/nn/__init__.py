"""Modules built on the operations, and the graph convolutions of other projects under their own names."""

from . import agcn, ctrgcn, msg3d, pyskl, stgcn
from .folding import folded
from .key_queue import KeyQueue
from .pointwise_conv import PointwiseConv

__all__ = ["KeyQueue", "PointwiseConv", "agcn", "ctrgcn", "folded", "msg3d", "pyskl", "stgcn"]

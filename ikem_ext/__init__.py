"""Fast operations for skeleton-based action recognition, and the layers and losses built on them."""

from importlib.metadata import version

from . import _library as _library  # first: loads the operations that the other modules register functions for
from . import nn, reference
from .accelerate import accelerate
from .batch_norm import batch_norm
from .contrast import cross_modal_nce, implicit_exchange, info_nce, queue_logsumexp, relational_distillation
from .graph_conv import graph_conv
from .layouts import LAYOUTS
from .modalities import MODALITIES, derive_modalities
from .pairwise_products import pairwise_products
from .refined_graph_conv import refined_graph_conv
from .skeleton import SkeletonLayout, get_layout
from .temporal_conv import temporal_conv

__version__ = version("ikem-ext")

__all__ = [
    "LAYOUTS",
    "MODALITIES",
    "SkeletonLayout",
    "accelerate",
    "batch_norm",
    "cross_modal_nce",
    "derive_modalities",
    "get_layout",
    "graph_conv",
    "implicit_exchange",
    "info_nce",
    "nn",
    "pairwise_products",
    "queue_logsumexp",
    "reference",
    "refined_graph_conv",
    "relational_distillation",
    "temporal_conv",
]

"""Every operation of :mod:`ikem_ext` once more in plain PyTorch: slow, short, and what the tests compare with."""

from .batch_norm import batch_norm
from .contrast import cross_modal_nce, implicit_exchange, info_nce, queue_logsumexp, relational_distillation
from .graph_conv import graph_conv
from .modalities import derive_modalities
from .pairwise_products import pairwise_products
from .plain import plain_operations
from .refined_graph_conv import refined_graph_conv
from .temporal_conv import temporal_conv

__all__ = [
    "batch_norm",
    "cross_modal_nce",
    "derive_modalities",
    "graph_conv",
    "implicit_exchange",
    "info_nce",
    "pairwise_products",
    "plain_operations",
    "queue_logsumexp",
    "refined_graph_conv",
    "relational_distillation",
    "temporal_conv",
]

"""Multi-modality self-supervised learning for skeleton-based action recognition.

The training side of the project: views, encoders, pretraining by momentum contrast with exchange of knowledge
between modalities, distillation and evaluation. The fast operations live in :mod:`ikem_ext`.
"""

from ikem_ext import __version__

__all__ = ["__version__"]

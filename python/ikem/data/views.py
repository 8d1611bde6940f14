"""Random views of clips: the parameters of the augmentations, drawn for a whole batch at once.

The views are applied by :func:`ikem_ext.derive_modalities`, in the same pass that derives the modalities.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ikem.config import ViewsConfig


class View(NamedTuple):
    """One random view of each clip of a batch, in the words of :func:`ikem_ext.derive_modalities`.

    Attributes:
        shear: (N, 3, 3) float32; coordinates become ``shear @ x``.
        crop_start: (N,) int64; first frame of the crop in the clip with its mirrored ends.
        crop_padding: frames mirrored on at each end.
    """

    shear: Tensor
    crop_start: Tensor
    crop_padding: int

    def share(self, clips: slice) -> View:
        """Return the view of some of the clips."""
        return self._replace(shear=self.shear[clips], crop_start=self.crop_start[clips])


class RandomViews:
    """Draws views: a random shear and a random temporal crop per clip.

    - Shear: ``x' = R x``, R with unit diagonal and off-diagonal entries uniform in [-a, a].
    - Temporal crop: ``p = T // ratio`` frames are mirrored on at each end, and T frames are taken from a start that
      is uniform in {0, ..., 2p}.

    Both as in Wei et al., arXiv 2309.12009, and before it in AimCLR and CrosSCLR.

    Args:
        config: amplitude a and ratio.
        frames: T.

    Example:
        >>> views = RandomViews(ViewsConfig(), frames=50)
        >>> view = views(4, torch.Generator().manual_seed(0))
        >>> view.shear.shape, view.crop_padding, bool((view.crop_start <= 16).all())
        (torch.Size([4, 3, 3]), 8, True)
    """

    def __init__(self, config: ViewsConfig, frames: int) -> None:
        self.shear_amplitude = config.shear_amplitude
        self.crop_padding = frames // config.crop_ratio if config.crop_ratio else 0

    def __call__(self, num_clips: int, generator: torch.Generator) -> View:
        """Draw one view of each of ``num_clips`` clips from a CPU generator."""
        shear = torch.rand(num_clips, 3, 3, generator=generator).mul_(2).sub_(1).mul_(self.shear_amplitude)
        shear.diagonal(dim1=1, dim2=2).fill_(1)
        crop_start = torch.randint(2 * self.crop_padding + 1, (num_clips,), generator=generator)
        return View(shear, crop_start, self.crop_padding)

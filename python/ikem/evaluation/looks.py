"""How clips are seen other than whole and upright: augmented for a probe that asks for it, or their beginning alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ikem.config.preset import Augmentation
from ikem.data.views import View, rotation

LEAST_FRAMES = 64  # of the recording, that a window of a probe's training clip holds
MIDDLE = 0.95  # of a test clip, that such a probe sees


class RandomLook:
    """The training clips of a probe that augments, or of finetuning: a random part of each, turned about each axis.

    As the published codes of CMD and MAMP do: the part's length is uniform between the least share and all, but at
    least 64 frames; the angles about x, y and z, one after another, are uniform in plus or minus the limit.

    Args:
        options: of the probe, or of a finetuning.
        generator: draws.

    Example:
        >>> from ikem.config import PROBES
        >>> look = RandomLook(PROBES["mamp"], torch.Generator().manual_seed(0))
        >>> look(torch.tensor([60, 100, 300])).window[0]  # a clip of 60 frames is seen whole
        tensor([0., 1.])
    """

    def __init__(self, options: Augmentation, generator: torch.Generator) -> None:
        self.options = options
        self.generator = generator

    def __call__(self, num_frames: Tensor) -> View:
        """Draw how clips of these lengths (n,) are seen."""
        draws = torch.rand(5, len(num_frames), generator=self.generator)
        least = self.options.least_window
        share = (least + (1 - least) * draws[0]).maximum(LEAST_FRAMES / num_frames).clamp(max=1)
        x, y, z = ((2 * draw - 1) * self.options.rotate_degrees for draw in draws[2:])
        turned = rotation(z, axis=2) @ rotation(y, axis=1) @ rotation(x, axis=0)
        return _window(draws[1] * (1 - share), share)._replace(shear=turned)


def middle(num_frames: Tensor) -> View:
    """Show the middle 95 % of clips, as the published codes of CMD and MAMP show test clips."""
    share = torch.full((len(num_frames),), MIDDLE)
    return _window((1 - share) / 2, share)


def beginning(share: float, num_frames: Tensor) -> View:
    """Show the first share of clips, stretched to the number of frames of whole ones.

    Example:
        >>> beginning(0.25, torch.tensor([80])).window
        tensor([[0.0000, 0.2500]])
    """
    return _window(torch.zeros(len(num_frames)), torch.full((len(num_frames),), share))


def _window(start: Tensor, share: Tensor) -> View:
    return View(
        shear=torch.eye(3).repeat(len(start), 1, 1),
        crop_start=torch.zeros(len(start), dtype=torch.int64),
        crop_padding=0,
        window=torch.stack((start, share), dim=1),
    )

"""What a step works on: random clips of NTU's shape, two random views of them, and how many."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ikem.config import ViewsConfig
from ikem.data.batches import Batch
from ikem.data.views import RandomViews, View
from ikem_ext import LAYOUTS

NTU = LAYOUTS["ntu25"]
FRAMES, BODIES = 50, 2


class Sizes(NamedTuple):
    """What a step is measured with."""

    clips: int
    keys: int
    dropout: float = 0.5
    cuda_graphs: bool = False


def random_batch(clips: int, device: torch.device, resident: int | None = None) -> Batch:
    """Random clips of NTU's shape with two random views, of a resident data set of so many clips where one is given."""
    generator = torch.Generator().manual_seed(0)
    views = RandomViews(ViewsConfig(), FRAMES, NTU.num_joints)

    def view() -> View:
        drawn = views(clips, generator)
        return drawn._replace(shear=drawn.shear.to(device), crop_start=drawn.crop_start.to(device))

    held = resident or clips
    return Batch(
        torch.randn(held, 3, FRAMES, NTU.num_joints, BODIES, generator=generator).to(device),
        torch.randint(30, 200, (held,), generator=generator).to(device),
        (view(), view()),
        torch.randperm(held, generator=generator)[:clips].to(device) if resident else None,
    )

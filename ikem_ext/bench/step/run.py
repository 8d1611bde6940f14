"""A step as something to be called again and again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ikem.data.batches import Batch


class Step(nn.Module):
    """A module whose call makes one optimization step; called by `Run`."""

    def start(self) -> None:
        """Prepare what refers to the parameters, once they are where they stay."""
        self.optimizer = torch.optim.SGD(
            [parameter for parameter in self.parameters() if parameter.requires_grad],
            lr=0.1,
            momentum=0.9,
            weight_decay=1e-4,
        )

    def update(self, loss: Tensor) -> None:
        """Backward pass and new weights."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Run:
    """A step on a batch, in half precisions under autocast."""

    def __init__(self, step: Step, batch: Batch, device: torch.device, dtype: torch.dtype) -> None:
        self.half = dtype if dtype in (torch.bfloat16, torch.float16) else None
        wide = torch.float32 if self.half else dtype
        self.step = step.to(device, wide).train()
        self.step.start()
        self.batch = batch._replace(joints=batch.joints.to(wide))
        self.device = device

    def __call__(self) -> None:
        """Make one step."""
        with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
            self.step(self.batch)

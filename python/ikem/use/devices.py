"""What computes."""

from __future__ import annotations

import torch


def require_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        ValueError: it is not.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # PyTorch asserts that it was built for a device
        raise ValueError(f"device: {device} cannot be used: {str(error).splitlines()[0]}") from error

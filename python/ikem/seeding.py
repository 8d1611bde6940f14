"""Random states that are functions of the run's seed and of where in the run they are used.

Nothing that draws random numbers keeps a state of its own, so a run that was killed and resumed draws the numbers
that it would have drawn.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def derive_seed(seed: int, purpose: str, *counters: int) -> int:
    """Mix a run's seed with a purpose and any counters (step, epoch, rank) into an independent 63-bit seed.

    Example:
        >>> derive_seed(1, "views", 7) == derive_seed(1, "views", 7)
        True
        >>> derive_seed(1, "views", 7) == derive_seed(1, "views", 8)
        False
    """
    entropy = (seed, zlib.crc32(purpose.encode()), *counters)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """Return a CPU generator seeded with :func:`derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *counters))

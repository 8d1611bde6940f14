"""Independent pieces of work side by side on a CPU's cores, each on one thread.

Threads that share out one small product wait for each other, and wait long where another process holds one of the
cores. Modalities are independent: a thread for each, which takes the next one when it is done, never waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

ENOUGH = 10_000_000  # multiplications in one product, for which it is worth sharing it out

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item], device: torch.device) -> list[Result]:
    """Return the results of independent pieces of work, in their order.

    On a CPU as many run at once as PyTorch has threads; on other devices one after another.

    Args:
        work: done for each item; it leaves what other items use alone.
        items: what it is done for.
        device: where it is done.

    Example:
        >>> side_by_side(lambda x: 2 * x, [1, 2, 3], torch.device("cpu"))
        [2, 4, 6]
    """
    if device.type != "cpu":
        return [work(item) for item in items]
    threads = torch.get_num_threads()
    try:
        with (
            threadpool_limits(1, user_api="blas"),
            ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(threads)  # which the workers may have changed for threads to come


@contextmanager
def threads_for(multiplications: int) -> Iterator[None]:
    """Have PyTorch work on one thread, where its products are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(threads if multiplications >= ENOUGH else 1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

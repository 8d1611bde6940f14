"""The queue of past keys that momentum contrast takes its negatives from."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .._checks import Shapes


class KeyQueue(nn.Module):
    """The newest ``length`` keys of several modalities, a ring in which new keys replace the oldest.

    Starts with random unit vectors, drawn from PyTorch's generator. Entry i holds the keys of one and the same
    clip in every modality. Under ``torch.distributed`` every process enqueues the keys of all, in the order of
    their ranks, so that all queues stay the same.

    The buffers are ``keys``, (length, num_modalities, width) in PyTorch's default dtype, stored so that the
    modalities' keys of one clip lie side by side and their concatenation is the same memory, and ``pointer``, the
    int64 index of the entry that is replaced next. With ``with_clips`` there is a third, ``clips``, (length,) int64:
    the number of the clip that each entry is of, or -1 for the random vectors of the start.

    Args:
        num_modalities: G.
        length: K.
        width: C.
        with_clips: whether entries carry the numbers of their clips.

    Raises:
        ValueError: one of the sizes is below 1.

    Source: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, section
    3.2.

    Example:
        >>> keys = KeyQueue(num_modalities=6, length=1024, width=128)
        >>> keys.enqueue(torch.nn.functional.normalize(torch.randn(6, 32, 128), dim=-1))
        >>> keys.queue.shape, int(keys.pointer)
        (torch.Size([6, 1024, 128]), 32)
    """

    keys: Tensor
    pointer: Tensor
    clips: Tensor | None

    def __init__(self, num_modalities: int, length: int, width: int, *, with_clips: bool = False) -> None:
        super().__init__()
        for name, size in (("num_modalities", num_modalities), ("length", length), ("width", width)):
            if size < 1:
                raise ValueError(f"{name}: expected at least 1, got {size}")
        keys = torch.randn(length, num_modalities, width)
        keys /= keys.norm(dim=-1, keepdim=True).clamp_min_(1e-12)  # in place: there may be no memory for two of them
        self.register_buffer("keys", keys)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("clips", torch.full((length,), -1) if with_clips else None)

    @property
    def queue(self) -> Tensor:
        """The queue as the losses take it: a (G, K, C) view of the buffer, nothing is copied."""
        return self.keys.transpose(0, 1)

    @torch.no_grad()
    def enqueue(self, keys: Tensor, clips: Tensor | None = None) -> None:
        """Replaces the oldest entries by ``keys``, (G, N, C); of more than K new keys the last K stay.

        Args:
            keys: the new keys.
            clips: the numbers of their clips, (N,) int64, where the entries carry them.

        Raises:
            ValueError: ``keys`` does not have the queue's number of modalities and width, or ``clips`` are missing, are
                not as many, or have no place.
            TypeError: ``keys`` is not floating.
        """
        length, num_modalities, width = self.keys.shape
        Shapes().check("keys", keys, f"{num_modalities} N {width}")
        if not keys.is_floating_point():
            raise TypeError(f"keys: expected a floating dtype, got {keys.dtype}")
        if (clips is None) != (self.clips is None) or (clips is not None and clips.shape != keys.shape[1:2]):
            expected = "none, as the queue has no place for them" if self.clips is None else f"({keys.shape[1]},)"
            raise ValueError(f"clips: expected {expected}, got {None if clips is None else tuple(clips.shape)}")
        new = _gather_across_ranks(keys.to(self.keys.dtype).transpose(0, 1).contiguous())
        end = self.pointer + len(new)
        positions = (self.pointer + torch.arange(len(new), device=self.pointer.device)) % length
        self.keys[positions[-length:]] = new[-length:]
        if self.clips is not None and clips is not None:
            self.clips[positions[-length:]] = _gather_across_ranks(clips.contiguous())[-length:]
        self.pointer.copy_(end % length)


def _gather_across_ranks(keys: Tensor) -> Tensor:
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return keys
    gathered = [torch.empty_like(keys) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, keys)
    return torch.cat(gathered)

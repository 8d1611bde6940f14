"""What names and labels say in files that hold many clips: who acts, which protocol, which class."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import FileArray
from .ntu import Ntu60, Ntu120

__all__ = ["class_names", "clip_facts", "protocol_of", "read_labels"]

_PROTOCOLS = {
    **dict.fromkeys(("cs", "csub", "xsub"), "xsub"),
    **dict.fromkeys(("cv", "cview", "xview"), "xview"),
    **dict.fromkeys(("cset", "csetup", "xset", "xsetup"), "xset"),
}
_BLOCK = 4096


def clip_facts(name: str) -> dict[str, int]:
    """Setup, camera, subject and replication of a clip that is named as in NTU RGB+D; of others nothing is known.

    Example:
        >>> clip_facts("S001C002P003R002A013")
        {'setup': 1, 'camera': 2, 'subject': 3, 'replication': 2}
        >>> clip_facts("wave_0012")
        {}
    """
    match = re.fullmatch(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A\d{3}", name)
    facts = ("setup", "camera", "subject", "replication")
    return dict(zip(facts, map(int, match.groups()), strict=True)) if match else {}


def protocol_of(name: str) -> str:
    """The protocol that the name of a file or folder speaks of, in this project's words; otherwise ``given``.

    Example:
        >>> protocol_of("NTU60_CS"), protocol_of("xsetup"), protocol_of("PKUv2_XView"), protocol_of("mine")
        ('xsub', 'xset', 'xview', 'given')
    """
    words = re.split(r"[^a-z0-9]+", name.lower())
    return next((_PROTOCOLS[word] for word in reversed(words) if word in _PROTOCOLS), "given")


def class_names(count: int, names: Iterable[str] = ()) -> tuple[str, ...]:
    """The names of the classes.

    Args:
        count: how many there are at least.
        names: of the clips. If they are those of NTU RGB+D, so are the classes; without names, if there are 60 or
            120 of them. Otherwise classes are called by their numbers.
    """
    names = list(names)
    ntu = all(map(clip_facts, names)) if names else count in (len(Ntu60.classes), len(Ntu120.classes))
    known = Ntu60.classes if count <= len(Ntu60.classes) else Ntu120.classes
    return known if ntu and count <= len(known) else tuple(map(str, range(count)))


def read_labels(values: NDArray[Any] | FileArray, clips: int, where: str) -> tuple[list[int | None], int]:
    """Reads labels, whichever way they are written.

    Args:
        values: whole numbers, counted from 0, as integers or floats (N,) or (N, 1); or one-hot rows (N, classes).
        clips: N.
        where: the file and the array in it, for messages.

    Returns:
        The labels, None where a number is negative or a row has no entry; and the number of classes.

    Raises:
        ValueError: they are anything else.
    """
    if values.shape[:1] != (clips,) or len(values.shape) > 2 or values.dtype.kind not in "biuf":
        raise ValueError(f"{where}: expected {clips} labels or one-hot rows, got {values.dtype} {values.shape}")
    width = values.shape[1] if len(values.shape) == 2 else 1
    labels: list[int | None] = []
    for first in range(0, clips, _BLOCK):
        block = values[first : first + _BLOCK].reshape(-1, width)
        wrong = (block > 0).sum(axis=1) > 1 if width > 1 else block[:, 0] % 1 != 0
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(f"{where}: the label of clip {first + row} is not one class, but {block[row]}")
        # As numbers, with that of no class below 0.
        numbers = np.where(block.any(axis=1), block.argmax(axis=1), -1) if width > 1 else block[:, 0]
        labels += [int(number) if number >= 0 else None for number in numbers.tolist()]
    return labels, width if width > 1 else 1 + max((label for label in labels if label is not None), default=-1)

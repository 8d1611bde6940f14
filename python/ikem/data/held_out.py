"""Protocols that hold out some of another one's training clips, to choose settings without a look at test clips."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .clips import Clip

__all__ = ["COLUMNS", "hold_out"]

COLUMNS = ("subject", "camera", "setup", "replication")
"""What clips may be held out by."""


def hold_out(
    protocol: str, protocols: Mapping[str, Mapping[str, NDArray[np.int64]]], clips: Sequence[Clip]
) -> dict[str, NDArray[np.int64]] | None:
    """The parts of a protocol such as ``cross-subject/subject=1,5``.

    Its test part is those training clips of ``cross-subject`` whose subject is 1 or 5, its training part the others.
    Clips that ``cross-subject`` tests on belong to neither.

    Args:
        protocol: ``PROTOCOL/COLUMN=VALUE,VALUE...``; the columns are :data:`COLUMNS`.
        protocols: the data set's own, by name.
        clips: of the data set.

    Returns:
        ``train`` and ``test``, or None if the name is not of this form.

    Raises:
        ValueError: no training clip has a value, or all have one of them.

    Example:
        >>> clips = [Clip(name, 0, subject, None, None, None, 60) for subject, name in enumerate("abcd")]
        >>> protocols = {"cross-subject": {"train": np.array([0, 1, 2]), "test": np.array([3])}}
        >>> hold_out("cross-subject/subject=1", protocols, clips)
        {'train': array([0, 2]), 'test': array([1])}
    """
    found = re.fullmatch(rf"(.+?)/({'|'.join(COLUMNS)})=(.+)", protocol)
    if found is None or found[1] not in protocols:
        return None
    whole, column, wanted = found.groups()
    train = protocols[whole]["train"]
    values = np.array([str(getattr(clips[index], column)) for index in train.tolist()], dtype=object)
    known, names = dict.fromkeys(values.tolist()), wanted.split(",")
    held = np.isin(values, names)
    if not set(names) <= known.keys() or held.all():
        raise ValueError(
            f"protocol: expected some of the training clips' values of {column}, which are {', '.join(known)}, "
            f"and not all of them, got {wanted!r}"
        )
    return {"train": train[~held], "test": train[held]}

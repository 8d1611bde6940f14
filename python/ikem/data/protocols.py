"""Evaluation protocols: which clips train and which test, as each data set's authors lay down."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .formats import ClipSource

__all__ = ["Protocols", "lacking_for_evaluation", "make_protocols", "named_subjects"]

Protocols = dict[str, dict[str, list[int]]]
"""Protocol -> part -> indices of clips; every protocol has the parts ``train`` and ``test``."""

_Rule = Callable[[ClipSource], str | None]  # the part that the clip belongs to: train, test or none

_NTU60_SUBJECTS = frozenset((1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38))
_NTU120_SUBJECTS = _NTU60_SUBJECTS | frozenset(
    (
        *(45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89),
        *(91, 92, 93, 94, 95, 97, 98, 100, 103),
    )
)
# The pairs of people that each fold tests on.
_SBU_FOLDS = (
    ("s01s02", "s03s04", "s05s02", "s06s04"),
    ("s02s03", "s02s07", "s03s05", "s05s03"),
    ("s01s03", "s01s07", "s07s01", "s07s03"),
    ("s02s01", "s02s06", "s03s02", "s03s06"),
    ("s04s02", "s04s03", "s04s06", "s06s02", "s06s03"),
)


def _trains_where(condition: Callable[[ClipSource], bool]) -> _Rule:
    return lambda clip: "train" if condition(clip) else "test"


def _subject_in(subjects: frozenset[int | str]) -> _Rule:
    return _trains_where(lambda clip: clip.subject in subjects)


def _pair_not_in(pairs: tuple[str, ...]) -> _Rule:
    return _trains_where(lambda clip: clip.name.split("/")[0] not in pairs)


_RULES: dict[str, dict[str, _Rule]] = {
    "ntu60": {"xsub": _subject_in(_NTU60_SUBJECTS), "xview": _trains_where(lambda clip: clip.camera in (2, 3))},
    "ntu120": {
        "xsub": _subject_in(_NTU120_SUBJECTS),
        "xset": _trains_where(lambda clip: clip.setup is not None and clip.setup % 2 == 0),
    },
    "utd-mhad": {"cross-subject": _subject_in(frozenset((1, 3, 5, 7)))},
    "nw-ucla": {"cross-view": _trains_where(lambda clip: clip.camera in (1, 2))},
    "sbu": {f"fold{number}": _pair_not_in(pairs) for number, pairs in enumerate(_SBU_FOLDS, start=1)},
    "msr-action3d": {"cross-subject": _subject_in(frozenset((1, 3, 5, 7, 9)))},
}


# Files of other projects' code, which hold its split of a known data set.
_EXCHANGED = frozenset(("ctr-gcn", "npy-pair", "pyskl"))


def make_protocols(
    format_name: str,
    clips: Sequence[ClipSource],
    contents: Sequence[bytes],
    train_subjects: Collection[str] | None = None,
) -> Protocols:
    """Sorts clips into the parts of their data set's protocols.

    Where test clips repeat training clips (in Northwestern-UCLA, view 3 of actions 2 and 3 is view 2 again), a
    third part ``test_without_repeats`` holds the other test clips. Recordings of no known data set have the protocols
    that they bring themselves, and ``cross-subject`` where they say who acts: the subjects named train, or else every
    other one (but where another project's code has divided the clips already). Where no clip has a label, or no
    protocol has a training clip, there is one more, ``all``: all clips train and none tests, which is enough for
    pretraining.

    Args:
        format_name: which data set it is, one of :data:`ikem.data.formats.FORMATS`.
        clips: all clips, in the order of the prepared data set.
        contents: for each, a digest of its joints as recorded; clips with equal ones are repeats.
        train_subjects: who trains in ``cross-subject``.

    Raises:
        ValueError: a subject named is not there, or the data set's authors have named theirs.
    """
    if train_subjects is not None and format_name in _RULES:
        raise ValueError(f"train_subjects: the authors of {format_name} lay down who trains")
    rules = _RULES.get(format_name) or _rules_of_own_data(format_name, clips, train_subjects)
    protocols = {name: _parts(rule, clips, contents) for name, rule in rules.items()}
    labelled = any(clip.label is not None for clip in clips)
    if not labelled or not any(parts["train"] for parts in protocols.values()):
        protocols["all"] = {"train": list(range(len(clips))), "test": []}
    return protocols


def lacking_for_evaluation(
    parts: Mapping[str, Sequence[int] | NDArray[np.int64]], labels: NDArray[np.int64]
) -> str | None:
    """Says why a protocol cannot be evaluated, if it cannot.

    Args:
        parts: part -> indices of clips.
        labels: of all clips, -1 for a clip without a label.

    Example:
        >>> lacking_for_evaluation({"train": [0, 1], "test": [2]}, np.array([5, 5, 2]))
        'its training clips are all of one class, and there is nothing to tell apart'
    """
    for part, name in (("train", "training"), ("test", "test")):
        if not len(parts[part]):
            return f"it has no {name} clip"
        if not (labels[parts[part]] >= 0).any():
            return f"none of its {len(parts[part])} {name} clips has a label"
    training = labels[parts["train"]]
    if len(set(training[training >= 0].tolist())) < 2:
        return "its training clips are all of one class, and there is nothing to tell apart"
    return None


def _parts(rule: _Rule, clips: Sequence[ClipSource], contents: Sequence[bytes]) -> dict[str, list[int]]:
    parts: dict[str, list[int]] = {"train": [], "test": []}
    for index, clip in enumerate(clips):
        if part := rule(clip):
            parts[part].append(index)
    trained_on = {contents[index] for index in parts["train"]}
    unseen = [index for index in parts["test"] if contents[index] not in trained_on]
    if len(unseen) < len(parts["test"]):
        parts["test_without_repeats"] = unseen
    return parts


def _rules_of_own_data(
    format_name: str, clips: Sequence[ClipSource], train_subjects: Collection[str] | None
) -> dict[str, _Rule]:
    rules: dict[str, _Rule] = {}
    subjects = _subjects(clips)
    divided = format_name in _EXCHANGED and any(clip.parts for clip in clips)
    if train_subjects is not None:
        rules["cross-subject"] = _subject_in(named_subjects(train_subjects, clips))
    elif subjects and not divided:
        rules["cross-subject"] = _subject_in(frozenset(subjects[::2]))
    rules.update({protocol: _given(protocol) for clip in clips for protocol in clip.parts})
    return rules


def named_subjects(names: Collection[str], clips: Sequence[ClipSource]) -> frozenset[int | str]:
    """The subjects of these names, which must leave some for the test.

    Raises:
        ValueError: one is not there, or they are all.
    """
    known = {str(subject): subject for subject in _subjects(clips)}
    if not set(names) <= known.keys() or len(set(names)) == len(known):
        raise ValueError(
            f"train_subjects: expected some of the subjects {', '.join(known) or '(there are none)'}, "
            f"got {', '.join(names)}"
        )
    return frozenset(known[name] for name in names)


def _subjects(clips: Sequence[ClipSource]) -> list[int | str]:
    return sorted({clip.subject for clip in clips if clip.subject is not None}, key=_in_natural_order)


def _given(protocol: str) -> _Rule:
    return lambda clip: clip.parts.get(protocol)


def _in_natural_order(subject: int | str) -> tuple[bool, int, str]:
    """Numbers first, by their size."""
    return (True, 0, subject) if isinstance(subject, str) else (False, subject, "")

"""Test clips that went wrong, and clips that went right, to look at."""

from __future__ import annotations

import numpy as np

from ikem.report.clips import ShownClip
from ikem.report.run import Run

__all__ = ["EXAMPLES", "examples"]

MOST = 6  # clips of either kind
LARGEST = 3_000_000  # numbers of all clips together, so that a page stays small
EXAMPLES = (
    "Test clips as the linear probe on the widest stream of the last stage took them: of each class the one that it "
    "was surest of, wrongly and rightly. They play at the speed of recordings of 30 frames a second; draw the mouse to "
    "turn them, and click into the map of the joints to go to a frame."
)
FPS = 30.0  # of recordings; prepared data do not say


def examples(run: Run) -> dict[str, list[ShownClip]]:
    """Clips of different classes that the linear probe was surest of, wrongly and rightly.

    Those that went right are of the same classes as those that went wrong, as far as there are any.

    Returns:
        ``went wrong`` and ``went right``, by the widest stream of the last stage; nothing where the evaluation does not
        say what single clips were taken for.
    """
    stage = run.last_stage
    stream = run.widest_stream(stage) if stage else None
    names = [f"{what}_{stage}_{stream}" for what in ("classes", "scores")]
    if not {"clips", *names} <= set(run.arrays):
        return {}
    classes, scores = (run.arrays[name] for name in names)
    labels = run.arrays["labels"]
    right = classes[:, 0] == labels
    surest = np.argsort(-scores[:, 0], kind="stable")
    wrong = _one_of_each(surest[~right[surest]], labels)
    counterparts = _one_of_each(surest[right[surest]], labels)
    counterparts.sort(key=lambda clip: labels[clip] not in labels[wrong])  # stable
    most = max(1, min(MOST, LARGEST // (14 * run.dataset.joints[0].size)))

    def shown(clip: int) -> ShownClip:
        guesses = zip(classes[clip].tolist(), scores[clip].tolist(), strict=True)
        return ShownClip.of_dataset(
            run.dataset,
            int(run.arrays["clips"][clip]),
            fps=FPS,
            guesses=tuple((run.dataset.classes[label], score) for label, score in guesses),
        )

    groups = {"went wrong": wrong[:most], "went right": counterparts[:most]}
    return {name: [shown(clip) for clip in clips] for name, clips in groups.items() if len(clips)}


def _one_of_each(clips: np.ndarray, labels: np.ndarray) -> list[int]:
    """The first clip of each class, in the order of the clips."""
    _, first = np.unique(labels[clips], return_index=True)
    return clips[np.sort(first)].tolist()

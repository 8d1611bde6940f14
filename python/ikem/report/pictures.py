"""The pictures of a run: which there are, what each shows of it, and what is said below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ikem.data.synthetic import generate
from ikem.evaluation.table import LABELLED
from ikem.files import replacing
from ikem.report import plots
from ikem.report.run import Run, widest
from ikem.report.text import percent
from ikem_ext import LAYOUTS, MODALITIES

__all__ = ["PICTURES", "front_page_picture", "save"]


def _modalities_picture(run: Run) -> tuple[Figure, str] | None:
    protocol = run.evaluation["dataset"]["protocol"]
    part, clips = "test", run.dataset.split(protocol, "test")
    if not len(clips):
        part, clips = "training", run.dataset.split(protocol, "train")
    activity = [float(np.diff(run.dataset.joints[clip], axis=1).var()) for clip in clips[:200]]
    clip = int(clips[np.argsort(activity)[len(activity) * 3 // 4]])  # lively, but no outlier
    label = run.dataset.labels[clip]
    name = "no label" if label < 0 else run.dataset.classes[label]
    figure = plots.modalities(
        run.dataset.joints[clip],
        int(run.dataset.num_frames[clip]),
        run.dataset.layout,
        title=f"Six modalities of one {part} clip: {name}",
    )
    return figure, (
        f"The six modalities of the {part} clip `{run.dataset.clips[clip].name}` ({name}), as the encoders see them: "
        "centered on the root joint and resized in time. Lengths are in the recordings' unit, motion and angular "
        "velocity per frame of a clip of 50 frames, angles in radians. The bone of the root, a unit normal of the "
        "torso, is drawn short; bodies that are each centered on their own root are drawn side by side."
    )


def _training_picture(run: Run) -> tuple[Figure, str] | None:
    if not run.curves:
        return None
    options = run.options.get("pretrain", {})
    pretrained = run.curves.get("pretrain", {})
    exchanges = any(name.startswith(("explicit/", "implicit/")) for name in pretrained)
    return plots.training(run.curves, options.get("exchange_epoch") if exchanges else None), (
        "Losses per modality over the epochs, and the share of clips whose two views are closer to each other than to "
        "anything in the queue (contrastive accuracy). The dotted line marks the start of stage 2, where the "
        "modalities exchange knowledge and the loss is another one, the sum of the explicit and the implicit one. A "
        "star marks the best epoch of what was watched."
    )


def _confusion_picture(run: Run) -> tuple[Figure, str] | None:
    stage = run.last_stage
    stream = run.widest_stream(stage) if stage else None
    counts = run.arrays.get(f"confusion_{stage}_{stream}")
    if stage is None or stream is None or counts is None:
        return None
    name = f"{plots.stream_name(stream)}, {plots.STAGE_NAMES[stage]}"
    title = f"Linear probe, {name}"
    return plots.confusion(counts, run.dataset.classes, title=title), (
        f"Confusion matrix of the linear probe on the test clips ({name}). "
        + _worst_confusion(counts, run.dataset.classes)
    )


def _worst_confusion(counts: NDArray[Any], classes: Sequence[str]) -> str:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    true, predicted = np.unravel_index(shares.argmax(), shares.shape)
    if not shares.any():
        return "No clip is confused."
    return f"Most often confused: {classes[true]!r} taken for {classes[predicted]!r} ({percent(shares.max())} %)."


def _embedding_picture(run: Run) -> tuple[Figure, str] | None:
    panels = {}
    for stage in ("random", run.last_stage):
        features = [run.arrays.get(f"features_{stage}_{modality}") for modality in MODALITIES]
        present = [values for values in features if values is not None]
        if stage is not None and present:
            scaled = [(values - values.mean(0)) / (values.std(0) + 1e-9) for values in present]
            panels[plots.STAGE_NAMES[stage]] = np.concatenate(scaled, axis=1)
    if not panels:
        return None
    return plots.embeddings(panels, run.arrays["labels"], run.dataset.classes), (
        "Features of the test clips, all modalities side by side, in two dimensions (t-SNE), colored by class. No "
        "label was used to make them. Distances between groups mean little in such a picture; whether a class "
        "forms a group does."
    )


def _accuracy_picture(run: Run) -> tuple[Figure, str] | None:
    if not run.rows:
        return None
    chance = 1 / len(run.dataset.classes)
    return plots.accuracies(run.rows, chance=chance), (
        "Top-1 accuracy on the test clips by stream and stage, beside the same encoder with random weights."
    )


def _few_labels_picture(run: Run) -> tuple[Figure, str] | None:
    stage = run.last_stage or "random"
    stream = run.widest_stream(stage) or ""
    curves = {
        protocol: {
            (at_stage, classifier): at
            for (at_stage, at_stream, classifier), at in run.few_labels(protocol).items()
            if at_stream == stream or at_stage == "raw"
        }
        for protocol in LABELLED
    }
    curves = {protocol: found for protocol, found in curves.items() if found}
    if not curves:
        return None
    return plots.few_labels(curves, chance=1 / len(run.dataset.classes), stream=stream), (
        "Top-1 accuracy on the test clips when few training clips are labelled, by stage: the means of the draws of "
        "labelled clips, and one standard deviation to each side. The encoders have seen no label."
    )


def _finetuning_picture(run: Run) -> tuple[Figure, str] | None:
    drawn = run.finetuning()
    stream = widest([stream for _, stream, _ in drawn])
    chosen = {(stage, how): at for (stage, found, how), at in drawn.items() if found == stream}
    if stream is None or len({labels for at in chosen.values() for labels in at}) < 2:
        return None
    return plots.few_labels({"finetune": chosen}, chance=1 / len(run.dataset.classes), stream=stream), (
        "Top-1 accuracy on the test clips of whole encoders that have learned from a share of the training labels, by "
        "what they began with: the means of the draws of labelled clips, and one standard deviation to each side."
    )


PICTURES: dict[str, Callable[[Run], tuple[Figure, str] | None]] = {
    "modalities": _modalities_picture,
    "training": _training_picture,
    "accuracy": _accuracy_picture,
    "few_labels": _few_labels_picture,
    "finetuning": _finetuning_picture,
    "confusion": _confusion_picture,
    "embedding": _embedding_picture,
}
"""What a report shows, by the name of the file: functions that draw and caption, or find nothing to draw."""


def save(figure: Figure, path: Path) -> None:
    """Writes a whole PNG file."""
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=130)


def front_page_picture(path: Path) -> None:
    """Draws the six modalities of one synthetic clip, seen by a sensor without faults."""
    recordings = generate(subjects=4, repetitions=1, seed=3, noise=0)
    clip = int(np.flatnonzero(recordings.class_names[recordings.labels] == "throw")[1])
    joints = recordings.joints[clip, :, : recordings.num_frames[clip]]
    layout = LAYOUTS[recordings.layout]
    centered = joints - joints[:, :, layout.root, None]
    title = "The six modalities of one synthetic clip (throw)"
    save(plots.modalities(centered, joints.shape[1], layout, title=title), path)

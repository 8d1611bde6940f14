"""`ikem show`: a recording, or clips of a prepared data set, to look at: a page with a player, or an animation."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import torch

from ikem.data.dataset import PreparedDataset
from ikem.data.prepare import FormatName
from ikem.data.preprocess import NoBodyError
from ikem.data.recordings import NamedClip, read_recordings
from ikem.files import write_text
from ikem.report.animation import animate, require_writer
from ikem.report.clips import ShownClip
from ikem.report.page import page
from ikem.report.player import player
from ikem.use.classifier import ActionClassifier, load_classifier

__all__ = ["show"]

_ANIMATIONS = (".gif", ".mp4")


def show(
    file: str,
    *,
    output: Path | None = None,
    format: FormatName | None = None,
    layout: str | None = None,
    labels: Path | None = None,
    classifier: Path | None = None,
    clips: int = 12,
    fps: float = 30.0,
) -> Path:
    """Shows a recording, or clips of a prepared data set.

    Args:
        file: a recording, a folder of them, or a prepared data set; with :CLIP after it one of its clips, by its name
            or by its number, counted from 0.
        output: the file to write: .html, a page with a player that needs nothing else; .gif or .mp4, an animation of
            one clip from several sides, beside its modalities. Default: a page of the clip's or the file's name here.
        format: what the recording is, as for ikem prepare. Default: what it looks like.
        layout: its skeleton, a built-in layout by name or a YAML file. Default: that of the format.
        labels: for mediapipe, openpose and coco, a table of the clips.
        classifier: of a run, or its file: says what each clip is taken for.
        clips: how many clips a page holds at most; those of a data set are spread over its classes.
        fps: frames of the recording in a second.

    Returns:
        The file that was written.

    Raises:
        ValueError: there is no such recording, data set or clip, no body is seen in it, an animation is asked for of
            several clips, or there is no ffmpeg to write .mp4 with.
    """
    if clips < 1:
        raise ValueError(f"clips: expected at least 1, got {clips}")
    if not fps > 0:
        raise ValueError(f"fps: expected more than 0, got {fps}")
    path, clip = _split(file)
    output = Path(f"{(clip or path.stem).replace('/', '-')}.html") if output is None else output
    if output.suffix not in (".html", *_ANIMATIONS):
        raise ValueError(f"output: expected a file that ends in .html, .gif or .mp4, got {output}")
    if output.suffix in _ANIMATIONS:
        require_writer(output)
    judge = None if classifier is None else load_classifier(classifier)
    if (path / "dataset.json").is_file():
        found = _of_dataset(PreparedDataset(path), clip, clips, fps, judge)
    else:
        found = _of_recordings(path, clip, fps, judge, format=format, layout=layout, labels=labels)
    shown = _take(found, clips, path)
    if output.suffix in _ANIMATIONS:
        if len(shown) > 1:
            raise ValueError(f"output: an animation shows one clip; name one of {path}, such as {path}:{shown[0].name}")
        animate(shown[0], output)
    else:
        title = shown[0].name if len(shown) == 1 else path.name
        write_text(output, page(title, f"<h1>{html.escape(title)}</h1>\n{player({'': shown})}", "player"))
    print(f"show: {output}")
    return output


def _split(file: str) -> tuple[Path, str | None]:
    """A path, and the clip that is named after it."""
    path, _, clip = file.rpartition(":")
    return (Path(path), clip) if path and clip and not Path(file).exists() else (Path(file), None)


def _take(found: Iterator[ShownClip | NoBodyError], most: int, path: Path) -> list[ShownClip]:
    """The first clips in which somebody is seen; says what is not seen in them, and what is left out."""
    shown: list[ShownClip] = []
    empty: list[NoBodyError] = []
    for clip in found:
        if isinstance(clip, NoBodyError):
            empty.append(clip)
        elif len(shown) == most:
            print(f"show: {path} holds more clips than the {most} that are shown; --clips asks for more")
            break
        else:
            shown.append(clip)
    if not shown:
        raise ValueError("; ".join(map(str, empty)) or f"file: {path} holds no clip")
    for reason in empty:
        print(f"show: left out {reason}")
    for clip in shown:
        if clip.unseen_frames or clip.lost_joints:
            frames = clip.joints.shape[1]
            print(
                f"show: {clip.name}: no body in {clip.unseen_frames} of {frames} frames, "
                f"{clip.lost_joints} joints lost while their body was seen; they are left out of the picture"
            )
    return shown


def _unknown(clip: str, names: Sequence[str], path: Path) -> ValueError:
    near = ", ".join(get_close_matches(clip, names, cutoff=0.5) or names[:1])
    return ValueError(f"file: {path} has no clip {clip!r}; near it: {near}; or a number from 0 to {len(names) - 1}")


# ------------------------------------------------------------------------------------------------- recordings


def _of_recordings(
    path: Path, clip: str | None, fps: float, judge: ActionClassifier | None, **how: str | Path | None
) -> Iterator[ShownClip | NoBodyError]:
    recordings = read_recordings(path, **how)  # type: ignore[arg-type]
    for recording in recordings if clip is None else [_find(recordings, clip, path)]:
        try:
            shown = ShownClip.of_recording(*recording, fps=fps)
        except NoBodyError as error:
            yield error
        else:
            yield shown if judge is None else replace(shown, guesses=_guess_recording(judge, recording))


def _find(recordings: Iterator[NamedClip], clip: str, path: Path) -> NamedClip:
    """The recording of a name, or else of a number."""
    names: list[str] = []
    numbered = None
    for recording in recordings:
        if recording.name == clip:
            return recording
        if str(len(names)) == clip:
            numbered = recording
        names.append(recording.name)
    if numbered is None:
        raise _unknown(clip, names, path)
    return numbered


def _guess_recording(judge: ActionClassifier, recording: NamedClip) -> tuple[tuple[str, float], ...]:
    try:
        joints, num_frames = judge.prepare([recording.clip], recording.layout)
    except ValueError as error:
        raise ValueError(f"classifier: {recording.name} does not fit: {error}") from error
    return _guesses(judge, joints, num_frames)


def _guesses(judge: ActionClassifier, joints: torch.Tensor, num_frames: torch.Tensor) -> tuple[tuple[str, float], ...]:
    with torch.inference_mode():
        (guesses,) = judge.guesses(judge(joints, num_frames))
    return tuple((guess.name, guess.probability) for guess in guesses)


# ------------------------------------------------------------------------------------------ prepared data sets


def _of_dataset(
    dataset: PreparedDataset, clip: str | None, most: int, fps: float, judge: ActionClassifier | None
) -> Iterator[ShownClip | NoBodyError]:
    if judge is not None:
        _require_fit(judge, dataset)
    for place in _spread(dataset, most) if clip is None else [_place(dataset, clip)]:
        try:
            shown = ShownClip.of_dataset(dataset, place, fps=fps)
        except NoBodyError as error:
            yield error
        else:
            yield shown if judge is None else replace(shown, guesses=_guess_prepared(judge, dataset, place))


def _spread(dataset: PreparedDataset, most: int) -> list[int]:
    """Places of clips, evenly over all clips by class."""
    if len(dataset) > most:
        print(f"show: {most} of the {len(dataset)} clips in {dataset.folder} are shown; --clips asks for more")
    by_class = np.argsort(dataset.labels, kind="stable")
    return by_class[np.unique(np.linspace(0, len(dataset) - 1, min(most, len(dataset))).round().astype(int))].tolist()


def _place(dataset: PreparedDataset, clip: str) -> int:
    names = [each.name for each in dataset.clips]
    if clip in names:
        return names.index(clip)
    if clip.isdecimal() and int(clip) < len(names):
        return int(clip)
    raise _unknown(clip, names, dataset.folder)


def _require_fit(judge: ActionClassifier, dataset: PreparedDataset) -> None:
    wanted = (judge.layout.name, judge.frames, judge.bodies)
    _, _, frames, _, bodies = dataset.joints.shape
    got = (dataset.layout.name, frames, bodies)
    if wanted != got:
        kinds = ["layout {}, {} frames, {} bodies".format(*each) for each in (wanted, got)]
        raise ValueError(f"classifier: expected clips of {kinds[0]}, got {dataset.folder} of {kinds[1]}")


def _guess_prepared(judge: ActionClassifier, dataset: PreparedDataset, place: int) -> tuple[tuple[str, float], ...]:
    joints = torch.from_numpy(np.array(dataset.joints[place]))[None]
    return _guesses(judge, joints, torch.tensor([dataset.clips[place].num_frames]))

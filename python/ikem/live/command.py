"""`ikem live`: actions named while they happen, from lines of JSON or from a recording that is played again."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ikem.data.recordings import NamedClip, read_layout, read_recordings
from ikem.use.classifier import load_classifier
from ikem_ext.skeleton import SkeletonLayout

from .lines import line_of_result, read_lines
from .recognizer import FRAME_RATE, Frames, Recognizer, Result

__all__ = ["live", "played"]


def live(
    checkpoint: Path,
    *,
    stdin: bool = False,
    replay: Path | None = None,
    window: float | None = None,
    hop: float | None = None,
    speed: float = 1.0,
    fps: float = FRAME_RATE,
    trained_fps: float = FRAME_RATE,
    lost_after: float | None = None,
    layout: str | None = None,
    format: str | None = None,
    image_size: tuple[int, int] | None = None,
    top: int = 5,
) -> None:
    """Names actions while they happen.

    Reads frames as lines of JSON, {"time": seconds, "bodies": [{"id": 7, "joints": [[x, y, z], ...]}, ...]} (for one
    body {"time": seconds, "joints": [...]} will do; times and ids may be left out), and writes a line of JSON for each
    window as soon as it is due: its start and end, the likeliest class, its score, and the likeliest classes'
    probabilities.

    Args:
        checkpoint: a classifier, classifier.safetensors of `ikem evaluate` or `ikem finetune`, or the folder with it.
        stdin: read lines from the standard input until it ends.
        replay: play a recording instead, each frame at its time.
        window: how much is looked at: seconds where frames have times, as they do in a replay, else frames. Default for
            a replay: all of it.
        hop: from one result to the next, likewise. Default: a quarter of the window.
        speed: of the replay; 2 is twice as fast, 0 as fast as can be.
        fps: frames per second of the recording that is played.
        trained_fps: frames per second of the recordings that the classifier was trained on.
        lost_after: when a body that is not seen is gone, in seconds or frames likewise. Default: after half a window.
        layout: the skeleton, a built-in layout by name or a YAML file. Default: what the recording says, or else the
            classifier's.
        format: what the recording is, as for `ikem prepare`. Default: what it looks like.
        image_size: width and height in pixels, for points in an image.
        top: how many classes a line names.

    Raises:
        ValueError: an argument or a line is wrong, the stream stops within a line, or the file is no classifier. What
            was written before stays.
    """
    if stdin == (replay is not None):
        raise ValueError("stdin: expected either --stdin or --replay FILE")
    if stdin and window is None:
        raise ValueError("window: expected one for --stdin, such as --window 2.0 (seconds, if frames have times)")
    for name, value, least in (("speed", speed, 0), ("fps", fps, 1e-3), ("top", top, 1)):
        if not least <= value < float("inf"):
            raise ValueError(f"{name}: expected a number of at least {least}, got {value}")
    classifier = load_classifier(checkpoint)

    def recognizer(window: float, skeleton: SkeletonLayout, image_size: tuple[int, int] | None) -> Recognizer:
        return Recognizer(
            classifier,
            window,
            window / 4 if hop is None else hop,
            layout=skeleton,
            frame_rate=trained_fps,
            lost_after=lost_after,
            image_size=image_size,
        )

    with _ended_quietly(), _doubts_in_one_line():
        if replay is None:
            assert window is not None  # as was seen to
            skeleton = read_layout(layout, Path(layout)) if layout else classifier.layout
            axes = 3 if classifier.layout.third == "depth" else 2
            _recognize(
                recognizer(window, skeleton, image_size), read_lines(sys.stdin.buffer, skeleton.num_joints, axes), top
            )
            return
        for name, clip, skeleton in read_recordings(replay, format=format, layout=layout):
            whole = clip.joints.shape[1] / fps
            frames = played(NamedClip(name, clip, skeleton), fps, speed, by_id=classifier.recipe.selection.heeds_ids)
            _recognize(
                recognizer(window or whole, skeleton, clip.image_size), enumerate(frames, 1), top, recording=name
            )


def _recognize(recognizer: Recognizer, frames: Iterable[tuple[int, Frames]], top: int, **others: str) -> None:
    """Writes results as soon as they are there; an error names the number of the line or frame."""

    def write(results: Iterable[Result]) -> None:
        for result in results:
            print(line_of_result(result, top, **others), flush=True)

    for number, frame in frames:
        try:
            results = recognizer.push(*frame)
        except ValueError as error:
            raise ValueError(f"{'frame' if others else 'line'} {number}: {error}") from error
        write(results)
    write(recognizer.finish())


def played(
    named: NamedClip,
    fps: float,
    speed: float = 1.0,
    *,
    by_id: bool = False,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Frames]:
    """Plays a recording: yields each frame when its time has come.

    Args:
        named: the recording.
        fps: its frames per second.
        speed: how much faster than it was recorded; 0 waits for nothing.
        by_id: bodies have the sensor's ids, where it says them.
        now: reads the clock, in seconds.
        sleep: waits for so many.
    """
    clip, began = named.clip, now()
    for number in range(clip.joints.shape[1]):
        at = number / fps
        if speed:
            sleep(max(0.0, began + at / speed - now()))
        joints = clip.joints[:, number]
        seen = joints.any(axis=(0, 1))
        ids = clip.body_ids[number][seen].tolist() if by_id and clip.body_ids is not None else None
        confidence = None if clip.confidence is None else clip.confidence[number]
        if ids is not None:
            joints, confidence = joints[..., seen], None if confidence is None else confidence[:, seen]
        yield Frames(joints, at, ids, confidence)


@contextmanager
def _ended_quietly() -> Iterator[None]:
    """Who reads the results may have heard enough, and so may the user."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would try to flush, and complain
    except KeyboardInterrupt:
        raise SystemExit(130) from None


@contextmanager
def _doubts_in_one_line() -> Iterator[None]:
    said = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        if str(message) not in said:
            print(f"ikem live: {message}", file=sys.stderr)
        said.add(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield

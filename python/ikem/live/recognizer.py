"""Names actions while they happen: a window over the last frames of a stream, or of many streams at once."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ikem.data.preprocess import Preprocessed
from ikem.use.classifier import ActionClassifier, Guess
from ikem.use.windows import WindowClassifier, doubt_of_window
from ikem_ext.skeleton import SkeletonLayout

from .buffer import Window, WindowBuffer
from .frames import Frame, FrameChecks, Frames, Resampler

__all__ = ["FRAME_RATE", "Recognizer", "RecognizerPool", "Result"]

FRAME_RATE = 30.0  # of Kinect, and so of most data sets


@dataclass(frozen=True, eq=False)
class Result:
    """What a window shows.

    Attributes:
        start, end: of the window: seconds by the stream's time stamps or, without these, frames since it began.
        probabilities: float32 (L,); None where no body was seen.
        classes: the names of the L classes.
    """

    start: float
    end: float
    probabilities: NDArray[np.float32] | None
    classes: Sequence[str]

    def guesses(self, top: int = 5) -> list[Guess]:
        """The likeliest classes; none where no body was seen."""
        if self.probabilities is None:
            return []
        order = np.argsort(-self.probabilities, kind="stable")[:top]
        return [Guess(self.classes[place], float(self.probabilities[place])) for place in order]

    @property
    def name(self) -> str | None:
        """The likeliest class."""
        return next((guess.name for guess in self.guesses(1)), None)


@dataclass(eq=False)
class _Stream:
    """One stream: its buffer, whether its bodies have ids (None before one is seen), and the time of its last frame."""

    buffer: WindowBuffer
    by_id: bool | None = None
    time: float | None = None

    def push(self, frames: Sequence[Frame], times: NDArray[np.float64] | None) -> Iterator[Window]:
        if times is not None and len(times):
            self.time = float(times[-1])
        return self.buffer.push(frames, times)


class RecognizerPool:
    """Recognizes actions in many streams; the windows that are due at a time share one forward pass.

    What it holds of a stream does not grow: the frames of one window. A body that is not seen for some frames is
    interpolated as by the preprocessing that the classifier was trained with. One that is away for longer than
    ``lost_after`` is gone, and what it did before is forgotten.

    With time stamps, frames may come at any rate, also a changing one: they are resampled to that of the training, so
    that the same movement looks the same. A stream that pauses for longer than ``lost_after`` begins anew.

    Preprocessing resizes, centers and turns a window as a whole, so each has its modalities derived as a whole too:
    nothing of what the window before it showed is the same number in this one.

    Args:
        model: the classifier, which is put into eval mode, or its file.
        window: how much a window shows: seconds in streams with time stamps; without, frames.
        hop: from one window to the next, likewise.
        layout: the skeleton of the streams. Default: that of the classifier.
        frame_rate: frames per second of the recordings that the classifier was trained on.
        lost_after: in seconds or frames, likewise. Default: half a window.
        image_size: width and height in pixels, of streams of points in an image.

    Raises:
        ValueError: a number is out of range, the file is no classifier, or the skeleton lacks joints.

    Example:
        >>> from ikem.config import EncoderConfig
        >>> from ikem.data.bodies import BodySelection
        >>> from ikem.data.preprocess import Preprocessing
        >>> from ikem.data.recipe import Recipe
        >>> from ikem.encoders import build_encoder
        >>> from ikem.use.classifier import Classifier
        >>> from ikem_ext import get_layout
        >>> steps = Preprocessing(frames=16, bodies=1, center="frame", align="none", lost_frames="interpolate")
        >>> config, layout = EncoderConfig(base_width=4, feature_width=16), get_layout("ntu25")
        >>> streams = {name: Classifier(build_encoder(config, layout), 2) for name in ("joint", "motion")}
        >>> recipe = Recipe(layout, steps, BodySelection(bodies=1))
        >>> classifier = ActionClassifier(streams, config, ["wave", "sit down"], recipe)
        >>> pool = RecognizerPool(classifier, window=2.0, hop=0.5)
        >>> door, hall = np.random.default_rng(0).normal(size=(2, 3, 90, 25, 1))  # 3 s of two cameras
        >>> times = np.arange(90) / 30
        >>> results = pool.push({"door": Frames(door, times), "hall": Frames(hall, times)})
        >>> [round(result.end, 3) for result in results["hall"]]
        [2.0, 2.5, 3.0]
    """

    def __init__(
        self,
        model: ActionClassifier | Path | str,
        window: float,
        hop: float,
        *,
        layout: SkeletonLayout | None = None,
        frame_rate: float = FRAME_RATE,
        lost_after: float | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        lost_after = window / 2 if lost_after is None else lost_after
        numbers = {"window": window, "hop": hop, "frame_rate": frame_rate, "lost_after": lost_after}
        for name, value in numbers.items():
            if isinstance(value, bool) or not 0 < value < float("inf"):
                raise ValueError(f"{name}: expected a positive number, got {value!r}")
        self._windows = WindowClassifier(model, layout)
        self.classifier = self._windows.classifier
        self.window, self.hop, self.lost_after, self.frame_rate = window, hop, lost_after, frame_rate
        self.image_size = image_size
        self._check = FrameChecks(
            self._windows.layout,
            axes=3 if self.classifier.layout.third == "depth" else 2,
            nan_is_lost=self.classifier.recipe.preprocessing.lost_joints == "nan",
        )
        self._streams: dict[Hashable, _Stream] = {}
        self._warned = False

    def push(self, frames: Mapping[Any, Frames]) -> dict[Any, list[Result]]:
        """Takes frames of some streams; one begins with its first ones.

        Args:
            frames: by stream.

        Returns:
            Stream -> the results of the windows that are due with these frames, in their order.

        Raises:
            ValueError: a frame is not what it should be, or time goes backwards. Nothing is taken then.
        """
        checked = {name: self._checked(name, each) for name, each in frames.items()}
        results: dict[Hashable, list[Result]] = {name: [] for name in frames}
        due: list[tuple[Hashable, Window, Preprocessed | None]] = []
        for name, (stream, parts, times) in checked.items():
            self._streams[name] = stream
            if stream.by_id is None and any(frame.bodies for frame in parts):
                stream.by_id = stream.buffer.by_id = frames[name].ids is not None
            due += [(name, each, self._prepared(each, stream)) for each in stream.push(parts, times)]
        found = self._windows.classify([prepared for *_, prepared in due])
        for (name, window, _), probabilities in zip(due, found, strict=True):
            results[name].append(Result(window.start, window.end, probabilities, self.classifier.classes))
        return results

    def finish(self, stream: Hashable) -> list[Result]:
        """Ends a stream; nothing is held of it from then on.

        Returns:
            Where it did not fill a window since it began, what there is shows; otherwise nothing.
        """
        ended = self._streams.pop(stream, None)
        if ended is None or not 0 < len(ended.buffer) < ended.buffer.length:
            return []
        window = ended.buffer.window()
        (probabilities,) = self._windows.classify([self._prepared(window, ended)])
        return [Result(window.start, window.end, probabilities, self.classifier.classes)]

    def _prepared(self, window: Window, stream: _Stream) -> Preprocessed | None:
        return self._windows.prepare(window.clip, by_id=bool(stream.by_id))

    def _checked(self, name: Hashable, pushed: Frames) -> tuple[_Stream, list[Frame], NDArray[np.float64] | None]:
        frames, times = self._check(pushed)
        stream = self._streams.get(name) or self._begun(timed=times is not None)
        said = {"timestamps": (stream.buffer.resampler is not None, times is not None)}
        if stream.by_id is not None and any(frame.bodies for frame in frames):
            said["ids"] = (stream.by_id, pushed.ids is not None)
        for what, (before, now) in said.items():
            if before != now:
                wanted, got = ("some", "none") if before else ("none", "some")
                raise ValueError(f"{what}: expected {wanted}, as with the stream's frames before, got {got}")
        if times is not None and len(times):
            last = times[0] if stream.time is None else stream.time
            if (wrong := np.flatnonzero(np.diff(times, prepend=last) < 0)).size:
                earlier = np.append(last, times)[wrong[0]]
                raise ValueError(f"timestamps: expected them to ascend, got {times[wrong[0]]} after {earlier}")
        return stream, frames, times

    def _begun(self, timed: bool) -> _Stream:
        """A new stream, in which what is said in seconds or frames is frames."""
        numbers = {"window": self.window, "hop": self.hop, "lost_after": self.lost_after}
        if timed:
            frames = {name: max(1, round(value * self.frame_rate)) for name, value in numbers.items()}
        else:
            frames = {name: int(value) for name, value in numbers.items()}
            for name in ("window", "hop"):
                if frames[name] != numbers[name]:
                    raise ValueError(
                        f"{name}: expected a whole number of frames, as the stream has no time stamps, "
                        f"got {numbers[name]}"
                    )
        doubt = doubt_of_window(frames["window"], self.classifier)
        if doubt and not self._warned:
            warnings.warn(doubt, stacklevel=4)
            self._warned = True
        buffer = WindowBuffer(
            frames["window"],
            frames["hop"],
            frames["lost_after"],
            (self._check.axes, self._check.layout.num_joints),
            resampler=Resampler(self.frame_rate, self.lost_after) if timed else None,
            image_size=self.image_size,
        )
        return _Stream(buffer)


class Recognizer:
    """Recognizes actions in one stream; see :class:`RecognizerPool` for its arguments and for what it does.

    Example:
        See :class:`RecognizerPool` for ``classifier``. A camera's loop is::

            recognizer = Recognizer(classifier, window=2.0, hop=0.5)
            for time, joints in camera:  # joints (3, V, bodies)
                for result in recognizer.push(joints, time):
                    print(result.name)
    """

    def __init__(
        self,
        model: ActionClassifier | Path | str,
        window: float,
        hop: float,
        *,
        layout: SkeletonLayout | None = None,
        frame_rate: float = FRAME_RATE,
        lost_after: float | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        self.pool = RecognizerPool(
            model,
            window,
            hop,
            layout=layout,
            frame_rate=frame_rate,
            lost_after=lost_after,
            image_size=image_size,
        )

    def push(
        self,
        joints: ArrayLike,
        timestamps: ArrayLike | None = None,
        ids: Sequence[Hashable] | Sequence[Sequence[Hashable]] | None = None,
        confidence: ArrayLike | None = None,
    ) -> list[Result]:
        """Takes a frame, or some in a row; the arguments are those of :class:`Frames`.

        Returns:
            The results of the windows that are due, in their order; mostly none.

        Raises:
            ValueError: a frame is not what it should be, or time goes backwards. Nothing is taken then.
        """
        return self.pool.push({None: Frames(joints, timestamps, ids, confidence)})[None]

    def finish(self) -> list[Result]:
        """Ends the stream; what is pushed next begins another.

        Returns:
            Where it did not fill a window since it began, what there is shows; otherwise nothing.
        """
        return self.pool.finish(None)

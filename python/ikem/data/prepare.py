"""From raw recordings to a prepared data set."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from rich.console import Console
from rich.markdown import Markdown

from ikem_ext.layout_mapping import LayoutMapping
from ikem_ext.skeleton import SkeletonLayout, Third

from .bodies import BodySelection, KeepBodies, KeptBodies
from .dataset import Clip, DatasetWriter
from .formats import FORMATS, Align, ClipSource, Format, LostFrames, RawClip
from .formats.ntu import Ntu120, find_missing_lists, read_missing_lists
from .preprocess import Center, ImageThird, LostJoints, NoBodyError, Preprocessed, Preprocessing, Scale
from .progress import track
from .protocols import Protocols, lacking_for_evaluation, make_protocols, named_subjects
from .recordings import open_format, read_layout
from .selection import ALL, Chosen, Only
from .summary import DamagedClipsError, PrepareSummary, some_of
from .units import Reach, reach_of, warn_of_units
from .windows import Windows

__all__ = ["FormatName", "prepare"]

FormatName = Literal[
    "ntu60",
    "ntu120",
    "utd-mhad",
    "nw-ucla",
    "sbu",
    "msr-action3d",
    "pku-mmd",
    "shrec17",
    "shrec17-28",
    "ctr-gcn",
    "npy-pair",
    "pyskl",
    "mediapipe",
    "openpose",
    "coco",
    "npz",
]

_LISTED = "named in a list of clips with missing skeletons"
_DAMAGED = "damaged"


def prepare(
    format: FormatName,
    raw: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    frames: int = 50,
    max_bodies: int | None = None,
    bodies: int | None = None,
    keep_bodies: KeepBodies = "first",
    track_bodies: bool = False,
    only: Only = ALL,
    center: Center = "frame",
    align: Align | None = None,
    scale: Scale | bool | None = None,
    lost_frames: LostFrames | None = None,
    lost_joints: LostJoints | None = None,
    third: ImageThird = "zero",
    layout: str | None = None,
    layout_out: str | None = None,
    missing: Path | list[Path] | None = None,
    labels: Path | None = None,
    train_subjects: str | None = None,
    windows: str | None = None,
    skip_damaged: bool = False,
    workers: int | None = None,
    overwrite: bool = False,
) -> PrepareSummary:
    """Prepares recordings for training: reads, preprocesses and stores them with their protocols.

    Args:
        format: what the recordings are: ntu60, ntu120, utd-mhad, nw-ucla, sbu, msr-action3d, pku-mmd, shrec17 or
            shrec17-28, as their authors distribute them; ctr-gcn, npy-pair or pyskl for what other projects' code made
            of recordings; mediapipe, openpose or coco for JSON files of these tools; or npz for arrays of your own.
        raw: the folder that holds the recordings, searched with all folders below it, or the file.
        out: the folder to write. It appears when all is done.
        frames: the number of frames that every clip is resized to.
        max_bodies: M, how many bodies are kept per clip. Default: what the format has, 2 for ntu60, ntu120 and sbu.
        bodies: another name for max_bodies; give one of them.
        keep_bodies: which they are, where a clip has more: first, in the order of the recording, as published; energy,
            those that move most, as 2s-AGCN and CMD choose; or denoised, by CTR-GCN's rules of length, spread and
            motion.
        track_bodies: follow bodies from frame to frame, by the sensor's ids or else by nearest position, where the
            recording may list them in another order in the next frame.
        only: the classes, subjects or cameras to take; the others are passed over.
        center: what is subtracted from all joints: frame, the root joint of each body in each frame;
            first_frame, where the first body's root was first seen; or none.
        align: who is turned to face the camera: frame, each body in each frame; clip, the whole clip by one angle;
            or none. Default: frame for ntu60, ntu120 and pku-mmd, as published, otherwise none.
        scale: divide every clip by the mean length of its bones (body, or true), by half of the longer side of its
            image (image), or by nothing (none, or false). Default: body for points in an image, otherwise none.
        lost_frames: frames in which no body is seen: interpolate them, drop them, or keep them as published for
            NTU. Default: keep for ntu60, ntu120 and pku-mmd, otherwise interpolate.
        lost_joints: single joints that are lost, and interpolated: zero, those that are exactly zero or have no
            confidence; nan, those that are not a number as well; or keep, none. Default: keep where lost frames are
            kept, otherwise zero.
        third: the third coordinate of points in an image: zero, or the confidence of each.
        layout: the skeleton, a built-in layout by name or a YAML file. Default: that of the format.
        layout_out: the skeleton to store, likewise; joints are taken over by name, or as means of others. Default:
            that of the recordings.
        missing: for ntu60 and ntu120, files that list clips to leave out, such as
            NTU_RGBD_samples_with_missing_skeletons.txt. Those found among the recordings are used anyway.
        labels: for mediapipe, openpose and coco, a CSV file with the columns name and label, and perhaps subject,
            camera and split (train or test). Default: the folder that a clip lies in is its class.
        train_subjects: who trains in the protocol cross-subject, such as 1,2,3, for recordings whose authors have not
            laid it down. Default: every other subject.
        windows: LENGTH,HOP in frames: cut every recording into windows, each a clip NAME@start of the recording's
            label, subject and part. The last window ends where the recording does; a shorter recording is one window.
        skip_damaged: leave out clips that cannot be read or hold coordinates that are not finite, and list them,
            instead of refusing to write anything.
        workers: how many threads read. Default: one per core.
        overwrite: replace a prepared data set that is there already.

    Returns:
        What was read, what was left out and why; it is printed, and written into the folder as well.

    Raises:
        ValueError: an argument is wrong, or no clip is left.
        DamagedClipsError: clips are damaged; all of them are named with the reason.
        FileExistsError: ``out`` exists.
    """
    raw, out = Path(raw), Path(out)
    if format not in FORMATS:
        raise ValueError(f"format: expected one of {sorted(FORMATS)}, got {format!r}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers: expected a positive integer, got {workers}")
    if raw.resolve().is_relative_to(out.resolve()):
        raise ValueError(f"out: {out} holds the recordings {raw}, and would replace them")
    if max_bodies is not None and bodies is not None:
        raise ValueError(f"max_bodies: {max_bodies} is given, and {bodies} by its other name, bodies; give one of them")
    cut = None if windows is None else Windows.parsed(windows)
    recordings = open_format(format, raw, labels)
    recorded = read_layout(layout or recordings.layout, raw)
    mapping = _choose_mapping(recorded, layout_out)
    skeleton = recorded if mapping is None else mapping.target
    recordings.begin(recorded, scratch=out.parent)
    preprocessing = Preprocessing(
        frames=frames,
        bodies=next(number for number in (max_bodies, bodies, recordings.bodies) if number is not None),
        center=center,
        align=recordings.align if align is None else align,
        lost_frames=lost_frames or recordings.lost_frames,
        scale=scale,
        lost_joints=lost_joints,
        third=third,
    )
    selection = BodySelection(preprocessing.bodies, keep_bodies, track_bodies)
    trained_on = None if train_subjects is None else [name.strip() for name in train_subjects.split(",")]
    listed = _read_missing(missing, recordings)
    work = _Work(recordings, selection, preprocessing, recorded, mapping, listed, cut)
    console = Console()
    with DatasetWriter(out, (3, frames, skeleton.num_joints, preprocessing.bodies), overwrite=overwrite) as writer:
        with console.status(f"Looking for {format} recordings in {raw}"):
            sources, skipped = recordings.discover()
        if not sources:
            wanted = getattr(recordings, "example", "a row in the file")
            raise ValueError(
                f"raw: found no clip of {format} in {raw}, such as {wanted}; left out: {_reasons(skipped)}"
            )
        chosen = only.choose(sources, recordings.classes)
        if not chosen.sources:
            raise ValueError(f"only: none of the {len(sources)} clips in {raw} has all that is asked for")
        if trained_on is not None:
            named_subjects(trained_on, chosen.sources)  # before anything is read
        collected = _Collected(writer, chosen, skipped)
        with ThreadPoolExecutor(workers or os.cpu_count()) as threads:
            outcomes = _in_order(threads, work, chosen.sources, ahead=4 * (workers or os.cpu_count() or 1))
            for _, clips in zip(track(chosen.sources, "Reading clips", console), outcomes, strict=True):
                for source, outcome in clips:
                    collected.add(source, outcome)
        collected.check(raw, skip_damaged)
        protocols = make_protocols(
            format,
            collected.kept,
            collected.contents,
            trained_on,
        )
        losses = collected.losses(preprocessing, selection)
        lengths = [clip.num_frames for clip in writer.clips]
        summary = PrepareSummary(
            source=format,
            raw=str(raw),
            clips=len(lengths),
            classes=len(chosen.classes),
            shape=(len(lengths), *writer.clip_shape),
            num_frames=(min(lengths), int(np.median(lengths)), max(lengths)),
            skipped=skipped,
            notes=[
                *recordings.notes,
                *_notes_on_windows(cut, len(chosen.sources), len(lengths)),
                *_notes_on_mapping(mapping),
                *collected.notes(preprocessing, losses),
            ],
            protocols={
                name: {part: len(indices) for part, indices in parts.items()} for name, parts in protocols.items()
            },
            unlabelled=sum(clip.label is None for clip in writer.clips),
            others=chosen.others,
            losses=losses,
            warnings=[*warn_of_units(collected.reaches), *_warnings(recordings, listed, protocols, writer.clips)],
        )
        writer.finish(
            classes=chosen.classes,
            layout=replace(skeleton, third=collected.third),
            source=recordings.origin,
            preprocessing=asdict(replace(preprocessing, scale=preprocessing.scale_of(collected.third))),
            selection={
                "keep_bodies": keep_bodies,
                "track_bodies": track_bodies,
                "only": asdict(only),
                **({} if cut is None else {"windows": asdict(cut)}),
            },
            protocols=protocols,
            summary=summary,
        )
    console.print(Markdown(summary.to_markdown()))
    return summary


@dataclass(frozen=True)
class _Outcome:
    """What came of one clip: either joints or the reason why there are none."""

    clip: Preprocessed | None = None
    content: bytes = b""  # a digest of the joints as recorded
    bodies_left_out: int = 0
    noise: int = 0  # bodies that were taken for that
    reach: Reach | None = None  # of joints in space
    left_out: str = ""
    error: str = ""


@dataclass(frozen=True)
class _Work:
    """Reads and preprocesses one recording, a clip or several windows; several threads do so at once."""

    recordings: Format
    selection: BodySelection
    preprocessing: Preprocessing
    layout: SkeletonLayout
    mapping: LayoutMapping | None
    missing: set[str]
    windows: Windows | None = None

    def __call__(self, source: ClipSource) -> list[tuple[ClipSource, _Outcome]]:
        listed = source.name in self.missing
        try:
            recording = self.recordings.read(source)
            bodies = self.selection(recording)
        except (ValueError, OSError) as error:
            return [(source, self._failed(source, error))]
        if self.windows is None or listed:
            return [(source, self._outcome(source, recording, bodies))]
        return [
            (clip, self._outcome(clip, window.of(recording), bodies._replace(clip=window.of(bodies.clip))))
            for window in self.windows(recording.joints.shape[1])
            for clip in [window.named(source)]
        ]

    def _failed(self, source: ClipSource, error: Exception) -> _Outcome:
        if source.name in self.missing:
            return _Outcome(left_out=_LISTED)
        return _Outcome(error=f"clip {source.name}: {error}")

    def _outcome(self, source: ClipSource, recording: RawClip, bodies: KeptBodies) -> _Outcome:
        try:
            clip = self.preprocessing(
                bodies.clip.joints,
                self.layout,
                confidence=bodies.clip.confidence,
                image_size=bodies.clip.image_size,
                mapping=self.mapping,
            )
        except NoBodyError as error:
            return _Outcome(left_out=str(error))
        except ValueError as error:
            return self._failed(source, error)
        if source.name in self.missing:
            return _Outcome(left_out=_LISTED)
        joints = recording.joints
        content = hashlib.blake2b(np.ascontiguousarray(joints).data, digest_size=16)
        content.update(str(joints.shape).encode())
        if recording.num_frames is not None:
            clip = clip._replace(num_frames=recording.num_frames)
        reach = reach_of(joints) if clip.third == "depth" else None
        return _Outcome(clip, content.digest(), bodies.left_out, bodies.noise, reach)


@dataclass
class _Collected:
    """Takes the outcomes in the order of the clips."""

    writer: DatasetWriter
    chosen: Chosen
    skipped: dict[str, list[str]]
    kept: list[ClipSource] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    lost_frames: int = 0
    clips_with_lost_frames: int = 0
    lost_joints: int = 0
    clips_with_lost_joints: int = 0
    reaches: list[Reach] = field(default_factory=list)
    third: Third = "depth"
    more_bodies: list[str] = field(default_factory=list)
    noise: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)

    def add(self, source: ClipSource, outcome: _Outcome) -> None:
        if outcome.clip is not None and self.kept and outcome.clip.third != self.third:
            what = {"depth": "joints in space"}
            first, other = (what.get(third, "points in an image") for third in (self.third, outcome.clip.third))
            raise ValueError(f"raw: clip {source.name} holds {other}, the clips before it {first}; prepare them apart")
        if outcome.error:
            self.errors.append(outcome.error)
        elif outcome.clip is None:
            self.skipped.setdefault(outcome.left_out, []).append(source.name)
        else:
            self.writer.append(
                outcome.clip.joints,
                Clip(
                    source.name,
                    None if source.label is None else self.chosen.labels[source.label],
                    source.subject,
                    source.camera,
                    source.setup,
                    source.replication,
                    outcome.clip.num_frames,
                ),
            )
            self.kept.append(source)
            self.contents.append(outcome.content)
            self.lost_frames += outcome.clip.lost_frames
            self.clips_with_lost_frames += outcome.clip.lost_frames > 0
            self.lost_joints += outcome.clip.lost_joints
            self.clips_with_lost_joints += outcome.clip.lost_joints > 0
            self.third = outcome.clip.third
            self.reaches += [outcome.reach] if outcome.reach else []
            if outcome.bodies_left_out:
                self.more_bodies.append(source.name)
            if outcome.noise:
                self.noise.append(f"{source.name} ({outcome.noise})")
            if outcome.clip.cut_frames:
                self.cut.append(f"{source.name} ({outcome.clip.cut_frames})")

    def check(self, raw: Path, skip_damaged: bool) -> None:
        """Refuses damaged clips, or lists them with those left out, and refuses a data set without any clip."""
        if self.errors and not skip_damaged:
            raise DamagedClipsError(
                f"raw: {len(self.errors)} clips are damaged; repair them, or leave them out with skip_damaged",
                self.errors,
            )
        if self.errors:
            self.skipped[_DAMAGED] = self.errors
        if not self.kept:
            counts = {reason: len(names) for reason, names in self.skipped.items()}
            raise ValueError(f"raw: no clip in {raw} is left, all were left out: {counts}")

    def losses(self, preprocessing: Preprocessing, selection: BodySelection) -> dict[str, list[str]]:
        """What was left out of the clips that are there: a note -> the clips, with numbers."""
        kept = {"first": "the first", "energy": "those that move most", "denoised": "those that move most"}
        noted = {
            f"{len(self.more_bodies)} clips have more than {preprocessing.bodies} bodies, "
            f"of which {kept[selection.keep]} were kept": self.more_bodies,
            f"in {len(self.noise)} clips bodies were taken for noise and left out (how many)": self.noise,
            f"{len(self.cut)} clips lost frames with bodies in them, as the published rule counts their length without "
            "the frames in which the first body is lost (how many; --lost_frames interpolate keeps them)": self.cut,
        }
        return {note: clips for note, clips in noted.items() if clips}

    def notes(self, preprocessing: Preprocessing, losses: Mapping[str, list[str]]) -> list[str]:
        notes = []
        if self.lost_joints:
            notes.append(f"{self.lost_joints} lost joints in {self.clips_with_lost_joints} clips were filled in")
        if self.lost_frames:
            done = {"interpolate": "interpolated", "drop": "dropped", "keep": "kept as they are, as published"}
            notes.append(
                f"{self.lost_frames} frames without any body in {self.clips_with_lost_frames} clips were "
                f"{done[preprocessing.lost_frames]}"
            )
        return notes + [f"{loss}: {some_of(clips, ', all named in summary.json')}" for loss, clips in losses.items()]


def _reasons(skipped: Mapping[str, list[str]]) -> str:
    """What was left out and why, for an error message."""
    return "; ".join(f"{len(names)}, {reason} ({some_of(names)})" for reason, names in skipped.items()) or "none"


def _warnings(recordings: Format, listed: set[str], protocols: Protocols, clips: Sequence[Clip]) -> list[str]:
    """What deserves a second look: clips that may be bad, and protocols that lack something."""
    labels = np.array([-1 if clip.label is None else clip.label for clip in clips])
    warnings = []
    for name, parts in protocols.items():
        if reason := lacking_for_evaluation(parts, labels):
            cannot = "cannot be evaluated" if parts["train"] else "can neither be trained on nor evaluated"
            warnings.append(f"protocol {name} {cannot}: {reason}")
    unlisted = recordings.unlisted(listed) if isinstance(recordings, Ntu120) else None
    return [*([unlisted] if unlisted else []), *warnings]


Item = TypeVar("Item")
Result = TypeVar("Result")


def _in_order(
    executor: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Like ``executor.map``, but no more than ``ahead`` results wait to be taken."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(executor.submit(function, item))
        if len(waiting) == ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _choose_mapping(recorded: SkeletonLayout, layout_out: str | None) -> LayoutMapping | None:
    if layout_out is None:
        return None
    mapping = SkeletonLayout.mapping(recorded, read_layout(layout_out, Path(layout_out)))
    try:
        mapping.require_all()
    except ValueError as error:
        raise ValueError(f"layout_out: {error}") from None
    return mapping


def _notes_on_windows(windows: Windows | None, recordings: int, clips: int) -> list[str]:
    if windows is None:
        return []
    return [
        f"{recordings} recordings were cut into windows of {windows.length} frames, one every {windows.hop}: "
        f"{clips} clips, called NAME@start"
    ]


def _notes_on_mapping(mapping: LayoutMapping | None) -> list[str]:
    if mapping is None:
        return []
    stand_ins = (f"{joint} by {' and '.join(others)}" for joint, others in mapping.approximated.items())
    return [
        f"joints are those of {mapping.target.name}, taken from {mapping.source.name}; "
        f"made of others: {', '.join(stand_ins) or 'none'}; not used: {', '.join(mapping.unused) or 'none'}"
    ]


def _read_missing(missing: Path | list[Path] | None, recordings: Format) -> set[str]:
    lists = [missing] if isinstance(missing, Path) else list(missing or [])
    if isinstance(recordings, Ntu120):
        lists += find_missing_lists(recordings.raw)
    elif lists:
        raise ValueError(f"missing: lists of clips with missing skeletons exist for NTU only, not {recordings.name}")
    return read_missing_lists(lists)

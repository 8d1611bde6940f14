"""Any recording that `ikem prepare` reads, a single file too, as it was recorded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from ikem_ext.skeleton import SkeletonLayout, get_layout

from .formats import FORMATS, ClipSource, FileFormat, Format, PoseFiles, RawClip

__all__ = ["NamedClip", "open_format", "read_layout", "read_recordings"]

#: In this order a format is looked for: the larger NTU first, whose files have the same names; arrays last.
_GUESSED = [name for name in FORMATS if name not in ("ntu60", "shrec17-28")]


class NamedClip(NamedTuple):
    """A clip as it was recorded.

    Args:
        name: as the recordings name it.
        clip: its joints, and what else was recorded.
        layout: the skeleton.
    """

    name: str
    clip: RawClip
    layout: SkeletonLayout


def read_recordings(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    layout: str | None = None,
    labels: Path | None = None,
    damages: list[str] | None = None,
) -> Iterator[NamedClip]:
    """Read the clips of a file or a folder, one after another.

    Args:
        path: the file or folder.
        format: what the recordings are, as for `ikem prepare`. Default: what they look like.
        layout: the skeleton, a built-in layout by name or a YAML file. Default: that of the recordings.
        labels: for mediapipe, openpose and coco, a table of the clips.
        damages: receives a sentence for each clip that cannot be read, which is then passed over. Default: it is an
            error.

    Raises:
        ValueError: there is nothing of that name, it is none of the formats or is damaged, or the skeleton is not told.
    """
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise ValueError(f"format: expected one of {sorted(FORMATS)}, got {format!r}")
    if not path.exists():
        raise ValueError(f"file: there is no {path}")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="ikem-")))
        reader, sources = _find(path, format, layout, labels, scratch)
        skeleton = reader.layout
        assert isinstance(skeleton, SkeletonLayout)  # as begin sees to
        for source in sources:
            try:
                clip = reader.read(source)
            except (ValueError, OSError) as error:
                if damages is None:
                    raise
                damages.append(f"{path}: clip {source.name}: {error}")
            else:
                yield NamedClip(source.name, clip, skeleton)


def _find(
    path: Path, format: str | None, layout: str | None, labels: Path | None, scratch: Path
) -> tuple[Format, list[ClipSource]]:
    """Return the reader of a file or folder, and the clips that it finds; the first is read to see that it can be."""
    reasons = {}
    for name in [format] if format else _GUESSED:
        try:
            reader, sources = _open(name, path, layout, labels, scratch)
            if sources and format is None:
                reader.read(sources[0])
            if sources:
                return reader, sources
            reasons[name] = f"file: found no clip of {name} in {path}"
        except (ValueError, OSError) as error:
            reasons[name] = str(error)
    likely = [name for name in reasons if path.is_file() and _looks_like(path, name)]
    if format or len(likely) == 1:
        raise ValueError(reasons[format or likely[0]])
    tried = f"; as {' or '.join(likely)} it cannot be read: {reasons[likely[-1]]}" if likely else ""
    raise ValueError(f"file: {path} is no recording of {', '.join(FORMATS)}{tried}")


def _looks_like(path: Path, name: str) -> bool:
    reader = FORMATS[name]
    if issubclass(reader, FileFormat):
        return fnmatchcase(path.name, reader.glob)
    suffixes = {"npz": [".npz"], "ctr-gcn": [".npz"], "npy-pair": [".npy"], "pyskl": [".pkl"], "pku-mmd": []}
    return path.suffix in suffixes.get(name, [".json"])


def _open(
    name: str, path: Path, layout: str | None, labels: Path | None, scratch: Path
) -> tuple[Format, list[ClipSource]]:
    raw = path
    if path.is_file() and issubclass(FORMATS[name], PoseFiles):  # which read folders: here one of this file alone
        raw = scratch / name
        raw.mkdir()
        (raw / path.name).symlink_to(path.resolve())
    elif path.is_file() and issubclass(FORMATS[name], FileFormat):
        if not _looks_like(path, name):
            return FORMATS[name](path.parent), []
        raw = path.parent
    reader = open_format(name, raw, labels)
    reader.begin(read_layout(layout or reader.layout, path), scratch)
    if path.is_file() and isinstance(reader, FileFormat):
        match = reader.pattern.search(path.absolute().as_posix())
        return reader, [reader.source(match, path) if match else ClipSource(path.stem, None, path)]
    return reader, reader.discover().sources


def open_format(name: str, raw: Path, labels: Path | None = None) -> Format:
    """Open a file or folder of recordings.

    Raises:
        ValueError: there is nothing of that name, it is not of this format, or labels are given where it has its own.
    """
    reader = FORMATS[name]
    if issubclass(reader, PoseFiles):
        return reader(raw, labels)
    if labels is not None:
        raise ValueError(f"labels: expected none, as recordings of {name} say themselves what they show, got {labels}")
    return reader(raw)


def read_layout(layout: str | SkeletonLayout | None, raw: Path) -> SkeletonLayout:
    """The skeleton of recordings: a layout, the name of a built-in one, or a YAML file.

    Raises:
        ValueError: there is none.
    """
    if layout is None:
        raise ValueError(f"layout: {raw} does not name its layout; give the name of one or a YAML file")
    if isinstance(layout, str) and layout.endswith((".yaml", ".yml")):
        return SkeletonLayout.from_yaml(layout)
    return get_layout(layout)

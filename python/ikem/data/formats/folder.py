"""What lies in a folder of recordings, and what in it only looks like one."""

from __future__ import annotations

import mimetypes
import os
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

__all__ = [
    "ARCHIVE",
    "archives_below",
    "check_folder",
    "files_below",
    "is_archive",
    "linked_folders_below",
    "resembles",
    "walk",
]

ARCHIVE = "an archive: if it holds recordings, unpack it"
"""Why archives are left out."""
_ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|gz|bz2|xz|zst|rar|7z|z\d\d)(\.\d+)?$", re.IGNORECASE)


def check_folder(raw: Path, format_name: str) -> None:
    """Refuses a file where a folder of recordings belongs.

    Raises:
        ValueError: so it is.
    """
    if not raw.is_dir():
        raise ValueError(f"raw: expected the folder that holds the recordings of {format_name}, but {raw} is a file")


def archives_below(folder: Path) -> dict[str, list[str]]:
    """The archives in a folder and those below it, under the reason why they are left out; without any, nothing."""
    found = [parent / name for parent, _, files in walk(folder) for name in files if is_archive(Path(name))]
    return {ARCHIVE: sorted(str(path.relative_to(folder)) for path in found)} if found else {}


def is_archive(path: Path) -> bool:
    """Whether a file's name says that it has to be unpacked before anything in it can be read."""
    return _ARCHIVE.search(path.name) is not None


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """A folder and those below it, each with the names of its folders and files that are not hidden."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _hidden(name)]
        yield Path(parent), folders, [name for name in files if not _hidden(name)]


def files_below(folder: Path) -> list[Path]:
    """All files in a folder and those below it, sorted, but for hidden ones; links to folders are not followed."""
    return sorted(parent / name for parent, _, files in walk(folder) for name in files)


def linked_folders_below(folder: Path) -> list[Path]:
    """The links to folders below a folder, sorted: what they lead to is not looked at."""
    return sorted(
        parent / name for parent, folders, _ in walk(folder) for name in folders if (parent / name).is_symlink()
    )


def resembles(path: Path, glob: str, example: str) -> bool:
    """Whether a file that is none of a format's looks as if it was meant to be one.

    So looks whatever matches the pattern but for upper and lower case, and whatever has the example's name in its own,
    digits aside, with any suffix but those of pictures and films.

    Args:
        path: the file.
        glob: the pattern of the format's files.
        example: the name of one of them.

    Example:
        >>> names = "a1_s1_t1_skeleton (1).MAT", "A1_S1_T1_skeleton.mat.txt", "a1_s1_t1_color.avi", "joints.txt"
        >>> [resembles(Path(name), "*_skeleton.mat", "a1_s1_t1_skeleton.mat") for name in names]
        [True, True, False, False]
    """
    if fnmatchcase(path.name.lower(), glob.lower()):
        return True
    stem = re.sub(r"\d+", lambda _: r"\d+", re.escape(Path(example).stem))
    if re.search(stem, path.name, re.IGNORECASE) is None:
        return False
    kind = mimetypes.guess_type(path.name)[0] or ""
    return not kind.startswith(("image/", "video/", "audio/"))

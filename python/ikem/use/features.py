"""Features of clips as files: an array, the clips' names, and which encoders made them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ikem.files import replacing, write_text

__all__ = ["EmbeddedClip", "FeatureTable"]


@dataclass(frozen=True)
class EmbeddedClip:
    """Which clip a row of features is of.

    Attributes:
        file: where it is from.
        clip: its name there.
        num_frames: its length.
    """

    file: str
    clip: str
    num_frames: int


@dataclass(frozen=True)
class FeatureTable:
    """Features of clips.

    Attributes:
        features: unit vectors, float32 (n, D).
        clips: n of them.
        checkpoint: the file of the encoders.
        digest: of that file.
        modalities: of the encoders.
    """

    features: NDArray[np.float32]
    clips: Sequence[EmbeddedClip]
    checkpoint: Path
    digest: str
    modalities: tuple[str, ...]

    def write(self, output: Path) -> None:
        """Write ``features.npy``, ``.csv`` and ``.json`` into a folder, or files that are called as an ``.npy``."""
        array, names, description = files_of(output)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(EmbeddedClip.__annotations__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(clip) for clip in self.clips)
        said: dict[str, Any] = {
            "checkpoint": str(self.checkpoint.resolve()),
            "sha256": self.digest,
            "modalities": self.modalities,
            "clips": len(self.clips),
            "width": self.features.shape[1],
        }
        with replacing(array) as temporary, temporary.open("wb") as file:
            np.save(file, self.features)
        write_text(names, text.getvalue())
        write_text(description, json.dumps(said, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> FeatureTable:
        """Read what :meth:`write` wrote.

        Raises:
            ValueError: a file is missing or damaged, or they do not belong together.
        """
        array, names, description = files_of(path)
        for file in (array, names, description):
            if not file.is_file():
                raise ValueError(f"in: {path} holds no features of `ikem embed`, there is no {file}")
        try:
            features = np.load(array, allow_pickle=False)
            with names.open(newline="", encoding="utf-8") as text:
                clips = [EmbeddedClip(row["file"], row["clip"], int(row["num_frames"])) for row in csv.DictReader(text)]
            said = json.loads(description.read_text(encoding="utf-8"))
            origin = Path(said["checkpoint"]), str(said["sha256"]), tuple(said["modalities"])
        except (ValueError, EOFError, KeyError, TypeError) as error:
            raise ValueError(f"in: {path} does not hold whole features of `ikem embed` ({error!r})") from error
        if features.shape != (len(clips), said["width"]) or features.dtype != np.float32:
            raise ValueError(
                f"in: expected float32 ({len(clips)}, {said['width']}) in {array}, as {names.name} and "
                f"{description.name} say, got {features.dtype} {features.shape}"
            )
        return cls(features, clips, *origin)


def files_of(path: Path) -> tuple[Path, Path, Path]:
    """Return the array, the table of names and the description that a folder or a file ``.npy`` stands for.

    Example:
        >>> [file.name for file in files_of(Path("walks.npy"))]
        ['walks.npy', 'walks.csv', 'walks.json']
    """
    array = path if path.suffix == ".npy" else path / "features.npy"
    return array, array.with_suffix(".csv"), array.with_suffix(".json")

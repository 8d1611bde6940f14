"""`ikem search`: the clips that are most like one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ikem.data.prepare import FormatName
from ikem.use.clips import ClipReader, is_there
from ikem.use.devices import require_device
from ikem.use.encoders import Encoders, digest_of, encoders_file, read_encoders
from ikem.use.features import FeatureTable
from ikem.use.tables import require_table, write_table

__all__ = ["Match", "nearest", "search"]


class Match(NamedTuple):
    """A clip that is like another.

    Attributes:
        query: the other.
        rank: from 1, the most alike.
        clip: its name.
        file: where it is from.
        cosine: between their features.
    """

    query: str
    rank: int
    clip: str
    file: str
    cosine: float


def search(
    query: str,
    *,
    in_: Path,
    top: int = 10,
    output: Path | None = None,
    checkpoint: Path | None = None,
    format: FormatName | None = None,
    layout: str | None = None,
    device: str = "cpu",
) -> list[Match]:
    """Finds the clips whose features have the largest cosine with those of a clip.

    Args:
        query: a recording, each clip of which is looked for, or FILE:CLIP for one of them; or the name of a clip among
            the features, which itself is left out then.
        in_: what `ikem embed` wrote.
        top: how many clips are told.
        output: a file .csv or .json that receives them; without it they are printed as a table.
        checkpoint: the file of the encoders, if it lies elsewhere now than when the features were made.
        format: what the recording is, as for `ikem prepare`. Default: what it looks like.
        layout: its skeleton, a built-in layout by name or a YAML file. Default: as it says.
        device: what computes, cpu or cuda.

    Returns:
        The clips found, the nearest first, for one query after another.

    Raises:
        ValueError: an argument is wrong, the features are damaged or were made by other encoders, or there is no such
            clip.
        DamagedClipsError: the recording cannot be used.
    """
    if top < 1:
        raise ValueError(f"top: expected at least 1, got {top}")
    require_table(output, query, in_)
    table = FeatureTable.read(in_)
    found: list[Match] = []
    for name, features, itself in _queries(query, table, checkpoint, format, layout, device):
        rows = nearest(table.features, features, top, without=itself)
        found += [
            Match(name, rank, table.clips[row].clip, table.clips[row].file, cosine)
            for rank, (row, cosine) in enumerate(rows, start=1)
        ]
    if output is None:
        Console().print(_table(found))
    else:
        rows_of = [match._asdict() for match in found]
        write_table(output, rows_of, {"query": query, "features": str(in_), "matches": rows_of})
        print(f"search: {len(found)} clips, in {output}")
    return found


def nearest(
    features: NDArray[np.float32], query: NDArray[np.float32], top: int, without: int | None = None
) -> list[tuple[int, float]]:
    """Return the rows of features (n, D) with the largest products with a query (D,), and these.

    Args:
        features: unit vectors.
        query: a unit vector.
        top: how many rows; of equal ones those that come first.
        without: a row to leave out.

    Example:
        >>> nearest(np.eye(3, dtype=np.float32), np.array([0.6, 0.0, 0.8], np.float32), 2)
        [(2, 0.800...), (0, 0.600...)]
    """
    cosines = features @ query
    order = [row for row in np.argsort(-cosines, kind="stable").tolist() if row != without]
    return [(row, float(cosines[row])) for row in order[:top]]


def _queries(
    query: str,
    table: FeatureTable,
    checkpoint: Path | None,
    format: FormatName | None,
    layout: str | None,
    device: str,
) -> Iterator[tuple[str, NDArray[np.float32], int | None]]:
    """Yield name and features of each clip that is asked for, and its row if it is one of the table's."""
    if not is_there(query):
        row = _row_of(query, table)
        yield query, table.features[row], row
        return
    require_device(device)
    encoders = _encoders(table, checkpoint).to(device)
    reader = ClipReader(encoders.recipe, format, layout)
    batches = list(reader.batches([query]))
    reader.check(skip_damaged=False)
    for batch in batches:
        with torch.inference_mode():
            features = encoders(batch.joints.to(device), batch.num_frames.to(device)).cpu().numpy()
        for clip, each in zip(batch.clips, features, strict=True):
            yield clip.name, each, None


def _row_of(query: str, table: FeatureTable) -> int:
    rows = [row for row, clip in enumerate(table.clips) if query in (clip.clip, f"{clip.file}:{clip.clip}")]
    if not rows:
        raise ValueError(f"query: expected a recording, or the name of a clip among the features, got {query!r}")
    if len(rows) > 1:
        files = ", ".join(table.clips[row].file for row in rows)
        raise ValueError(f"query: {len(rows)} clips have the name {query!r}, of {files}; name one as FILE:CLIP")
    return rows[0]


def _encoders(table: FeatureTable, checkpoint: Path | None) -> Encoders:
    weights = encoders_file(checkpoint or table.checkpoint)
    if digest_of(weights) != table.digest:
        raise ValueError(
            f"checkpoint: {weights} is not what the features were made with; embed the clips again, or name the file"
        )
    return read_encoders(weights)


def _table(matches: list[Match]) -> Table:
    table = Table(box=None, header_style="bold")
    for name in ("query", "", "clip", "file", "cosine"):
        table.add_column(name, overflow="fold")
    for match in matches:
        table.add_row(
            match.query if match.rank == 1 else "", str(match.rank), match.clip, match.file, f"{match.cosine:.3f}"
        )
    return table

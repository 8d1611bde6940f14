"""Which recordings, and how they come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ikem.config.checks import require, require_at_least


@dataclass
class DataConfig:
    """Which recordings, and how they come.

    Attributes:
        folder: a prepared dataset, as `ikem prepare` writes it; for pretraining and distillation also a list of
            several, of one skeleton, number of frames and number of bodies.
        protocol: one of the dataset's protocols; its training part is used for learning, the others for testing. Of a
            list, one that all have, or ``all``: all clips train. ``xsub/subject=1,5`` holds out training clips of
            ``xsub``, by subject, camera, setup or replication, and tests on these instead of its test clips.
        batch_size: clips per step, over all processes together. An incomplete last batch of an epoch is left out.
        workers: processes that load batches ahead of time; 0 loads in the training process.
    """

    folder: tuple[Path, ...] | Path = Path("data/ntu60")
    protocol: str = "xsub"
    batch_size: int = 128
    workers: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.folder, Path):
            self.folder = tuple(map(Path, self.folder))
            require(len(self.folder) > 0, "data.folder: expected a prepared dataset or a list of some, got none")
        require_at_least("data.batch_size", self.batch_size, 2)
        require_at_least("data.workers", self.workers, 0)

    @property
    def folders(self) -> str:
        """The folder or folders, for messages."""
        return str(self.folder) if isinstance(self.folder, Path) else " + ".join(map(str, self.folder))

    @property
    def one_folder(self) -> Path:
        """The folder, where labels are used.

        Raises:
            ValueError: if there are several.
        """
        if isinstance(self.folder, Path):
            return self.folder
        raise ValueError(
            "data.folder: expected one prepared dataset where labels are used or a report is made, got a list of "
            f"{len(self.folder)}; name one by --data.folder"
        )

"""Which recordings, and how they come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ikem.config.checks import require, require_at_least, require_share

ALL = "all"  # the protocol of several data sets by which all their clips train


@dataclass
class DataConfig:
    """Which recordings, and how they come.

    Attributes:
        folder: a prepared dataset, as `ikem prepare` writes it; for pretraining and distillation also a list of
            several, of one skeleton, number of frames and number of bodies.
        protocol: one of the dataset's protocols; its training part is used for learning, the others for testing. Of a
            list, one that all have, or ``all``: all clips train. ``xsub/subject=1,5`` holds out training clips of
            ``xsub``, by subject, camera, setup or replication, and tests on these instead of its test clips.
        unlabelled: prepared datasets, as in a list of ``folder``; pretraining and distillation learn from all of their
            clips instead of the training part of ``folder``, which is left for what needs labels.
        share: of the clips that pretraining and distillation may learn from, so many do they take, drawn by the run's
            seed; those of a smaller share are among those of a larger one.
        batch_size: clips per step, over all processes together. An incomplete last batch of an epoch is left out.
        workers: processes that load batches ahead of time; 0 loads in the training process.
    """

    folder: tuple[Path, ...] | Path = Path("data/ntu60")
    protocol: str = "xsub"
    unlabelled: tuple[Path, ...] = ()
    share: float = 1.0
    batch_size: int = 128
    workers: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.folder, Path):
            self.folder = tuple(map(Path, self.folder))
            require(len(self.folder) > 0, "data.folder: expected a prepared dataset or a list of some, got none")
        self.unlabelled = tuple(map(Path, self.unlabelled))
        require_share("data.share", self.share)
        require_at_least("data.batch_size", self.batch_size, 2)
        require_at_least("data.workers", self.workers, 0)

    @property
    def folders(self) -> str:
        """The folder or folders, for messages."""
        return str(self.folder) if isinstance(self.folder, Path) else " + ".join(map(str, self.folder))

    @property
    def trained_on(self) -> tuple[tuple[Path, ...] | Path, str]:
        """What pretraining and distillation learn from: folder or folders, and the protocol whose training part."""
        return (self.unlabelled, ALL) if self.unlabelled else (self.folder, self.protocol)

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

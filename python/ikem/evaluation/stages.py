"""The encoders that a run has trained, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ikem.checkpoint import DESCRIPTION, read_checkpoint
from ikem.config import Config
from ikem.distill import load_student
from ikem.encoders import Encoder, encoders_of
from ikem.pretrain import STAGE1_CHECKPOINT, Pretraining
from ikem.training import LAST_CHECKPOINT


def trained_stages(config: Config) -> Iterator[tuple[str, dict[str, Encoder], dict[str, Any]]]:
    """Yield the run's trained stages: name, encoders by modality, and where they come from."""
    folder = config.run / "pretrain"
    for stage, number, name in (("stage1", 1, STAGE1_CHECKPOINT), ("stage2", 2, LAST_CHECKPOINT)):
        if (folder / name).is_file():
            description = read_checkpoint(folder / name, "pretrain")[DESCRIPTION]
            if description["stage"] == number:
                streams = Pretraining.from_checkpoint(folder / name).query
                yield stage, encoders_of(streams), {"file": f"pretrain/{name}", "epochs": description["epochs"]}
    student = config.run / "distill" / LAST_CHECKPOINT
    if student.is_file():
        description = read_checkpoint(student, "distill")[DESCRIPTION]
        origin = {"file": f"distill/{LAST_CHECKPOINT}", "epochs": description["epochs"]}
        yield "student", encoders_of(load_student(student)), origin

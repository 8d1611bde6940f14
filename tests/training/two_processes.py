"""Pretrains on one or two CPU processes: `two_processes.py DATASET RUN DEVICES [WITH]`.

Batch norm uses fixed statistics, since in training each process normalizes by its own share of the batch, and there is
no dropout, since each process draws its own. All else must be equal on any number of processes: the gradients of the
mean loss, the keys in the queue and their order, and the momentum update; in float64, so that only sums in another
order differ.

WITH `mask` own clips in the queue are masked. Faults happen in the third step of six, the first of the second epoch:
with `nan` the last process sees a loss that is not a number, with `stop` the first one receives SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from training.tiny import tiny_config

from ikem.config import EncoderConfig, TrainerConfig
from ikem.pretrain import Pretraining, build_pretraining
from ikem.training import fit, open_data


class Faulty(Pretraining):
    """Meets with a fault."""

    fault = ""

    def contrast(self, q: Tensor, k: Tensor, *others: Any) -> dict[str, Tensor]:
        losses = super().contrast(q, k, *others)
        if self.global_step == 2:
            if self.fault == "nan" and self.global_rank == self.trainer.world_size - 1:
                losses["contrast"] = losses["contrast"] * torch.tensor([1.0, 1.0, float("nan")])
            if self.fault == "stop" and self.global_rank == 0:
                os.kill(os.getpid(), signal.SIGTERM)
        return losses


def main(dataset: Path, run: Path, devices: int, fault: str = "") -> None:
    trainer = TrainerConfig(accelerator="cpu", devices=devices, precision="64-true", progress=False, accuracy_every=1)
    encoder = EncoderConfig(base_width=2, feature_width=6, dropout=0, initialization="kaiming")
    pretrain = {"mask_own_clip": fault == "mask"}
    config = replace(tiny_config(run, dataset, pretrain, trainer=trainer), encoder=encoder)
    data = open_data(config)
    module = build_pretraining(config, data.dataset.layout)
    module.__class__, Faulty.fault = Faulty, fault
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.eval()
    fit(module, data, config, "pretrain", keep={}, overwrite=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])

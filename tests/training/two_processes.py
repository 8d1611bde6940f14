"""Pretrains on one or more CPU processes: `two_processes.py DATASET RUN [--devices D] [--num_nodes N] [OPTION ...]`.

All must be equal on any number of processes, in float64, so that only sums in another order differ: the gradients of
the mean loss, the keys in the queue and their order, and the momentum update. There is no dropout, since each process
draws its own, and batch norm uses fixed statistics, since in training each process normalizes by its own share of the
batch.

Options: with `local` batch norm is that of training, and with `sync` also by the statistics of all processes. With
`shuffle` the key encoders see a shuffled batch, with `mask` own clips in the queue are masked. Faults happen in the
third step of six, the first of the second epoch: with `nan` the last process sees a loss that is not a number, with
`kill` it is killed, with `stop` the first one receives SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from training.tiny import tiny_config

from ikem.config import EncoderConfig, TrainerConfig
from ikem.pretrain import Pretraining, build_pretraining
from ikem.training import checkpoints, fit, open_data


class Faulty(Pretraining):
    """Meets with a fault."""

    fault = ""

    def contrast(self, q: Tensor, k: Tensor, *others: Any) -> dict[str, Tensor]:
        losses = super().contrast(q, k, *others)
        last = self.global_rank == self.trainer.world_size - 1
        if self.global_step == 2:
            if self.fault == "nan" and last:
                losses["contrast"] = losses["contrast"] * torch.tensor([1.0, 1.0, float("nan")])
            if self.fault == "kill" and last:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "stop" and self.global_rank == 0:
                os.kill(os.getpid(), signal.SIGTERM)
        return losses


def main(dataset: Path, run: Path, *options: str, devices: int = 1, num_nodes: int = 1) -> None:
    trainer = TrainerConfig(
        accelerator="cpu",
        devices=devices,
        num_nodes=num_nodes,
        precision="64-true",
        progress=False,
        accuracy_every=1,
    )
    batch_norm = next((option for option in options if option in ("sync", "shuffle")), "local")
    encoder = EncoderConfig(base_width=2, feature_width=6, dropout=0, initialization="kaiming", batch_norm=batch_norm)
    pretrain = {"mask_own_clip": "mask" in options}
    config = replace(tiny_config(run, dataset, pretrain, trainer=trainer), encoder=encoder)
    data = open_data(config, key_encoders=True)
    module = build_pretraining(config, data.dataset.layout)
    module.__class__ = Faulty
    Faulty.fault = next((option for option in options if option in ("nan", "kill", "stop")), "")
    if {"local", "sync"}.isdisjoint(options):
        generator = torch.Generator().manual_seed(0)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.eval()
                # What is zero by the maths, as a root's bone, would be on either side of a ReLU, by rounding alone.
                nn.init.uniform_(part.bias, 0.1, 0.5, generator=generator)
    fit(module, data, config, "pretrain", keep={}, overwrite=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("options", nargs="*")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--num_nodes", type=int, default=1)
    given = parser.parse_args()
    checkpoints.LEAST_SECONDS = 0  # what is lost at a fault does not depend on how long the epoch took
    main(given.dataset, given.run, *given.options, devices=given.devices, num_nodes=given.num_nodes)

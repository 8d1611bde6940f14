"""What a training step of several processes sends, how long that takes, and how training scales.

    python tools/scaling.py --step 0.1 --clips 128     # a step of 128 clips on one device takes 0.1 s
    python tools/scaling.py --measure FOLDER           # predicts two processes on this machine, and measures them

prints tables in Markdown, of pretraining at published sizes, each process with so many clips of its own.

Bytes are those of the messages themselves, made from the modules that are trained. A message of B bytes among W
processes takes, over links of a rate r and a latency l,

    all-reduce   the less of  2 (W - 1) (l + B / W / r)  on a ring  and  2 log2(W) (l + B / r)  on a tree
    all-gather   (W - 1) (l + B / r)  on a ring, B bytes from each

(Thakur, Rabenseifner and Gropp, 2005). A ring goes at the rate of its slowest link: within a node, or what leaves one.
Gradients go in the buckets of `DistributedDataParallel`, each as soon as the backward pass has made it; they are taken
to come evenly, over half of the step (in stage 1 a forward pass of the query encoders counts 1, their backward pass 2,
the key encoders 1). What is still under way when that ends is waited for, and so is everything else.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ikem.config import Config, DDPConfig, PretrainConfig
from ikem.data.dataset import Clip, write_dataset
from ikem.encoders import norm
from ikem.encoders.norm import synchronize
from ikem.pretrain import Pretraining, build_pretraining
from ikem_ext import get_layout

LAYOUT, FRAMES, BODIES = get_layout("ntu25"), 50, 2
MIB = 2**20
BACKWARD = 0.5  # share of a step


class Link(NamedTuple):
    """What carries messages from one process to the next."""

    name: str
    rate: float  # bytes per second
    latency: float  # seconds


class Message(NamedTuple):
    """One that all processes send."""

    what: str
    kind: str  # all-reduce or all-gather
    size: int  # bytes, of each process

    def sent(self, world: int) -> float:
        """Bytes that leave a process, on a ring."""
        return self.size * (2 * (world - 1) / world if self.kind == "all-reduce" else world - 1)

    def seconds(self, world: int, link: Link) -> float:
        """How long it takes."""
        if self.kind == "all-gather":
            return (world - 1) * (link.latency + self.size / link.rate)
        ring = 2 * (world - 1) * (link.latency + self.size / world / link.rate)
        return min(ring, 2 * math.log2(world) * (link.latency + self.size / link.rate))


#: Rates that the makers state, of all that leaves a node; the latencies are of the usual size.
INSIDE = Link("NVLink 4", 450e9, 3e-6)
BETWEEN = (
    Link("8 x 400 Gb/s InfiniBand", 400e9, 5e-6),
    Link("100 Gb/s Ethernet", 12.5e9, 2e-5),
    Link("10 Gb/s Ethernet", 1.25e9, 5e-5),
)
DEVICES = 8  # of a node


def buckets(module: Pretraining, cap: int) -> list[Message]:
    """The gradients, as `DistributedDataParallel` sends them: from the last parameter on, the first MiB by itself."""
    sizes, limit = [0], MIB
    for parameter in reversed([each for each in module.parameters() if each.requires_grad]):
        sizes[-1] += 4 * parameter.numel()
        if sizes[-1] >= limit:
            sizes.append(0)
            limit = cap * MIB
    return [Message("gradients", "all-reduce", size) for size in sizes if size]


def synced_norms(module: Pretraining) -> list[Message]:
    """What batch norms by the batches of all processes send: counted in a step of two clips of one modality."""
    modality = next(iter(module.query))
    sent: list[int] = []
    counting: Any = SimpleNamespace(get_world_size=lambda: 1, all_reduce=lambda x: sent.append(x.nbytes))
    norm.dist, kept = counting, norm.dist  # type: ignore[attr-defined]
    x = torch.randn(2, 3, FRAMES, LAYOUT.num_joints, BODIES)
    try:
        synchronize(module)
        _, q = module.query[modality](x)
        with torch.no_grad():
            module.key[modality](x)
        q.sum().backward()
    finally:
        synchronize(module, together=False)
        norm.dist = kept  # type: ignore[attr-defined]
    return [Message("batch norm, sync", "all-reduce", size) for size in sent] * len(module.modalities)


def messages(module: Pretraining, clips: int, batch_norm: str = "local") -> list[Message]:
    """All that is waited for in a step, with so many clips in each process; gradients are apart."""
    config = module.config
    modalities, trained = len(module.modalities), sum(each.requires_grad for each in module.parameters())
    keys = Message("keys", "all-gather", 4 * clips * modalities * config.embedding_width)
    return [
        Message("which parameters had a gradient", "all-reduce", 4 * trained),
        keys,
        *([keys._replace(what="keys, out of the shuffled order")] if batch_norm == "shuffle" else []),
        *(synced_norms(module) if batch_norm == "sync" else []),
        Message("losses and accuracies", "all-reduce", 4 * 2 * modalities),
        Message("whether it is time to save", "all-reduce", 4),
    ]


def waited(gradients: list[Message], others: list[Message], step: float, world: int, link: Link) -> float:
    """Seconds that several processes add to a step."""
    total, made, free = sum(each.size for each in gradients), 0, 0.0
    for bucket in gradients:
        made += bucket.size
        free = max(free, BACKWARD * step * made / total) + bucket.seconds(world, link)
    return free - BACKWARD * step + sum(each.seconds(world, link) for each in others)


def sizes_table(module: Pretraining, clips: int, cap: int) -> Iterator[str]:
    """What is sent in a step."""
    yield f"| {clips} clips a process | kind | messages | MiB | sent by each of 2 | of 64 |"
    yield "|---|---|---:|---:|---:|---:|"
    rows: dict[tuple[str, str], list[Message]] = {}
    shuffled, synced = (messages(module, clips, kind) for kind in ("shuffle", "sync"))
    extra = [each for each in synced if each.what.startswith("batch norm")]
    for each in [*buckets(module, cap), *shuffled, *extra]:
        rows.setdefault((each.what, each.kind), []).append(each)
    for (what, kind), found in rows.items():
        numbers = (sum(each.size for each in found), *(sum(e.sent(world) for e in found) for world in (2, 64)))
        megabytes = " | ".join(f"{number / MIB:.4g}" for number in numbers)
        yield f"| {what} | {kind} | {len(found)} | {megabytes} |"


def scaling_table(module: Pretraining, clips: int, step: float, cap: int) -> Iterator[str]:
    """How training scales, each process with so many clips of its own, over stated links."""
    yield f"| processes | link | batch | {' | '.join(f'{kind}: waits, efficiency' for kind in KINDS)} |"
    yield "|---:|---|---:|---:|---:|---:|"
    others = {kind: messages(module, clips, kind) for kind in KINDS}
    places = [(world, INSIDE) for world in (2, 8)] + [(world, link) for link in BETWEEN for world in (16, 64)]
    for world, link in places:
        slowest = Link(link.name, min(link.rate, INSIDE.rate), link.latency)
        waits = [waited(buckets(module, cap), others[kind], step, world, slowest) for kind in KINDS]
        cells = " | ".join(f"{1000 * wait:.2f} ms, {step / (step + wait):.1%}" for wait in waits)
        yield f"| {world} | {link.name} | {world * clips} | {cells} |"


KINDS = ("local", "shuffle", "sync")


def measured_link(folder: Path) -> Link:
    """The loopback interface between two processes, by gloo: a line through the times of two messages."""
    found = folder / "link"
    store = folder / "store"
    store.unlink(missing_ok=True)
    mp.spawn(_time_messages, (str(store), str(found)), nprocs=2)
    small, large, size = torch.load(found, weights_only=True)
    return Link("loopback, gloo", size / (large - small), small / 2)


def _time_messages(rank: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    medians = []
    for numbers, times in ((16, 200), (4 * MIB, 20)):
        x, took = torch.ones(numbers), []
        for _ in range(times):
            dist.barrier()
            start = time.perf_counter()
            dist.all_reduce(x)
            took.append(time.perf_counter() - start)
        medians.append(statistics.median(took))
    if rank == 0:
        torch.save([*medians, 16 * MIB], out)
    dist.destroy_process_group()


def make_dataset(folder: Path, clips: int) -> None:
    """Write random clips of NTU's shape."""
    write_dataset(
        folder,
        joints=np.random.default_rng(0).normal(size=(clips, 3, FRAMES, LAYOUT.num_joints, BODIES)),
        clips=[Clip(f"{i:03d}", 0, 0, None, None, None, 60) for i in range(clips)],
        classes=["random"],
        layout=LAYOUT,
        source="npz",
        preprocessing={},
        protocols={"all": {"train": list(range(clips)), "test": []}},
    )


def training(folder: Path, name: str, processes: int, clips: int, batch_norm: str = "local") -> subprocess.Popen[bytes]:
    """Begin a pretraining of one thread a process."""
    options = {
        "run": folder / name,
        "data.folder": folder / "data",
        "data.protocol": "all",
        "data.batch_size": processes * clips,
        "encoder.batch_norm": batch_norm,
        "pretrain.epochs": EPOCHS,
        "pretrain.milestones": "[]",
        "trainer.accelerator": "cpu",
        "trainer.devices": processes,
        "trainer.progress": "false",
    }
    given = [word for option, value in options.items() for word in (f"--{option}", str(value))]
    command = [sys.executable, "-m", "ikem.cli", "pretrain", *given, "--overwrite"]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


STEPS, EPOCHS = 6, 3  # of two processes
RUNS = (
    (("alone",), 1, "local"),
    (("beside another", "another"), 1, "local"),
    (("local",), 2, "local"),
    (("sync",), 2, "sync"),
)


def seconds_of_a_step(folder: Path, name: str, processes: int, clips: int) -> float:
    """The median over the epochs after the first."""
    with (folder / name / "pretrain" / "metrics.csv").open(newline="") as file:
        rates = [float(row["clips_per_second"]) for row in csv.DictReader(file)][1:]
    return processes * clips / statistics.median(rates)


def measure(folder: Path, clips: int, cap: int) -> Iterator[str]:
    """Predict the steps of two processes on this machine, and measure them; of stage 1 alone, without heads of 2."""
    module = build_pretraining(Config(pretrain=PretrainConfig(epochs=EPOCHS)), LAYOUT)
    folder.mkdir(parents=True, exist_ok=True)
    make_dataset(folder / "data", 2 * clips * STEPS)
    took = {}
    for names, processes, batch_norm in RUNS:
        started = [training(folder, name, processes, clips, batch_norm) for name in names]
        codes = [process.wait() for process in started]
        if any(codes):
            raise SystemExit(f"{names[0]}: the training failed")
        took[names[0]] = max(seconds_of_a_step(folder, name, processes, clips) for name in names)
    link = measured_link(folder)
    yield f"{link.name}: {link.rate / 1e9:.2f} GB/s, {1e6 * link.latency:.0f} us\n"
    yield "| step of a process | predicted | measured |\n|---|---:|---:|"
    yield f"| one process | | {1000 * took['alone']:.0f} ms |"
    yield f"| the slower of two that have nothing to do with each other | | {1000 * took['beside another']:.0f} ms |"
    for kind in ("local", "sync"):
        step = took["beside another"]
        wait = waited(buckets(module, cap), messages(module, clips, kind), step, 2, link)
        yield f"| two processes, {kind} | {1000 * (step + wait):.0f} ms | {1000 * took[kind]:.0f} ms |"


def main() -> None:
    """Compute, or measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", type=float, default=0.1, help="seconds of a step on one process")
    parser.add_argument("--clips", type=int, help="of each process; 128, or 2 with --measure")
    parser.add_argument("--bucket-cap-mb", type=int, default=DDPConfig().bucket_cap_mb)
    parser.add_argument("--measure", type=Path, metavar="FOLDER", help="here; the folder is for the trainings")
    args = parser.parse_args()
    if args.measure:
        print(*measure(args.measure, args.clips or 2, args.bucket_cap_mb), sep="\n")
        return
    module = build_pretraining(Config(), LAYOUT)
    clips = args.clips or 128
    print(*sizes_table(module, clips, args.bucket_cap_mb), "", sep="\n")
    print(*scaling_table(module, clips, args.step, args.bucket_cap_mb), sep="\n")


if __name__ == "__main__":
    main()

"""What a step of training takes as queues, batches and data sets grow: time and memory, each size in its own process.

    python tools/large_training.py FOLDER --json results/large-cpu.json \
        --plot docs/images/performance-large.png --table docs/performance.md

Encoders as published, six modalities, clips of NTU RGB+D's shape: 50 frames, 25 joints, two bodies. Data sets of up to
a million clips are files with a hole instead of coordinates (kept in FOLDER for another run), so that no disk is
measured. Times are those of the processor, all threads together: what else the machine does counts little. On a GPU
those of a step are by the clock. What --json has already is not measured again; --sweep keys measures one of the sweeps
alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from measuring import BODIES, FRAMES, LAYOUT, SparseWriter, apart, machine, made_clip, measured

from ikem.config import Config, DataConfig, TrainerConfig
from ikem.data.batches import ContrastiveData
from ikem.data.dataset import PreparedDataset
from ikem_ext import MODALITIES
from ikem_ext.bench import report
from ikem_ext.bench.contrast import WIDTH
from ikem_ext.bench.step.batch import Sizes
from ikem_ext.bench.step.ours import Ours, distillation, pretraining
from ikem_ext.bench.step.run import Run

MARKS = ("<!-- large: begin -->", "<!-- large: end -->")
STEPS = {"stage 1": pretraining(1), "stage 2": pretraining(2), "distillation": distillation}
COLORS = dict(zip(STEPS, ("#D55E00", "#0072B2", "#009E73"), strict=True))
CALLS = 2


@dataclass(frozen=True)
class Size:
    """What a step is measured with; the others are those of the sweep's other sizes."""

    sweep: str
    work: str
    keys: int = 2**15
    batch: int = 8
    clips: int = 10_000

    @property
    def swept(self) -> int:
        """The size that the sweep varies."""
        return getattr(self, self.sweep)


SWEEPS = {
    "keys": [Size("keys", work, keys=2**power) for power in (14, 17, 20) for work in STEPS],
    "batch": [Size("batch", work, batch=batch) for batch in (2, 4, 16) for work in STEPS],
    "clips": [Size("clips", "stage 1", clips=10**power) for power in (3, 4, 5, 6)],
}


@dataclass
class Row:
    """What was measured of a size.

    Attributes:
        size: of the step.
        wall: seconds of each step by the clock, the first one left out.
        processor: seconds of each step.
        fetch: processor's seconds until each batch was there, with the random views drawn.
        open: processor's seconds to open the data set.
        own, with_files: GiB at the peak, of the process, and with pages of mapped files.
        device: GiB at the peak on a GPU.
    """

    size: Size
    wall: list[float]
    processor: list[float]
    fetch: list[float]
    open: float
    own: float
    with_files: float
    device: float = 0.0

    @property
    def step(self) -> float:
        """The median of what the steps took."""
        return median(self.wall if self.device else self.processor)


def sparse_dataset(folder: Path, clips: int) -> Path:
    """Make a data set of so many clips whose coordinates take no room, unless it is there."""
    made = folder / f"{clips}-clips"
    if not made.exists():
        shape = (3, FRAMES, LAYOUT.num_joints, BODIES)
        nothing = np.broadcast_to(np.float32(0), shape)
        with SparseWriter(made, shape) as writer:
            for number in range(clips):
                writer.append(nothing, made_clip(number, classes=60))
            parts = {"train": list(range(clips - clips // 10)), "test": list(range(clips - clips // 10, clips))}
            writer.finish(
                classes=[f"class {label}" for label in range(60)],
                layout=LAYOUT,
                source="npz",
                preprocessing={},
                protocols={"xsub": parts},
            )
    return made


def measure(folder: Path, size: Size, device_name: str, threads: int) -> Row:
    """Open the data set, make the module, and take steps."""
    torch.set_num_threads(threads)
    device = torch.device(device_name)
    with measured() as usage:
        begun = time.process_time()
        dataset = PreparedDataset(folder)
        opened = time.process_time() - begun
        config = Config(data=DataConfig(folder, batch_size=size.batch), trainer=TrainerConfig(accelerator="cpu"))
        data = ContrastiveData(config, dataset)
        batches = iter(data.train_dataloader())
        run, times = None, []
        for _ in range(1 + CALLS):
            begun = time.process_time()
            batch = move_data_to_device(next(batches), device)
            fetched = time.process_time() - begun
            if run is None:
                module = STEPS[size.work](Sizes(size.batch, size.keys))
                run = Run(Ours(module), batch, device, torch.float32)
            run.batch = batch
            begun, processor = time.perf_counter(), time.process_time()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append((time.perf_counter() - begun, time.process_time() - processor, fetched))
    wall, used, fetch = (list(column) for column in zip(*times[1:], strict=True))
    held = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    return Row(size, wall, used, fetch, opened, usage.own, usage.with_files, held)


def markdown(facts: str, rows: Sequence[Row]) -> str:
    """The machine, and a table for each sweep."""
    return "\n\n".join([f"Measured on {facts}.", *_tables(rows)])


def _tables(rows: Sequence[Row]) -> Iterator[str]:
    heads = {"keys": "keys K", "batch": "clips N of a batch"}
    for sweep, head in heads.items():
        chosen = [row for row in rows if row.size.sweep == sweep]
        if chosen:
            yield "\n".join(
                [
                    f"| {head} | {' | '.join(STEPS)} |",
                    f"|---:|{'---:|' * len(STEPS)}",
                    *(f"| {swept:,} | {' | '.join(_cells(chosen, swept))} |" for swept in _unique(chosen)),
                ]
            )
    chosen = [row for row in rows if row.size.sweep == "clips"]
    if chosen:
        head = "| clips of the data set | open | fetch a batch | step | memory | with mapped files |"
        yield "\n".join(
            [
                head,
                "|---:|---:|---:|---:|---:|---:|",
                *(
                    f"| {row.size.clips:,} | {row.open:.2f} s | {1e3 * median(row.fetch):.1f} ms | "
                    f"{row.step:.2f} s | {row.own:.2f} GiB | {row.with_files:.2f} GiB |"
                    for row in chosen
                ),
            ]
        )


def _cells(rows: Sequence[Row], swept: int) -> Iterator[str]:
    found = {row.size.work: row for row in rows if row.size.swept == swept}
    for work in STEPS:
        row = found.get(work)
        on_device = f" + {row.device:.2f} on the GPU" if row and row.device else ""
        yield f"{row.step:.2f} s, {row.own:.2f} GiB{on_device}" if row else ""


def _unique(rows: Sequence[Row]) -> list[int]:
    return sorted({row.size.swept for row in rows})


def plot(file: Path, facts: str, rows: Sequence[Row]) -> None:
    """Draw time above memory, a column for each sweep."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    figure = Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplots(2, len(SWEEPS), sharex="col")
    names = {"keys": "keys K of the queue", "batch": "clips N of a batch", "clips": "clips of the data set"}
    for (above, below), (sweep, name) in zip(axes.T, names.items(), strict=True):
        for work, color in COLORS.items():
            chosen = [row for row in rows if (row.size.sweep, row.size.work) == (sweep, work)]
            if not chosen:
                continue
            sizes = [row.size.swept for row in chosen]
            line = {"color": color, "marker": "o", "markersize": 4}
            above.plot(sizes, [row.step for row in chosen], label=work, **line)
            below.plot(sizes, [row.own for row in chosen], label=work, **line)
        chosen = [row for row in rows if row.size.sweep == sweep]
        dashed = {"color": "#777777", "linestyle": "--"}
        if sweep == "keys":
            queues = [4 * keys * len(MODALITIES) * WIDTH / 2**30 for keys in _unique(chosen)]
            below.plot(_unique(chosen), queues, label="a queue of six modalities", **dashed)
        if sweep == "clips":
            above.plot(_unique(chosen), [median(row.fetch) for row in chosen], label="fetching a batch", **dashed)
            sizes = [4 * row.size.clips * 3 * FRAMES * LAYOUT.num_joints * BODIES / 2**30 for row in chosen]
            below.plot(_unique(chosen), sizes, label="coordinates in the file", **dashed)
        below.set_xlabel(name)
        for axis in (above, below):
            axis.set(xscale="log", yscale="log")
            axis.set_xticks(_unique(chosen), [f"{size:,}" for size in _unique(chosen)], rotation=20)
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.minorticks_off()
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
            axis.legend(fontsize=8, frameon=False)
    axes[0, 0].set_ylabel("seconds for a step")
    axes[1, 0].set_ylabel("GiB of the process's own at the peak")
    figure.suptitle(facts, fontsize=9)
    figure.savefig(file, dpi=110)


def stored(file: Path | None) -> tuple[str, list[Row]]:
    """Return what was measured before."""
    if file is None or not file.is_file():
        return "", []
    content = json.loads(file.read_text())
    return content["machine"], [Row(**{**row, "size": Size(**row["size"])}) for row in content["rows"]]


def main() -> None:
    """Measure what is missing, store, draw and tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the data sets are, or are to be")
    parser.add_argument("--sweep", choices=[*SWEEPS, "none"], help="the one that is measured; default: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE", help="where rows are stored, one by one")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the rows")
    parser.add_argument("--table", type=Path, metavar="FILE", help=f"put tables into this Markdown, at {MARKS[0]}")
    args = parser.parse_args()
    facts, rows = stored(args.json)
    known = {row.size for row in rows}
    sizes = [size for name, sweep in SWEEPS.items() if args.sweep in (None, name) for size in sweep]
    if not facts:
        facts = apart(machine, torch.device(args.device), args.threads)
    for size in sizes:
        if size not in known:
            folder = sparse_dataset(args.folder, size.clips)
            row = apart(measure, folder, size, args.device, args.threads)
            rows.append(row)
            print(asdict(row), flush=True)
            if args.json:
                args.json.write_text(json.dumps({"machine": facts, "rows": [asdict(each) for each in rows]}, indent=1))
    if args.plot:
        plot(args.plot, facts, rows)
    if args.table:
        report.refresh(args.table, markdown(facts, rows), MARKS)


if __name__ == "__main__":
    main()

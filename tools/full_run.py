"""A run of NTU RGB+D 60's size from raw files at published settings, each part as far as some time goes.

    python tools/full_run.py FOLDER --seconds 60 [--clips 56880] [options of `ikem`, such as --trainer.accelerator gpu]

makes 56880 .skeleton files as NTU has them: 60 actions, 11 of them of two bodies, 40 subjects, 3 cameras, 112 of 158
takes by training subjects. Then it has the `ikem` command prepare them, pretrain both stages, distil and evaluate. Each
part runs in a process of its own; what it took is kept in FOLDER/parts.json, and what stands there is not done
again. At the end it prints them as a table in Markdown, with what a whole run would take.

What is whole and what is not:

- recordings: all files are there and each is read, but only 1740 are different (480 MiB instead of 14 GiB); the others
  are further names of these (hard links), of the same action, part and camera. So reading finds them in memory.
- prepare: whole.
- trainings: batches of 128 and all that comes with them, until the time is over. Stage 2 begins from random weights,
  which costs the same. A part is told to stop as a user would stop it (SIGTERM), and what it did is saved.
- evaluation: of some hundred clips, and of a quarter of them, for the cost of one more.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Usage, apart, measured
from numpy.typing import NDArray

from ikem import cli
from ikem.data.dataset import PreparedDataset, write_dataset
from ikem.data.formats import ClipSource
from ikem.data.protocols import make_protocols
from ikem.data.synthetic import ACTIONS, generate
from ikem.training import TrainingModule

ACTIONS_OF_NTU, CAMERAS, TAKES, TRAINING_TAKES = 60, 3, 158, 112  # a take: a setup and a subject, each done twice
ALL_CLIPS = ACTIONS_OF_NTU * CAMERAS * TAKES * 2
TRAINING_CLIPS = ALL_CLIPS * TRAINING_TAKES // TAKES
FIRST_WITH_TWO = 50
PEOPLE = 20  # of the recordings that are made, half of them for training subjects
EPOCHS = {"stage 1": 150, "stage 2": 150, "distillation": 150}
BATCH = 128
STOPPED = 128 + signal.SIGTERM


# ---- recordings ----


def skeleton_text(bodies: Sequence[NDArray[np.floating]]) -> str:
    """Bodies, joints (frames, 25, 3) each, as the text of a .skeleton file; a body that is zero is not seen."""
    joint = "%.7g " * 11 + "2"
    lines = [str(len(bodies[0]))]
    for frame in range(len(bodies[0])):
        seen = [body[frame] for body in bodies if body[frame].any()]
        lines.append(str(len(seen)))
        for number, xyz in enumerate(seen):
            lines += [f"{72057594037931101 + number} 0 1 1 1 1 0 0.02764709 0.05745083 2", "25"]
            lines.append("\n".join([joint] * 25) % tuple(_joint_numbers(xyz).ravel().tolist()))
    return "\n".join(lines) + "\n"


def _joint_numbers(xyz: NDArray[np.floating]) -> NDArray[np.floating]:
    """Coordinates, their pixels in the images of depth and color, and an orientation, (25, 11)."""
    depth, color = ((center + focal * xyz[:, :2] / xyz[:, 2:]) for center, focal in ((240, 365), (800, 1060)))
    orientation = np.concatenate((xyz, np.ones((25, 1))), axis=1)
    orientation /= np.linalg.norm(orientation, axis=1, keepdims=True)
    return np.concatenate((xyz, depth, color, orientation), axis=1)


class Recorded:
    """The files of the clips, and which of the recordings that are made each shows."""

    def __init__(self) -> None:
        people = [ClipSource(str(subject), 0, Path(), subject, 1) for subject in range(1, 41)]
        parts = make_protocols("ntu60", people, [b""] * len(people))["xsub"]
        self.subjects = [[people[place].subject for place in parts[part]] for part in ("train", "test")]
        self.made = generate(subjects=PEOPLE, repetitions=CAMERAS)

    def name_and_content(self, number: int) -> tuple[str, tuple[int, int, int, bool]]:
        """A clip's file, and its action, person, camera and whether there are two bodies."""
        performance, action = divmod(number, ACTIONS_OF_NTU)
        rest, camera = divmod(performance, CAMERAS)
        take, replication = divmod(rest, 2)
        tests = take >= TRAINING_TAKES
        setup, place = divmod(take - TRAINING_TAKES * tests, PEOPLE)
        subject = self.subjects[tests][place]
        name = f"S{setup + 1:03d}C{camera + 1:03d}P{subject:03d}R{replication + 1:03d}A{action + 1:03d}.skeleton"
        person = place // 2 + PEOPLE // 2 * tests
        return name, (action % len(ACTIONS), person, camera, action + 1 >= FIRST_WITH_TWO)

    def text(self, action: int, person: int, camera: int, two: bool) -> str:
        """The file of a recording; the second body does what another person does, at a meter's distance."""
        people = [person, person ^ 1][: 1 + two]
        rows = [(action * PEOPLE + who) * CAMERAS + camera for who in people]
        frames = self.made.num_frames[rows[0]]
        bodies = [self.made.joints[row, :, :frames, :, 0].transpose(1, 2, 0) for row in rows]
        return skeleton_text([body + np.float32([number, 0, 0]) * body.any(axis=(1, 2), keepdims=True)
                              for number, body in enumerate(bodies)])  # fmt: skip


def make_recordings(folder: Path, clips: int) -> dict[str, Any]:
    """Make the files that are not there yet."""
    with measured() as usage:
        recorded = Recorded()
        folder.mkdir(parents=True, exist_ok=True)
        first: dict[tuple[int, int, int, bool], Path] = {}
        said = time.monotonic()
        for done, number in enumerate(np.linspace(0, ALL_CLIPS, clips, endpoint=False, dtype=int).tolist()):
            name, content = recorded.name_and_content(number)
            path = folder / name
            if not path.exists():
                if content in first:
                    os.link(first[content], path)
                else:
                    partial = path.with_suffix(".partial")
                    partial.write_text(recorded.text(*content))
                    partial.replace(path)
            first.setdefault(content, path)
            if time.monotonic() > said + 5:
                said = time.monotonic()
                print(f"recordings: {done + 1} of {clips}", flush=True)
    sizes = [entry.stat() for entry in os.scandir(folder)]
    return {
        "usage": asdict(usage),
        "bytes": sum({each.st_ino: each.st_blocks * 512 for each in sizes}.values()),
        "bytes_if_all_differed": sum(each.st_size for each in sizes),
    }


# ---- the command ----


def command(arguments: Sequence[str], writes: Path) -> dict[str, Any]:
    """Run an `ikem` command to its end."""
    with measured() as usage:
        cli.main([*arguments])
    return {"usage": asdict(usage), "bytes": bytes_below(writes)}


def training(arguments: Sequence[str], writes: Path, seconds: float) -> dict[str, Any]:
    """Run a training until the time is over, but for a step at least; of several the first one does not count."""
    begun, marks = time.perf_counter(), []
    started, ended = TrainingModule.on_train_start, TrainingModule.on_train_batch_end

    def noted_start(self: TrainingModule) -> None:
        started(self)
        marks.append((time.perf_counter(), time.process_time()))

    def noted_end(self: TrainingModule, *others: Any) -> None:
        marks.append((time.perf_counter(), time.process_time()))
        if marks[-1][0] - begun >= seconds:
            os.kill(os.getpid(), signal.SIGTERM)
        ended(self, *others)

    TrainingModule.on_train_start, TrainingModule.on_train_batch_end = noted_start, noted_end  # type: ignore
    with measured() as usage:
        try:
            cli.main([*arguments])
        except SystemExit as stop:
            if stop.code != STOPPED:
                raise
    steps = len(marks) - 1
    (first_wall, first_processor), (last_wall, last_processor) = marks[steps > 1], marks[-1]
    counted = max(1, steps - 1)
    return {
        "usage": asdict(usage),
        "bytes": bytes_below(writes),
        "steps": steps,
        "step": (last_wall - first_wall) / counted,
        "step_processor": (last_processor - first_processor) / counted,
        "device": torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_initialized() else 0.0,
    }


def evaluation(arguments: Sequence[str], data: Path, some: Path, clips: int) -> dict[str, Any]:
    """Evaluate on some of the clips of a data set, which are put into a folder of their own."""
    shutil.rmtree(some, ignore_errors=True)
    dataset = PreparedDataset(data)
    chosen = np.linspace(0, len(dataset), clips, endpoint=False, dtype=int)
    protocols = {
        protocol: {part: np.flatnonzero(np.isin(chosen, clips)).tolist() for part, clips in parts.items()}
        for protocol, parts in dataset.protocols.items()
    }
    write_dataset(
        some,
        joints=(dataset.joints[place] for place in chosen),
        clips=[dataset.clips[place] for place in chosen],
        classes=dataset.classes,
        layout=dataset.layout,
        source=dataset.name,
        preprocessing=dataset.preprocessing,
        protocols=protocols,
    )
    return command([*arguments, "--data.folder", str(some)], some) | {"clips": clips}


def bytes_below(folder: Path) -> int:
    """What the files of a folder take on the disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


# ---- the parts ----


class Parts:
    """What the parts took; each is done once."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "parts.json"
        self.done: dict[str, dict[str, Any]] = json.loads(self.file.read_text()) if self.file.is_file() else {}

    def do(self, name: str, function: Callable[..., dict[str, Any]], *arguments: Any) -> None:
        """Do a part in a process of its own, and keep what it took."""
        if name not in self.done:
            print(f"{name} ...", flush=True)
            self.done[name] = apart(function, *arguments)
            partial = self.file.with_suffix(".partial")
            partial.write_text(json.dumps(self.done, indent=1))
            partial.replace(self.file)
        print(f"{name}: {Usage(**self.done[name]['usage']).cells()}", flush=True)


def run_parts(folder: Path, clips: int, seconds: float, evaluated: int, options: Sequence[str]) -> Parts:
    """Do all parts that were not done before."""
    parts = Parts(folder)
    raw, data = folder / "raw", folder / "data"
    parts.do("recordings", make_recordings, raw, clips)
    parts.do("prepare", command, ["prepare", "ntu60", str(raw), str(data), "--overwrite"], data)
    first, second = folder / "stage1", folder / "stage2"
    common = ["--config", "ntu60-xsub", "--data.folder", str(data), *options]
    of_first = [*common, "--run", str(first)]
    of_second = [*common, "--run", str(second), "--pretrain.exchange_epoch", "0"]
    parts.do("stage 1", training, ["pretrain", *of_first], first, seconds)
    parts.do("stage 2", training, ["pretrain", *of_second], second / "pretrain", seconds)
    parts.do("distillation", training, ["distill", *of_second], second / "distill", seconds)
    shutil.copyfile(first / "pretrain" / "last.ckpt", second / "pretrain" / "stage1.ckpt")
    for name, number in (("evaluation of a quarter", evaluated // 4), ("evaluation", evaluated)):
        parts.do(name, evaluation, ["evaluate", *of_second], data, folder / "some", number)
    return parts


def table(parts: Mapping[str, dict[str, Any]], clips: int) -> Iterator[str]:
    """What was measured, and what a whole run would take by it."""
    yield "| part | done | wall clock | processor time | peak memory | with mapped files | disk |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for name, part in parts.items():
        done = f"{part['steps']} steps" if "steps" in part else f"{part.get('clips', clips)} clips"
        on_device = f" ({part['device']:.1f} GiB on the GPU)" if part.get("device") else ""
        yield f"| {name}{on_device} | {done} | {Usage(**part['usage']).cells()} {part['bytes'] / 2**20:.0f} MiB |"
    yield ""
    yield f"| of {ALL_CLIPS} clips, 300 epochs and 150 of distillation | unit | wall clock | processor time |"
    yield "|---|---|---:|---:|"
    total = np.zeros(2)
    for name, unit, wall, processor in _whole(parts, clips):
        total += (wall, processor)
        yield f"| {name} | {unit} | {_time(wall)} | {_time(processor)} |"
    yield f"| all | | {_time(total[0])} | {_time(total[1])} |"
    differed = parts["recordings"]["bytes_if_all_differed"] / clips * ALL_CLIPS / 2**30
    yield f"\nIf all {ALL_CLIPS} recordings differed, they would take {differed:.1f} GiB."


def _whole(parts: Mapping[str, dict[str, Any]], clips: int) -> Iterator[tuple[str, str, float, float]]:
    usage = {name: Usage(**part["usage"]) for name, part in parts.items()}
    each = usage["prepare"].wall / clips, usage["prepare"].processor / clips
    yield "prepare", f"{1e3 * each[0]:.1f} ms a clip", *(ALL_CLIPS * x for x in each)
    for name, epochs in EPOCHS.items():
        steps, part = epochs * (TRAINING_CLIPS // BATCH), parts[name]
        yield name, f"{steps} steps of {part['step']:.2f} s", steps * part["step"], steps * part["step_processor"]
    few, many = "evaluation of a quarter", "evaluation"
    clips_between = parts[many]["clips"] - parts[few]["clips"]
    each = tuple((getattr(usage[many], x) - getattr(usage[few], x)) / clips_between for x in ("wall", "processor"))
    yield many, f"{1e3 * each[0]:.0f} ms a clip more", *(ALL_CLIPS * x for x in each)


def _time(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def main() -> None:
    """Do the parts, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where everything is made")
    parser.add_argument("--clips", type=int, default=ALL_CLIPS)
    parser.add_argument("--seconds", type=float, default=60, help="of each training")
    parser.add_argument("--evaluated", type=int, default=480, metavar="CLIPS", help="how many are evaluated")
    args, options = parser.parse_known_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    parts = run_parts(args.folder, args.clips, args.seconds, args.evaluated, options)
    print("\n".join(table(parts.done, args.clips)))


if __name__ == "__main__":
    main()

"""Writes recordings in the formats of data sets of which no sample may be at hand."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io


def write_utd_clip(folder: Path, joints: np.ndarray, *, action: int = 1, subject: int = 1, trial: int = 1) -> Path:
    """UTD-MHAD; joints (3, frames, 20, 1)."""
    path = folder / f"a{action}_s{subject}_t{trial}_skeleton.mat"
    scipy.io.savemat(path, {"d_skel": joints[..., 0].transpose(2, 0, 1)})
    return path


def write_sbu_clip(
    folder: Path, joints: np.ndarray, *, pair: str = "s01s02", action: int = 1, repetition: int = 1
) -> Path:
    """SBU Kinect Interaction; joints (3, frames, 15, 2) in meters with y up."""
    path = folder / pair / f"{action:02d}" / f"{repetition:03d}" / "skeleton_pos.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    x, y, z = joints * 1000
    normalized = np.stack(((1280 - x) / 2560, (960 - y) / 1920, z / 1280), axis=-1)  # (frames, 15, 2, 3)
    rows = normalized.transpose(0, 2, 1, 3).reshape(len(normalized), -1)
    lines = [",".join([str(number), *(f"{value:.9g}" for value in row)]) for number, row in enumerate(rows, start=1)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_nw_ucla_clip(
    folder: Path,
    joints: np.ndarray,
    *,
    action: int = 1,
    subject: int = 1,
    execution: int = 0,
    view: int = 1,
    label: int | None = None,
) -> Path:
    """Northwestern-UCLA; joints (3, frames, 20, 1)."""
    name = f"a{action:02d}_s{subject:02d}_e{execution:02d}_v{view:02d}"
    if label is None:
        label = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12).index(action) + 1
    content = {"file_name": name, "skeletons": joints[..., 0].transpose(1, 2, 0).tolist(), "label": str(label)}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return path


def write_msr_clip(folder: Path, joints: np.ndarray, *, action: int = 1, subject: int = 1, execution: int = 1) -> Path:
    """MSR-Action3D; joints (3, frames, 20, 1)."""
    path = folder / f"a{action:02d}_s{subject:02d}_e{execution:02d}_skeleton3D.txt"
    rows = joints[..., 0].transpose(1, 2, 0).reshape(-1, 3)
    path.write_text("".join(f"{x:.6f} {y:.6f} {z:.6f} {float(any((x, y, z))):.6f}\n" for x, y, z in rows.tolist()))
    return path


def write_shrec_clip(
    folder: Path, joints: np.ndarray, *, gesture: int = 1, fingers: int = 1, subject: int = 1, trial: int = 1
) -> Path:
    """SHREC'17; joints (3, frames, 22, 1)."""
    path = folder / f"gesture_{gesture}" / f"finger_{fingers}" / f"subject_{subject}" / f"essai_{trial}"
    path.mkdir(parents=True)
    rows = joints[..., 0].transpose(1, 2, 0).reshape(joints.shape[1], -1)
    (path / "skeletons_image.txt").write_text("0 0\n")
    (path / "skeletons_world.txt").write_text("".join(" ".join(f"{x:.6f}" for x in row) + "\n" for row in rows))
    return path / "skeletons_world.txt"


def write_npz(folder: Path, **arrays: Any) -> Path:
    """A user's own arrays."""
    path = folder / "recordings.npz"
    np.savez(path, **arrays)
    return path


def write_ctr_gcn(
    path: Path,
    clips: Mapping[str, Sequence[np.ndarray]],
    labels: Mapping[str, Sequence[int]],
    *,
    classes: int = 60,
    compressed: bool = False,
) -> Path:
    """CTR-GCN and MAMP; for each of train and test, clips (3, frames, V, bodies) of at most two bodies."""
    frames = max(clip.shape[1] for part in clips.values() for clip in part)
    arrays: dict[str, np.ndarray] = {}
    for part, members in clips.items():
        x = np.zeros((len(members), frames, 2, members[0].shape[2], 3), np.float32)
        for row, clip in enumerate(members):
            x[row, : clip.shape[1], : clip.shape[3]] = clip.transpose(1, 3, 2, 0)
        arrays[f"x_{part}"] = x.reshape(len(members), frames, -1)
        arrays[f"y_{part}"] = np.eye(classes)[list(labels[part])]
    (np.savez_compressed if compressed else np.savez)(path, **arrays)  # type: ignore[arg-type]
    return path


def write_npy_pair(
    folder: Path,
    part: str,
    clips: Sequence[np.ndarray],
    content: tuple[Any, ...],
    *,
    kind: str = "data",
    frames: int = 300,
) -> Path:
    """CrosSCLR, AimCLR, IKEM; clips (3, frames, V, bodies) and what their pickle holds."""
    folder.mkdir(parents=True, exist_ok=True)
    joints = np.zeros((len(clips), 3, frames, clips[0].shape[2], 2), np.float32)
    for row, clip in enumerate(clips):
        joints[row, :, : clip.shape[1], :, : clip.shape[3]] = clip
    np.save(folder / f"{part}_{kind}.npy", joints)
    (folder / f"{part}_label.pkl").write_bytes(pickle.dumps(content))
    return folder


def pyskl_annotation(name: str, label: int | None, joints: np.ndarray, **others: Any) -> dict[str, Any]:
    """PYSKL and MMAction2; joints (axes, frames, V, bodies)."""
    keypoint = joints.transpose(3, 1, 2, 0).astype(np.float16)
    annotation = {"frame_dir": name, "label": label, "keypoint": keypoint, "total_frames": keypoint.shape[1], **others}
    return {key: value for key, value in annotation.items() if value is not None}


def write_ntu_clip(
    folder: Path,
    joints: np.ndarray,
    *,
    name: str = "S001C001P001R001A001.skeleton",
    ids: np.ndarray | None = None,
) -> Path:
    """NTU RGB+D; joints (3, frames, 25, bodies), of which those that are zero are not in their frame; ids likewise."""
    lines = [str(joints.shape[1])]
    for frame in range(joints.shape[1]):
        here = np.flatnonzero(joints[:, frame].any(axis=(0, 1)))
        lines.append(str(len(here)))
        for body in here:
            identity = 72057594037930000 + (body if ids is None else ids[frame, body])
            lines += [f"{identity} 0 1 1 1 1 0 0.02 0.05 2", "25"]
            lines += [f"{x:.6f} {y:.6f} {z:.6f} 1 1 1 1 0 0 0 0 2" for x, y, z in joints[:, frame, :, body].T]
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path

"""`ikem synthesize`."""

from __future__ import annotations

from pathlib import Path

from .generation import generate
from .recordings import Recordings


def synthesize(
    path: Path,
    *,
    subjects: int = 20,
    repetitions: int = 2,
    seed: int = 0,
    noise: float = 1.0,
    max_yaw: float = 90.0,
    overwrite: bool = False,
) -> Recordings:
    """Makes synthetic recordings and writes them to a file that ``ikem prepare npz`` reads.

    Args:
        path: the ``.npz`` file to write.
        subjects: how many people there are.
        repetitions: how often each performs each action.
        seed: of everything random.
        noise: factor on the sensor's faults; 0 is a perfect sensor.
        max_yaw: how far people turn away from the camera at most, in degrees.
        overwrite: replace a file that is there already.

    Returns:
        What was written; :func:`generate` makes the same without a file.

    Raises:
        ValueError: a number is out of range, or the file's name does not end in ``.npz``.
        FileExistsError: ``path`` exists.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(f"path: {path} exists; overwrite replaces it")
    recordings = generate(subjects=subjects, repetitions=repetitions, seed=seed, noise=noise, max_yaw=max_yaw)
    recordings.save(path)
    print(
        f"{path}: {len(recordings.labels)} synthetic clips of {len(recordings.class_names)} actions "
        f"by {subjects} simulated people"
    )
    return recordings

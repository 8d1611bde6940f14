"""What all tests share: the folder of real recordings and golden numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("IKEM_SHARED", ROOT.parent / "shared"))

# No test measures time: on a busy machine an example may take as long as it does.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU, or PyTorch was built without CUDA"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recordings and golden numbers; IKEM_SHARED names another, IKEM_REQUIRE_SHARED=1 insists."""
    if not (SHARED / "golden").is_dir():
        message = f"no folder {SHARED} with recordings and golden numbers (IKEM_SHARED names another)"
        if os.environ.get("IKEM_REQUIRE_SHARED") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return SHARED


@pytest.fixture(scope="session")
def golden(shared: Path) -> Callable[[str], dict[str, np.ndarray]]:
    """Reads one of the golden files into a dictionary."""

    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(shared / "golden" / f"{name}.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    return read

from __future__ import annotations

import pytest
import torch

from ikem_ext import _library


@pytest.fixture
def older_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which torch.compile does not know how to trace this function."""
    monkeypatch.setattr(torch.amp, "is_autocast_available", torch.compiler.disable(torch.amp.is_autocast_available))


@pytest.mark.usefixtures("older_torch")
@pytest.mark.parametrize("enabled", [False, True])
def test_autocast_is_seen_by_torch_compile(enabled: bool) -> None:
    def cast(x: torch.Tensor) -> torch.Tensor:
        return x.to(_library.autocast_dtype(x.device) or torch.float64)

    with torch.autocast("cpu", torch.float16, enabled=enabled):
        y = torch.compile(cast, fullgraph=True, backend="eager")(torch.zeros(2))
    assert y.dtype == (torch.float16 if enabled else torch.float64)


@pytest.mark.parametrize("device", ["meta", "mps"])
def test_of_other_devices_autocast_says_nothing(device: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert _library.autocast_dtype(torch.device(device)) is None

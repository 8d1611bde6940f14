from __future__ import annotations

import pytest
import torch

from ikem_ext.bench import large_models

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("each", "free", "expected"),
    [
        (0.1, 100, [(8, "8 clips"), (64, "64 clips")]),
        (0.5, 24, [(8, "8 clips"), (32, "32 clips (64 need 32 GiB of the 24 that are free)")]),
        (1.0, 24, [(8, "8 clips"), (16, "16 clips (64 need 64 GiB of the 24 that are free)")]),
        (2.0, 24, [(8, "8 clips")]),
        (9.0, 24, [(1, "1 clips (8 need 72 GiB of the 24 that are free)")]),
        (0.0, float("inf"), [(8, "8 clips"), (64, "64 clips")]),
    ],
)
def test_batches_that_do_not_fit_are_halved_and_say_so(
    each: float, free: float, expected: list[tuple[int, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert [*large_models.fitting((8, 64), each, free)] == expected
    left_out = "no larger batch than" in capsys.readouterr().out
    assert left_out == (len(expected) == 1)


def test_a_clip_takes_the_memory_of_its_features() -> None:
    model = large_models.variants("2s-AGCN", 8, CPU, torch.float32)["published"]
    few, many = (large_models.memory_of_a_clip(model, frames, CPU) for frames in (50, 200))
    assert 2 < many / few < 8
    assert few > 0.01
    assert large_models.free_memory(CPU) > 1

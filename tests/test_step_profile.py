"""The profile of a step is of what it says."""

from __future__ import annotations

import re

import pytest
from programs import load

step_profile = load("step_profile")


@pytest.mark.parametrize("how", [[], ["--published"]], ids=["ours", "published"])
def test_operations_of_a_step(how: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    step_profile.main(["--work", "stage 1", "--clips", "2", "--keys", "64", "--rows", "400", *how])
    step, together, *rows = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"a step: \d+\.\d\d ms", step)
    total = float(together.split()[1])
    milliseconds = [float(row.split()[0]) for row in rows]
    assert milliseconds == sorted(milliseconds, reverse=True)
    assert sum(milliseconds) == pytest.approx(total, rel=0.05)
    assert any("ikem_ext::" in row for row in rows) is not bool(how)

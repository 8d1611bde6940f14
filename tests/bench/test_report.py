"""Rows of several runs in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ikem_ext.bench import report
from ikem_ext.bench.measure import Row


def row(case: str, variant: str, dtype: str = "float32", median: float = 2.0, **changes: Any) -> Row:
    facts: dict[str, Any] = {
        "family": "contrast", "case": case, "passes": "forward", "swept": None, "variant": variant,
        "median_ms": median, "quartiles_ms": (median / 2, 2 * median), "runs": 3, "first_call_s": 12.3,
        "extra_memory_mib": 4.0,
        "limit_ms": 1.0, "share_of_limit": 0.5, "ours_is_faster": median / 2, "parameters": {"dtype": f"torch.{dtype}"},
    }  # fmt: skip
    return Row(**{**facts, **changes})


def facts(dtype: str) -> dict[str, Any]:
    return {
        "device": "EPYC", "processor": None, "threads": 2, "dtype": dtype, "copy_gb_per_s": 40.0,
        "gflop_per_s": {"torch.mm": 100.0}, "versions": {"torch": "2.13", "ikem-ext": "0.1.0"}, "simd_level": "v4",
        "commit": "abc", "date": "2026-01-01",
    }  # fmt: skip


RUNS = [
    (facts("float32"), [row("first", "ikem_ext"), row("first", "published", median=6), row("second", "ikem_ext")]),
    (facts("bfloat16"), [row("second", "ikem_ext", "bfloat16"), row("first", "ikem_ext", "bfloat16", 1.0)]),
]


def test_halves_stand_below_what_is_beside_them() -> None:
    text = report.markdown(RUNS)
    head, _, table = text.partition("### contrast")
    assert [line[:13] for line in head.strip().splitlines()] == ["- Measured on"] * 2
    assert [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")] == [
        "work", "first, forward", "first, bfloat16, forward", "second, forward", "second, bfloat16, forward",
    ]  # fmt: skip
    assert "**1 ms**" in table.splitlines()[5]
    assert report.markdown(RUNS[:1]).startswith("Measured on EPYC")


def test_the_last_run_of_a_case_counts() -> None:
    again = [row("first", "ikem_ext", median=7), row("first", "published, max-autotune", median=14)]
    table = report.markdown([*RUNS, (facts("float32"), again)])
    (line,) = (line for line in table.splitlines() if line.startswith("| first, forward"))
    assert "**7 ms**" in line and "14 ms, 7x" in line and "6 ms" not in line
    swept = [row("sweep", "ikem_ext", swept="keys", parameters={"dtype": "torch.float32", "keys": n}) for n in (1, 2)]
    assert report._joined_rows([(facts("float32"), swept)]) == swept


def test_what_was_compiled_says_how_long_its_first_call_took() -> None:
    variants = ("ikem_ext", "published", "published, compiled", "published, max-autotune")
    for shown in (4, 3):  # without max-autotune the cache may have had it
        rows = [row("case", variant) for variant in variants[:shown]]
        cells = report.markdown([(facts("float32"), rows)]).splitlines()[-1].split("|")[3:-1]
        assert ["first call 12.3 s" in cell for cell in cells] == (
            [False] * 2 + [True] * 2 if shown == 4 else [False] * 3
        )


def test_runs_are_drawn_together(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (written,) = report.plot(tmp_path / "bench.svg", RUNS)
    assert written.name == "bench-contrast.svg"
    rows = ["first", "first, bfloat16", "second", "second, bfloat16"]
    figure = report._bars(report._joined_rows(RUNS))
    assert [axis.get_title(loc="left").splitlines()[-1] for axis in figure.axes] == rows

"""What is measured against: the loads, which of them counts, and how they are told of."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ikem_ext.bench import limits, machine, report
from ikem_ext.bench.limits import ARITHMETIC, CONVOLUTION, COPY, MATRIX, Limits, Load, registers_of

CPU = torch.device("cpu")
LEVELS = torch.ops.ikem_ext.available_simd_levels().split()
RATES = {"registers of 128 bits": 64.0, "registers of 256 bits": 128.0}


@pytest.mark.parametrize("level", [level for level in LEVELS if level != "amx"])
def test_multiply_adds_are_as_many_as_lanes_and_accumulators(level: str) -> None:
    multiply_adds, threads = torch.ops.ikem_ext.multiply_adds, torch.get_num_threads()
    single, double = (multiply_adds(level, dtype, 1) for dtype in (torch.float32, torch.float64))
    assert single == 2 * double == threads * 2 * limits.REGISTERS[level] // 32 * (24 if level == "v4" else 12)
    assert multiply_adds(level, torch.bfloat16, 1) in (0, 2 * single)
    assert multiply_adds(level, torch.float32, 1000) == 1000 * single


@pytest.mark.skipif("amx" not in LEVELS, reason="this processor has no tile registers")
def test_tiles_multiply_bfloat16_alone() -> None:
    multiply_adds, threads = torch.ops.ikem_ext.multiply_adds, torch.get_num_threads()
    assert (
        multiply_adds("amx", torch.bfloat16, 3) == threads * 3 * 4 * 2 * 16 * 16 * 32
    )  # four tiles, 32 products a sum
    assert multiply_adds("amx", torch.float32, 3) == 0
    assert limits.TILES in limits.multiplying(CPU, torch.bfloat16, quick=True)
    assert limits.TILES not in limits.multiplying(CPU, torch.float32, quick=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("v9", torch.float32, 1), f"simd_level: expected of {' '.join(LEVELS)}, got v9"),
        ((LEVELS[0], torch.int32, 1), "dtype: expected float32, float64 or bfloat16"),
        ((LEVELS[0], torch.float32, 0), "rounds: expected at least 1, got 0"),
    ],
)
def test_multiply_adds_refuse(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch.ops.ikem_ext.multiply_adds(*arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_loads_do_the_work_that_they_count(dtype: torch.dtype) -> None:
    loads = limits.multiplying(CPU, dtype, quick=True)
    assert {registers_of(max(limits.REGISTERS.get(level, 0) for level in LEVELS)), MATRIX} <= loads.keys()
    assert loads[MATRIX].work == 2 * 1024**3
    for load in loads.values():
        load.run()
    copy = limits.copying(CPU, quick=True)
    copy.run()
    assert copy.work == 2 * 4 * 2**24


def test_a_convolution_counts_its_taps() -> None:
    load = limits.multiplying(CPU, torch.float32, quick=True)[CONVOLUTION]
    with FlopCounterMode(display=False) as counter:
        load.run()
    assert load.work == counter.get_total_flops()


def imitated(monkeypatch: pytest.MonkeyPatch, rates: dict[str, float]) -> None:
    """Loads of one unit of work, whose calls take what the rates say."""
    loads = {name: Load(partial(str, name), 1.0) for name in rates}
    seconds = {name: 1 / rate for name, rate in rates.items()}
    monkeypatch.setattr(limits, "multiplying", lambda *arguments: dict(loads))
    monkeypatch.setattr(limits, "seconds_per_call", lambda run, device: seconds[run()])


@pytest.mark.parametrize(
    ("rates", "convolves", "fastest"),
    [
        ({registers_of(512): 3.0, MATRIX: 1.0, CONVOLUTION: 2.0}, True, registers_of(512)),
        ({registers_of(512): 3.0, MATRIX: 4.0, CONVOLUTION: 2.0}, True, MATRIX),
        ({MATRIX: 1.0, CONVOLUTION: 2.0}, True, CONVOLUTION),
        ({MATRIX: 1.0, CONVOLUTION: 2.0}, False, MATRIX),
    ],
)
def test_the_fastest_arithmetic_is_the_limit(
    rates: dict[str, float], convolves: bool, fastest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    imitated(monkeypatch, rates)
    found = Limits.of(CPU, torch.float32, quick=True, convolves=convolves)
    assert found.runs[ARITHMETIC]() == fastest


def test_the_rate_is_that_of_the_fastest_call(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.5, 0.25, 1.0])
    monkeypatch.setattr(limits, "seconds_per_call", lambda run, device: next(seconds))
    assert Load(lambda: None, 10.0).rate(CPU, calls=3) == 40


def test_the_limit_is_the_larger_of_copy_and_arithmetic() -> None:
    found = Limits({COPY: Load(lambda: None, 2**27), ARITHMETIC: Load(lambda: None, 2**31)})
    medians = {COPY: 0.5, ARITHMETIC: 0.25}
    for moved, operations, expected in ((2**26, 2**30, 0.25), (2**26, 2**31, 0.25), (2**27, 0, 0.5), (0, 2**33, 1.0)):
        assert found.seconds(moved, operations, medians) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("widest", "bits"),
    [({}, 256), ({"registers of 512 bits": 130.0}, 256), ({"registers of 512 bits": 250.0}, 512)],
)
def test_units_are_as_wide_as_the_registers_that_are_no_slower(widest: dict[str, float], bits: int) -> None:
    assert limits.vector_bits({**RATES, **widest, MATRIX: 1000.0}) == bits
    assert limits.vector_bits({MATRIX: 1000.0}) is None


def test_the_header_names_the_machine_and_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {**RATES, MATRIX: 90.0, CONVOLUTION: 110.0}
    cpuinfo = {"model name": "EPYC", "vendor_id": "AuthenticAMD", "cpu family": "25", "model": "17"}
    monkeypatch.setattr(machine, "_processor", lambda: cpuinfo)
    monkeypatch.setattr(
        machine, "multiplying", lambda *_: {name: Load(lambda: None, rate) for name, rate in rates.items()}
    )
    monkeypatch.setattr(machine, "copying", lambda *_: Load(lambda: None, 2.0))
    monkeypatch.setattr(limits, "seconds_per_call", lambda run, device: 1e-9)
    configuration = "Intel(R) oneAPI Math Kernel Library Version 2024.2-Product Build 20240605\nMKL-DNN v3.12.0 (Git"
    monkeypatch.setattr(torch.__config__, "show", lambda: configuration)
    monkeypatch.setattr(machine, "_commit", lambda: "abc")
    facts = machine.machine(CPU, quick=True, dtype=torch.bfloat16)
    words = report.in_words({**facts, "threads": 2, "date": "2026-01-01", "simd_level": "v3"})
    assert words == (
        "EPYC (AuthenticAMD family 25 model 17, vector units of 256 bits), 2 threads, bfloat16: copy 2.0 GB/s; "
        "GFLOP/s: registers of 128 bits 64, registers of 256 bits 128, torch.mm (MKL 2024.2) 90, "
        "convolution (oneDNN 3.12.0) 110; "
        f"torch {torch.__version__}, ikem-ext {facts['versions']['ikem-ext']} (SIMD level v3), commit abc, 2026-01-01"
    )


def test_the_header_of_a_gpu_names_no_library_of_cpus() -> None:
    versions = {"torch": "2.13", "ikem-ext": "0.1.0", "MKL": "2024.2", "oneDNN": "3.12"}
    facts = {
        "device": "H100", "processor": None, "threads": 1, "dtype": "float32", "copy_gb_per_s": 3000.0,
        "gflop_per_s": {MATRIX: 50000.0, CONVOLUTION: 300000.0}, "versions": versions, "simd_level": "v4",
        "commit": "abc", "date": "2026-01-01",
    }  # fmt: skip
    words = report.in_words(facts)
    assert words.startswith("H100, 1 thread, float32: copy 3000.0 GB/s; GFLOP/s: torch.mm 50000, convolution 300000; ")

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from programs import cuda_report

# Two kernels of a template, the second with a function that was not inlined, as ptxas of CUDA 13.0 reports them.
VERBOSE = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN4ikem4cuda12_GLOBAL__N_110sum_kernelIfLi4EEEvPKT_PS3_' for 'sm_90'
ptxas info    : Function properties for _ZN4ikem4cuda12_GLOBAL__N_110sum_kernelIfLi4EEEvPKT_PS3_
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 62 registers, used 1 barriers, 1024 bytes smem, 544 bytes cmem[0]
ptxas info    : Compile time = 12.345 ms
ptxas info    : Compiling entry function '_ZN4ikem4cuda12_GLOBAL__N_110sum_kernelIdLi4EEEvPKT_PS3_' for 'sm_90'
ptxas info    : Function properties for _ZN4ikem4cuda12_GLOBAL__N_110sum_kernelIdLi4EEEvPKT_PS3_
    16 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads
ptxas info    : Function properties for _ZN4ikem6helperEv
    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 128 registers, used 0 barriers, 24 bytes cumulative stack size
"""


FLOAT = cuda_report.Kernel("sum_kernel<float, 4>", 62, 1024, 0, 0, 0)
DOUBLE = cuda_report.Kernel("sum_kernel<double, 4>", 128, 0, 24, 16, 24)


def test_what_the_compiler_says_of_each_kernel() -> None:
    single, double = cuda_report.parse(VERBOSE)
    assert vars(single) == {**vars(FLOAT), "name": "_ZN4ikem4cuda12_GLOBAL__N_110sum_kernelIfLi4EEEvPKT_PS3_"}
    assert vars(double) == {**vars(DOUBLE), "name": "_ZN4ikem4cuda12_GLOBAL__N_110sum_kernelIdLi4EEEvPKT_PS3_"}
    assert cuda_report.parse("ptxas info    : 0 bytes gmem\n") == []


@pytest.mark.skipif(not (shutil.which("cu++filt") or shutil.which("c++filt")), reason="no demangler")
def test_names_are_readable() -> None:
    names = ["_ZN4ikem4cuda12_GLOBAL__N_110sum_kernelIfLi4EEEvPKT_PS3_", "plain_kernel"]
    assert cuda_report.readable(names) == ["sum_kernel<float, 4>", "plain_kernel"]


def test_the_table() -> None:
    assert cuda_report.table("sums", [DOUBLE, FLOAT]) == (
        "sums                   registers  shared  stack  spilled (stored, loaded)\n"
        "sum_kernel<double, 4>        128       0     24  16, 24\n"
        "sum_kernel<float, 4>          62    1024      0"
    )


@pytest.mark.parametrize(("spill", "status"), [(0, 0), (4, 1)])
def test_a_main_kernel_that_spills_is_an_error(
    spill: int, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spilling = cuda_report.Kernel("other_kernel<float>", 64, 0, 8, spill, spill)
    monkeypatch.setattr(cuda_report, "report", lambda source, architecture: [FLOAT, DOUBLE, spilling])
    monkeypatch.setattr(cuda_report, "sources", lambda: [Path("csrc/sums/cuda.cu")])
    assert cuda_report.main(["90", "100"]) == status
    output = capsys.readouterr()
    assert "sm_90, bytes" in output.out
    assert "sm_100, bytes" in output.out
    expected = "registers spill in other_kernel<float> (sm_90), other_kernel<float> (sm_100)\n"
    assert output.err == (expected if status else "")


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="no nvcc: put it on the PATH, or name it in the environment"):
        cuda_report.compile_verbosely(Path("csrc/sums/cuda.cu"), "90")

"""The way of tools/gpu_check.sh through its steps, with programs that only pretend to be there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parent.parent / "tools" / "gpu_check.sh"

# Does as it is told by the variables FAIL (a step) and SLOW (likewise).
PYTHON = """\
#!/usr/bin/env bash
step=$*
case $step in
  -) cat >/dev/null ; step=preflight ;;
  "- "*) exec {python} "$@" ;;
  *FAMILIES*) echo modalities contrast; exit ;;
  *get_device_capability*) echo 90; exit ;;
  "-c import xdist") exit 1 ;;
  *" pip "*) mkdir -p build/gpu-check; step=build ;;
  *cuda_report.py*) step="kernels of sm_$2" ;;
  "-m pytest"*) step=tests ;;
  *--rows*) touch "${{@: -1}}"; step=plot ;;
  *ikem_ext.bench*) step=bench-$7-$3
    [[ $step == "$FAIL" ]] || echo '{{"machine": {{"device": "none"}}, "rows": ["'$3'"]}}' >"${{@: -1}}" ;;
esac
echo "this is $step"
[[ $step != "$SLOW" ]] || sleep 60
[[ $step != "$FAIL" ]] || exit 3
"""


def run(folder: Path, **environment: str) -> tuple[int, dict[str, str], set[str]]:
    """The exit status, how each step ended, and the files that were left."""
    programs = folder / "programs"
    for place in (programs, folder / "tools", folder / "tests"):
        place.mkdir()
    shutil.copy(SCRIPT, folder / "tools")
    (folder / "tests" / "test_some.py").write_text("@pytest.mark.gpu")
    (programs / "python").write_text(PYTHON.format(python=sys.executable))
    (programs / "python").chmod(0o755)
    for name in ("nvidia-smi", "compute-sanitizer"):
        (programs / name).write_text(f"#!/usr/bin/env bash\necho this is {name}\n")
        (programs / name).chmod(0o755)
    result = subprocess.run(
        [folder / "tools" / "gpu_check.sh", "out"],
        cwd=folder,
        env={"PATH": f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin", "FAIL": "", "SLOW": "", "PYTHON": "python"}
        | environment,
        capture_output=True,
        text=True,
        timeout=50,
    )
    out = folder / "out"
    files = {file.name for file in out.iterdir()}
    rows = [line.split(maxsplit=1) for line in (out / "summary.txt").read_text().splitlines()] if files else []
    return result.returncode, {row[0]: row[1] for row in rows if len(row) == 2}, files


ALL = {
    "summary.txt", "build.log", "tests.log", "sanitizers.log",
    "bench.log", "bench-float32.json", "bench-bfloat16.json", "plots.tar.gz",
}  # fmt: skip
STEPS = ["build", "environment", "kernels", "tests", "memcheck", "racecheck"]
STEPS += [f"bench-{dtype}-{family}" for dtype in ("float32", "bfloat16") for family in ("modalities", "contrast")]
STEPS += ["plot-float32", "plot-bfloat16"]


def test_all_goes_well(tmp_path: Path) -> None:
    status, ended, files = run(tmp_path)
    assert status == 0
    assert [name for name in STEPS if not ended[name].startswith("passed, ")] == []
    assert files == ALL
    out = tmp_path / "out"
    assert json.loads((out / "bench-float32.json").read_text()) == {
        "machine": {"device": "none"},
        "rows": ["modalities", "contrast"],
    }
    with tarfile.open(out / "plots.tar.gz") as plots:
        assert {Path(name).name for name in plots.getnames()} >= {"float32.png", "bfloat16.png"}
    assert "this is kernels of sm_90" in (out / "build.log").read_text()
    assert (out / "sanitizers.log").read_text().count("this is compute-sanitizer") == 2


def test_what_fails_is_noted_and_the_rest_runs(tmp_path: Path) -> None:
    status, ended, files = run(tmp_path, FAIL="bench-float32-modalities")
    assert status == 1
    assert ended["bench-float32-modalities"].startswith("failed with status 3")
    assert [name for name in STEPS if not ended[name].startswith("passed, ")] == ["bench-float32-modalities"]
    assert files == ALL
    assert json.loads((tmp_path / "out" / "bench-float32.json").read_text())["rows"] == ["contrast"]


def test_nothing_runs_without_a_build(tmp_path: Path) -> None:
    status, ended, files = run(tmp_path, FAIL="build")
    assert status == 1
    assert ended["build"].startswith("failed with status 3")
    assert set(STEPS) & set(ended) == {"build"}
    assert files == {"summary.txt", "build.log"}
    assert "this is build" in (tmp_path / "out" / "build.log").read_text()


def test_the_time_is_kept(tmp_path: Path) -> None:
    status, ended, files = run(tmp_path, SLOW="tests", LIMIT="3")
    assert status == 1
    assert ended["tests"].startswith("stopped after its ")
    assert ended["bench-bfloat16-contrast"] == "not run: no time was left"
    assert files == {"summary.txt", "build.log", "tests.log", "sanitizers.log"}


def test_chosen_steps_alone(tmp_path: Path) -> None:
    status, ended, files = run(tmp_path, STEPS="tests")
    assert status == 0
    assert set(STEPS) & set(ended) == {"build", "environment", "tests"}
    assert files == {"summary.txt", "build.log", "tests.log"}


def test_a_machine_without_a_gpu_is_told_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = subprocess.run(
        [SCRIPT, tmp_path],
        env={**os.environ, "PYTHON": sys.executable, "CUDACXX": "nvcc"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr.startswith(("gpu-check: no NVIDIA GPU is in reach of torch", "gpu-check: missing for"))
    assert list(tmp_path.iterdir()) == []


def test_the_folder_for_the_results_has_to_be_named() -> None:
    result = subprocess.run([SCRIPT], capture_output=True, text=True)
    assert result.returncode != 0
    assert "gpu-check: say where the results go: make gpu-check OUT=<folder>" in result.stderr

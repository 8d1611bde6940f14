from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import entry_points, files
from pathlib import Path

import pytest
import torch
from programs import cuda_report

from ikem_ext import _library

ROOT = Path(__file__).resolve().parent.parent
NVCC = shutil.which("nvcc")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="no nvcc on the PATH")


def tool(name: str) -> str:
    """A build tool, before all that of the environment the tests run in."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"no {name}")
    return found


def configure(build: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [tool("cmake"), "-S", ROOT, "-B", build, "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}"]
    command += [f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", *options]
    names = ("CUDAARCHS", "CUDACXX", "TORCH_CUDA_ARCH_LIST")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.run(command, capture_output=True, text=True, env={**inherited, **environment})


def test_insisting_on_cuda_without_nvcc_fails_with_the_reason(tmp_path: Path) -> None:
    result = configure(tmp_path, "-DIKEM_CUDA=ON", CUDACXX="/nowhere/nvcc")
    assert result.returncode != 0
    message = " ".join(result.stderr.split())
    assert "IKEM_CUDA=ON, but no working nvcc was found: put it on the PATH, or name it in" in message
    assert "With IKEM_CUDA=OFF ikem-ext is built for the CPU alone" in message


def test_without_nvcc_the_build_says_what_it_leaves_out(tmp_path: Path) -> None:
    result = configure(tmp_path, CUDACXX="/nowhere/nvcc")
    assert result.returncode == 0, result.stderr
    assert "CUDA: the CUDA operations are left out, since no working nvcc was found" in result.stdout


def test_an_unknown_choice_about_cuda_is_refused(tmp_path: Path) -> None:
    result = configure(tmp_path, "-DIKEM_CUDA=maybe")
    assert result.returncode != 0
    assert 'IKEM_CUDA must be AUTO, ON or OFF; it is "maybe"' in result.stderr


@needs_nvcc
@pytest.mark.parametrize(
    ("options", "environment", "architectures"),
    [
        (("-DCMAKE_CUDA_ARCHITECTURES=86",), {"TORCH_CUDA_ARCH_LIST": "9.0"}, "86 (CMAKE_CUDA_ARCHITECTURES)"),
        ((), {"TORCH_CUDA_ARCH_LIST": "8.0 9.0a+PTX"}, "80-real;90a (TORCH_CUDA_ARCH_LIST)"),
        (("-DIKEM_DEVELOPER=ON",), {}, "90 (default of developer builds)"),
    ],
)
def test_architectures_follow_what_was_asked_for(
    tmp_path: Path, options: tuple[str, ...], environment: dict[str, str], architectures: str
) -> None:
    result = configure(tmp_path, *options, **environment)
    assert result.returncode == 0, result.stderr
    assert f"architectures {architectures}" in result.stdout


@needs_nvcc
def test_a_list_of_architectures_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    result = configure(tmp_path, TORCH_CUDA_ARCH_LIST="8.0;Hopper")
    assert result.returncode != 0
    assert 'TORCH_CUDA_ARCH_LIST: "Hopper" is not of the form 9.0 or 9.0+PTX' in " ".join(result.stderr.split())


@needs_nvcc
@pytest.mark.parametrize("source", cuda_report.sources(), ids=lambda path: path.parent.name)
def test_kernels_compile_for_hopper_without_spilling_registers(source: Path) -> None:
    kernels = cuda_report.report(source, "90")
    assert kernels
    assert not [kernel for kernel in kernels if kernel.spills and kernel.is_main]


def test_a_wheel_holds_both_packages_and_their_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = pytest.importorskip("scikit_build_core.build")
    monkeypatch.chdir(ROOT)
    wheel = build.build_wheel(str(tmp_path), {"wheel.cmake": "false"})
    with zipfile.ZipFile(tmp_path / wheel) as archive:
        names = archive.namelist()
    for package, folder in (("ikem_ext", ROOT / "ikem_ext"), ("ikem", ROOT / "python" / "ikem")):
        for path in folder.rglob("*"):
            if path.suffix in (".py", ".yaml"):
                assert f"{package}/{path.relative_to(folder).as_posix()}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "csrc", "docs", "results"))]


def test_the_source_distribution_holds_the_sources_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = pytest.importorskip("scikit_build_core.build")
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    sources = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    if sources.returncode != 0:
        pytest.skip("no git, or no clone")
    monkeypatch.chdir(ROOT)
    with tarfile.open(tmp_path / build.build_sdist(str(tmp_path))) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers()}
    left_out = (".ci/", ".github/", "results/")
    assert names - {"PKG-INFO"} == {name for name in sources.stdout.splitlines() if not name.startswith(left_out)}


def test_the_installation_has_the_native_libraries_and_the_command() -> None:
    installed = {path.name.split(".")[0] for path in files("ikem-ext") or () if path.parent.name == "ikem_ext"}
    assert {"_ops", "_native"} <= installed
    (command,) = entry_points(group="console_scripts", name="ikem")
    assert command.value == "ikem.cli:main"


def test_cuda_operations_load_whether_or_not_torch_has_cuda() -> None:
    if _library.find("_ops_cuda") is None:
        pytest.skip("built without CUDA")
    assert _library.cuda_missing is None
    assert torch._C._dispatch_has_kernel_for_dispatch_key("ikem_ext::derive_modalities", "CUDA")


def test_an_import_without_operations_explains_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_library, "find", lambda name: None)
    with pytest.raises(ImportError, match=r"operations of ikem_ext were not found in .*pip install"):
        _library.load()


def test_an_import_with_another_torch_explains_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: object) -> None:
        raise OSError("undefined symbol: torch_library_impl")

    monkeypatch.setattr(torch.ops, "load_library", fail)
    with pytest.raises(ImportError) as error:
        _library.load()
    built = _library.build_info()["torch_version"]
    message = str(error.value)
    assert f"were built with torch {built} for torch 2.10 and later" in message
    assert f"do not load with the torch {torch.__version__} that is installed: undefined symbol" in message
    assert "Install torch>=2.10, or rebuild: pip install --no-build-isolation" in message


def test_missing_cuda_operations_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_library, "find", lambda name: None)
    reason = _library._load_cuda(_library.build_info())
    assert reason is not None
    assert "built without CUDA. Rebuild with nvcc on the PATH: IKEM_CUDA=ON pip install" in reason


def test_the_report_of_the_installation() -> None:
    result = subprocess.run([sys.executable, "-m", "ikem_ext"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows = dict(
        line.split(maxsplit=1) for line in result.stdout.splitlines() if line.startswith(("ikem_ext", "library"))
    )
    assert rows["ikem_ext"] == _library.build_info()["version"]
    assert f"torch in use  {torch.__version__}" in result.stdout
    assert f"SIMD level    {torch.ops.ikem_ext.simd_level()}" in result.stdout
    assert str(_library.loaded["_ops"]) in result.stdout
    if torch.version.cuda is None:
        assert "missing       CUDA in torch: to use a GPU, install a CUDA build of torch" in result.stdout

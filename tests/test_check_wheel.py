"""What tools/check_wheel.py lets pass and what it refuses, shown on small libraries."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.version import Version
from programs import load

from ikem_ext import _library

pytest.importorskip("torch_abi_audit", reason="torch-abi-audit needs Python 3.11")
check_wheel = load("check_wheel")

# C++ that uses what the name says.
STABLE = 'extern "C" int aoti_torch_get_dim(void*, long*); int f() { return aoti_torch_get_dim(nullptr, nullptr); }'
AT = f"{STABLE} namespace at {{ void zero(); }} void g() {{ at::zero(); }}"
NEWER = f'{STABLE} extern "C" void torch_from_blob(); void g() {{ torch_from_blob(); }}'
UNHEARD_OF = f'{STABLE} extern "C" void aoti_torch_unheard_of(); void g() {{ aoti_torch_unheard_of(); }}'
NO_TORCH = "int f() { return 1; }"

GOOD = {"ikem_ext/_ops.so": STABLE, "ikem_ext/_native.cpython-311-x86_64-linux-gnu.so": NO_TORCH}

Make = Callable[..., Path]


@pytest.fixture
def make_wheel(tmp_path: Path) -> Make:
    """Makes a wheel of libraries, by the name in the wheel: of C++, or of bytes that are none."""
    if shutil.which("g++") is None or shutil.which("nm") is None:
        pytest.skip("no g++ and nm")

    def make(libraries: dict[str, str | bytes], version: str = "1.2.0", torch: str = "torch>=2.10") -> Path:
        wheel = tmp_path / f"ikem_ext-{version}-cp311-cp311-linux_x86_64.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            metadata = f"Metadata-Version: 2.2\nName: ikem-ext\nVersion: {version}\nRequires-Dist: {torch}\n"
            archive.writestr(f"ikem_ext-{version}.dist-info/METADATA", metadata)
            for name, content in libraries.items():
                library = tmp_path / "library"
                if isinstance(content, bytes):
                    library.write_bytes(content)
                else:
                    command = ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", library]
                    subprocess.run(command, input=content, text=True, check=True)
                archive.write(library, name)
        return wheel

    return make


def test_a_wheel_of_the_stable_abi_passes(make_wheel: Make, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = make_wheel(GOOD)
    assert check_wheel.main([str(wheel)]) == 0
    assert capsys.readouterr() == (f"{wheel.name}: PyTorch's stable ABI alone\n", "")


@pytest.mark.parametrize(
    ("libraries", "fault"),
    [
        ({"ikem_ext/_ops.so": AT}, "_ops.so uses at::zero(), which is not in PyTorch's stable ABI"),
        ({"ikem_ext/_ops_cuda.so": AT}, "_ops_cuda.so uses at::zero(), which is not in PyTorch's stable ABI"),
        (
            {"ikem_ext/_ops.so": NEWER},
            "_ops.so needs torch 2.11.0 (torch_from_blob), but the wheel asks for 2.10",
        ),
        ({"ikem_ext/_ops.so": UNHEARD_OF}, "_ops.so uses aoti_torch_unheard_of, of which no PyTorch is known"),
        ({"ikem_ext/_native.so": STABLE}, "_native.so must not use PyTorch, but does"),
        (
            {"ikem_ext/_ops.so": b"no library"},
            "_ops.so uses nothing of PyTorch: no library of operations, or one that cannot be read",
        ),
        (
            {"ikem_ext.libs/libc10-1f2e3d4c.so": NO_TORCH},
            "libc10-1f2e3d4c.so belongs to PyTorch or CUDA and must not be copied into the wheel",
        ),
        (
            {"ikem_ext.libs/libcudart-1f2e3d4c.so.13": NO_TORCH},
            "libcudart-1f2e3d4c.so.13 belongs to PyTorch or CUDA and must not be copied into the wheel",
        ),
    ],
)
def test_what_is_refused(
    libraries: dict[str, str | bytes], fault: str, make_wheel: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = make_wheel({**GOOD, **libraries})
    assert check_wheel.main([str(wheel)]) == 1
    assert capsys.readouterr() == ("", f"{wheel.name}: {fault}\n")


def test_what_is_newer_passes_where_a_newer_torch_is_asked_for(make_wheel: Make) -> None:
    wheel = make_wheel({**GOOD, "ikem_ext/_ops.so": NEWER}, torch="torch>=2.11,<3")
    assert check_wheel.faults_of_wheel(wheel) == []


def test_libraries_that_are_missing_are_named(make_wheel: Make) -> None:
    assert check_wheel.faults_of_wheel(make_wheel({})) == ["_native is missing", "_ops is missing"]
    assert check_wheel.faults_of_wheel(make_wheel(GOOD, version="1.2.0+cu13")) == ["_ops_cuda is missing"]
    assert check_wheel.faults_of_wheel(make_wheel({**GOOD, "ikem_ext/_ops_cuda.so": STABLE}, "1.2.0+cu13")) == []


@pytest.mark.parametrize("name", _library.loaded)
def test_this_build_keeps_to_the_stable_abi(name: str) -> None:
    oldest = Version(_library.build_info()["torch_target_version"])
    assert check_wheel.faults_of_library(_library.loaded[name], oldest) == []

"""What is said of releases in several places: pyproject.toml, the workflows, the gate and the Makefile agree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from ikem_ext import _library

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="no reader of TOML before Python 3.11")

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PLATFORMS = (("linux", "x86_64"), ("linux", "aarch64"), ("macos", "arm64"))


def workflow(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in workflow(path.stem)["jobs"].values():
        yield from job["steps"]


def oldest_torch() -> Version:
    """The oldest PyTorch that the package asks for."""
    (torch,) = (r for r in map(Requirement, PROJECT["project"]["dependencies"]) if r.name == "torch")
    (bound,) = (bound.version for bound in torch.specifier if bound.operator == ">=")
    return Version(bound)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_make_what_the_makefile_has(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    made = {name for step in steps(path) for name in re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))}
    assert made
    assert made <= targets


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_name_the_version_of_every_action(path: Path) -> None:
    actions = [step["uses"] for step in steps(path) if "uses" in step]
    assert actions
    assert [action for action in actions if not re.fullmatch(r"[\w./-]+@v\d+\.\d+\.\d+", action)] == []


def test_the_gate_and_the_workflows_make_the_same() -> None:
    gate = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8")))
    made = {
        name
        for path in WORKFLOWS
        for step in steps(path)
        for name in re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))
    }
    # In the workflows cibuildwheel makes what `make wheel` does, from what `make sdist` made.
    assert (gate - {"wheel"}) | {"sdist"} <= made


def test_the_same_versions_of_python_everywhere() -> None:
    pythons = workflow("tests")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert workflow("wheels")["jobs"]["test"]["strategy"]["matrix"]["python"] == pythons
    assert PROJECT["project"]["requires-python"] == f">={pythons[0]}"
    assert PROJECT["tool"]["cibuildwheel"]["build"] == [f"cp{version.replace('.', '')}-*" for version in pythons]


def test_the_same_oldest_torch_everywhere() -> None:
    oldest = oldest_torch()
    assert Version(_library.build_info()["torch_target_version"]) == oldest
    (target,) = re.findall(r"TORCH_TARGET_VERSION=0x(\w{2})(\w{2})0{12}", (ROOT / "cmake" / "torch.cmake").read_text())
    assert [int(number, 16) for number in target] == [oldest.major, oldest.minor]
    (gate,) = re.findall(r'oldest="torch==([\d.]+)\+cpu"', (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    (wheels,) = re.findall(r"TORCH=torch==([\d.]+)", (ROOT / ".github" / "workflows" / "wheels.yml").read_text())
    assert Version(gate) == Version(wheels) == oldest


def test_every_wheel_is_tested_and_no_other() -> None:
    jobs = workflow("wheels")["jobs"]
    matrix = jobs["wheels"]["strategy"]["matrix"]
    built = {f"{variant}-{platform}" for variant in matrix["variant"] for platform in matrix["platform"]}
    built |= {f"{row['variant']}-{row['platform']}" for row in matrix["include"] if "variant" in row}
    assert set(jobs["test"]["strategy"]["matrix"]["wheels"]) == built


def test_cibuildwheel_builds_every_python_for_every_platform() -> None:
    pytest.importorskip("cibuildwheel", reason="cibuildwheel needs Python 3.11")
    for platform, architecture in PLATFORMS:
        command = [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers"]
        command += ["--platform", platform, "--archs", architecture, str(ROOT)]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        system = {"linux": "manylinux", "macos": "macosx"}[platform]
        versions = workflow("tests")["jobs"]["test"]["strategy"]["matrix"]["python"]
        expected = [f"cp{version.replace('.', '')}-{system}_{architecture}" for version in versions]
        assert result.stdout.split() == expected


class TestLabel:
    """tools/label_version.sh, by which the variants for CUDA get their versions."""

    def label(self, folder: Path, label: str) -> tuple[str, subprocess.CompletedProcess[str]]:
        if not (folder / "pyproject.toml").exists():
            shutil.copy(ROOT / "pyproject.toml", folder)
        command = [ROOT / "tools" / "label_version.sh"]
        result = subprocess.run(
            command, cwd=folder, env={"IKEM_LABEL": label, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
        )
        assert sorted(path.name for path in folder.iterdir()) == ["pyproject.toml"]
        return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"], result

    def test_changes_nothing_but_the_version(self, tmp_path: Path) -> None:
        version = PROJECT["project"]["version"]
        labelled, _ = self.label(tmp_path, "cu13")
        assert labelled == f"{version}+cu13"
        text = (tmp_path / "pyproject.toml").read_text(encoding="utf-8")
        assert text.replace(f'"{labelled}"', f'"{version}"') == (ROOT / "pyproject.toml").read_text(encoding="utf-8")

    def test_a_second_label_takes_the_place_of_the_first(self, tmp_path: Path) -> None:
        self.label(tmp_path, "cu12")
        assert self.label(tmp_path, "cu13")[0] == f"{PROJECT['project']['version']}+cu13"

    def test_without_a_label_nothing_changes(self, tmp_path: Path) -> None:
        self.label(tmp_path, "")
        assert (tmp_path / "pyproject.toml").read_bytes() == (ROOT / "pyproject.toml").read_bytes()

    def test_what_cannot_be_a_label_is_refused(self, tmp_path: Path) -> None:
        version, result = self.label(tmp_path, "cu/13")
        assert (version, result.returncode) == (PROJECT["project"]["version"], 1)
        assert result.stderr == 'label-version: IKEM_LABEL: expected letters and digits, got "cu/13"\n'

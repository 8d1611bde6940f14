"""`make setup` as a newcomer sees it, with stand-ins for Python and pip."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The stand-in for Python leaves a pip that prints as pip does: warnings unless told twice to be quiet, errors always.
PYTHON = """#!/bin/sh
mkdir -p .venv/bin
cat > .venv/bin/pip <<'PIP'
#!/bin/sh
echo "$@" >> pip.log
quiet=0
for word in "$@"; do case $word in --quiet|-q) quiet=$((quiet + 1));; -qq) quiet=$((quiet + 2));; esac; done
[ $quiet -lt 2 ] && echo "WARNING: Location 'file:///nowhere' is ignored" >&2
[ -z "$FAIL" ] || { echo "ERROR: No matching distribution found" >&2; exit 1; }
PIP
chmod +x .venv/bin/pip
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "CMakeLists.txt"):
        (tmp_path / name).touch()
    for name in ("csrc", "cmake", "tests", "ikem_ext", "python"):
        (tmp_path / name).mkdir()
    python = tmp_path / "interpreter"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return tmp_path


def setup(clone: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", "setup", f"PYTHON={clone / 'interpreter'}"],
        cwd=clone,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
class TestSetup:
    def test_says_what_is_being_done_in_one_line_a_step(self, clone: Path) -> None:
        result = setup(clone)
        assert (result.returncode, result.stderr) == (0, "")
        lines = result.stdout.splitlines()
        assert [line.split(":")[0] for line in lines] == ["setup 1/3", "setup 2/3", "setup 3/3"]
        assert "torch==" in lines[1]
        installs = (clone / "pip.log").read_text()
        assert "torch==" in installs
        assert "--editable .[dev]" in installs

    def test_does_nothing_the_second_time(self, clone: Path) -> None:
        setup(clone)
        again = setup(clone)
        assert again.returncode == 0
        assert "setup" not in again.stdout.replace("'setup'", "")
        assert len((clone / "pip.log").read_text().splitlines()) == 2

    def test_installs_again_where_a_module_comes_or_goes(self, clone: Path) -> None:
        setup(clone)
        module = clone / "ikem_ext" / "new.py"
        for change in (module.touch, module.unlink):
            change()
            assert [line.split(":")[0] for line in setup(clone).stdout.splitlines()] == ["setup 3/3"]
        assert len((clone / "pip.log").read_text().splitlines()) == 4

    def test_shows_the_errors_of_pip_and_goes_no_further(self, clone: Path) -> None:
        result = setup(clone, FAIL="1")
        assert result.returncode != 0
        assert "ERROR: No matching distribution found" in result.stderr
        assert "setup 3/3" not in result.stdout

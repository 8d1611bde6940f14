#!/usr/bin/env bash
# Installs a wheel beside a version of PyTorch in a fresh environment, and runs the tests of the operations and layers
# there, out of reach of the sources.
#
# Usage: tools/test_wheel.sh WHEEL TORCH, such as: tools/test_wheel.sh dist/ikem_ext-*.whl torch==2.10.0
# PYTHON, from the environment, is the interpreter (python3).
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)
wheel=$(realpath "${1:?test-wheel: say which wheel}")
torch=${2:?test-wheel: say which PyTorch, such as torch==2.10.0}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
pip=("$work/venv/bin/pip" --quiet --quiet --disable-pip-version-check install)
"${pip[@]}" "$torch"
"${pip[@]}" "$torch" "${wheel}[test]"

export IKEM_SHARED=${IKEM_SHARED:-$project/../shared} OMP_NUM_THREADS=1
cp -r "$project"/{tests,conftest.py,pyproject.toml} "$work"
cd "$work"
venv/bin/python -m ikem_ext
venv/bin/python -c 'import ikem.cli, ikem_ext; assert all("site-packages" in m.__file__ for m in (ikem.cli, ikem_ext))'
venv/bin/ikem --help >/dev/null
grep -l OperationChecks tests/test_*.py |
  xargs venv/bin/python -m pytest -n auto --dist worksteal -q tests/test_transforms.py tests/nn

#!/usr/bin/env bash
# Makes a wheel fit to be handed on: its name says how old a system it runs on, and it holds whatever else that system
# may lack, but nothing of PyTorch and CUDA, which are those of the PyTorch that the user has.
#
# Usage: tools/repair_wheel.sh WHEEL FOLDER. The repaired wheel lands in FOLDER.
set -euo pipefail
wheel=${1:?repair-wheel: say which wheel} folder=${2:?repair-wheel: say where the repaired wheel goes}

case $(uname) in
  Linux) auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' --exclude 'libcudart*' --wheel-dir "$folder" "$wheel" ;;
  # delocate does not find PyTorch's libraries, which are loaded by the time that ours are.
  Darwin) delocate-wheel --exclude libtorch --exclude libc10 --ignore-missing-dependencies --wheel-dir "$folder" "$wheel" ;;
  *) echo "repair-wheel: no wheels are made for $(uname)" >&2 && exit 1 ;;
esac

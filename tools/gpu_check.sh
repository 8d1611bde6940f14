#!/usr/bin/env bash
# Builds ikem-ext for the GPU at hand, runs the tests that need one, and the benchmarks on CUDA.
# Usage: tools/gpu_check.sh OUT; logs, JSON and plots go to the folder OUT. PYTHON names the interpreter in use,
# whose packages are taken as they are: nothing is installed into it.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
out=${1:?gpu-check: say where the results go: make gpu-check OUT=<folder>}
mkdir -p "$out"
out=$(cd "$out" && pwd)

"$python" - <<'PYTHON' || exit 1
import importlib.util
import sys
if importlib.util.find_spec("torch") is None:
    sys.exit(f"gpu-check: PyTorch is not installed for {sys.executable}; PYTHON=<interpreter> names another")
import torch
if not torch.cuda.is_available():
    sys.exit(f"gpu-check: no NVIDIA GPU is in reach of torch {torch.__version__} (built for CUDA: {torch.version.cuda})")
print("gpu-check:", torch.cuda.get_device_name(), "torch", torch.__version__, "CUDA", torch.version.cuda)
PYTHON

site=$project/build/gpu-check
rm -rf "$site"
CUDAARCHS=native IKEM_CUDA=ON "$python" -m pip install --quiet --no-deps --no-build-isolation --target "$site" \
  "$project" 2>&1 | tee "$out/build.log"

# Outside the project's folder, so that the package that was built is imported and not its sources.
cd "$site"
export PYTHONPATH=$site
"$python" -m ikem_ext | tee "$out/environment.txt"
status=0
"$python" -m pytest -c "$project/pyproject.toml" --rootdir "$project" -m gpu -q -p no:cacheprovider \
  "$project"/tests/test_*.py "$project"/tests/nn 2>&1 | tee "$out/tests.log" || status=$?
"$python" -m ikem_ext.bench --device cuda --json "$out/bench.json" --plot "$out/bench.png" 2>&1 |
  tee "$out/bench.txt" || status=$?
exit "$status"

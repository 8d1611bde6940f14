#!/usr/bin/env bash
# Builds ikem-ext for the GPU at hand, runs the tests that need one, also under compute-sanitizer, and the benchmarks.
#
# Usage: tools/gpu_check.sh OUT. At most eight files go to the folder OUT:
#   summary.txt          the machine, and how each step ended
#   build.log            the build, what was built, and the registers and spills of every kernel
#   tests.log            the tests marked gpu
#   sanitizers.log       memcheck and racecheck over our kernels, on small shapes
#   bench.log, bench-float32.json, bench-bfloat16.json, plots.tar.gz
# Every step has a limit of its own, and what fails is noted and does not keep the next from running; the exit status
# says whether all went well. From the environment: PYTHON, the interpreter, whose packages are taken as they are;
# LIMIT, the seconds that all of it may take (470); STEPS, some of "kernels tests sanitizers bench" (all).
set -uo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
limit=${LIMIT:-470}
steps=${STEPS:-kernels tests sanitizers bench}
out=${1:?gpu-check: say where the results go: make gpu-check OUT=<folder>}
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1

"$python" - <<'PYTHON' || exit 1
import importlib.util
import os
import shutil
import sys

modules = ("torch", "numpy", "pip", "scikit_build_core", "pybind11", "pytest", "hypothesis")
missing = [name for name in modules if importlib.util.find_spec(name) is None]
missing += [name for name in ("cmake", "ninja") if not (shutil.which(name) or importlib.util.find_spec(name))]
if missing:
    sys.exit(f"gpu-check: missing for {sys.executable}: {', '.join(missing)}; PYTHON=<interpreter> names another")
if not (os.environ.get("CUDACXX") or shutil.which("nvcc")):
    sys.exit("gpu-check: no nvcc: put it on the PATH, or name it in the environment variable CUDACXX")
import torch

if not torch.cuda.is_available():
    sys.exit(f"gpu-check: no NVIDIA GPU is in reach of torch {torch.__version__} (built for CUDA: {torch.version.cuda})")
PYTHON

site=$project/build/gpu-check
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/logs" "$work/ended" "$work/rows" "$work/plots"

wanted() { [[ " $steps " == *" $1 "* ]]; }

# step NAME SECONDS COMMAND...: runs the command for as long as it may, and notes how it ended.
step() {
  local name=$1 seconds=$2 left=$((limit - SECONDS)) began=$SECONDS status=0 how
  shift 2
  ((seconds = left < seconds ? left : seconds))
  if ((seconds <= 0)); then
    echo "not run: no time was left" >"$work/ended/$name"
    return 1
  fi
  timeout --kill-after=5 "$seconds" "$@" >"$work/logs/$name" 2>&1 || status=$?
  case $status in
    0) how=passed ;;
    124 | 137) how="stopped after its $seconds seconds" ;;
    *) how="failed with status $status" ;;
  esac
  echo "$how, $((SECONDS - began)) s" >"$work/ended/$name"
  printf '\n--- %s: %s\n' "$name" "$(<"$work/ended/$name")"
  tail -n 25 "$work/logs/$name"
  return "$status"
}

build() {
  rm -rf "$site"
  CUDAARCHS=native IKEM_CUDA=ON CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) step build 200 "$python" -m pip install --no-deps \
    --no-build-isolation --target "$site" "$project"
}

kernels() {
  local architecture
  architecture=$("$python" -c 'import torch; print(*torch.cuda.get_device_capability(), sep="")')
  step kernels 150 "$python" "$project/tools/cuda_report.py" "$architecture"
}

mapfile -t test_files < <(grep -rlE 'mark\.gpu|OperationChecks|DEVICES' "$project/tests" --include='test_*.py')
# Half a dozen processes run at once: with a thread for each core in every one of them they would wait for each other.
pytest=("$python" -m pytest -c "$project/pyproject.toml" --rootdir "$project" -m gpu -q -p "no:cacheprovider")

tests() {
  local processes=()
  if "$python" -c 'import xdist' 2>/dev/null; then
    processes=(-n 4)
  fi
  OMP_NUM_THREADS=2 step tests 170 "${pytest[@]}" "${processes[@]}" --durations 10 "${test_files[@]}"
}

# Only our kernels are looked at, each tensor in an allocation of its own, so that no read beyond one goes unnoticed.
sanitizer() {
  if ! command -v compute-sanitizer >/dev/null; then
    echo "skipped: compute-sanitizer is not on the PATH (it comes with the CUDA toolkit)" >"$work/ended/$1"
    return 0
  fi
  OMP_NUM_THREADS=2 PYTORCH_NO_CUDA_MEMORY_CACHING=1 step "$1" 170 compute-sanitizer --tool "$1" --error-exitcode 9 \
    --print-limit 20 --kernel-name kns=ikem "${pytest[@]}" -k matches_the_plain_twin "${test_files[@]}"
}

bench() {
  local families dtype family
  read -ra families < <("$python" -c 'from ikem_ext.bench.processes import FAMILIES; print(*FAMILIES)')
  for dtype in float32 bfloat16; do
    for family in "${families[@]}"; do
      step "bench-$dtype-$family" 150 "$python" -m ikem_ext.bench "$family" --device cuda --dtype "$dtype" \
        --json "$work/rows/$dtype-$family.json"
    done
    merge "$dtype" "${families[@]}" && step "plot-$dtype" 60 "$python" -m ikem_ext.bench --rows \
      "$out/bench-$dtype.json" --plot "$work/plots/$dtype.png"
  done
}

# One file for the rows of all families, as far as they were measured.
merge() {
  (cd "$work/rows" && "$python" - "$@") <<'PYTHON' >"$out/bench-$1.json"
import json
import sys
from pathlib import Path

dtype, *families = sys.argv[1:]
files = [Path(f"{dtype}-{family}.json") for family in families]
parts = [json.loads(file.read_text()) for file in files if file.exists()]
if not parts:
    sys.exit(1)
print(json.dumps({"machine": parts[0]["machine"], "rows": [row for part in parts for row in part["rows"]]}, indent=1))
PYTHON
}

pack() {
  local name logs=$work/logs
  collect() { # FILE STEPS...
    local file=$1
    shift
    for name in "$@"; do
      if [[ -f $logs/$name ]]; then
        printf '=== %s: %s\n' "$name" "$(<"$work/ended/$name")"
        cat "$logs/$name"
      fi
    done >"$out/$file"
  }
  collect build.log build environment kernels
  collect tests.log tests
  collect sanitizers.log memcheck racecheck
  local bench=()
  mapfile -t bench < <(cd "$logs" && compgen -G 'bench-*')
  collect bench.log "${bench[@]}"
  if compgen -G "$work/plots/*" >/dev/null; then
    tar -czf "$out/plots.tar.gz" -C "$work/plots" .
  fi
  {
    date -u '+%Y-%m-%d %H:%M UTC'
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    "$python" -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda)'
    echo "commit $(git -C "$project" rev-parse --short HEAD 2>/dev/null || echo unknown)"
    for name in "$work"/ended/*; do
      printf '%-28s %s\n' "$(basename "$name")" "$(<"$name")"
    done
    echo "$SECONDS s in all"
  } >"$out/summary.txt" 2>&1
  find "$out" -maxdepth 1 -type f -empty -delete
  echo
  cat "$out/summary.txt"
}

if build; then
  # Outside the project's folder, so that the package that was built is imported and not its sources.
  cd "$site" || exit 1
  export PYTHONPATH=$site
  step environment 60 "$python" -m ikem_ext
  # What is not measured runs at the same time.
  wanted kernels && kernels &
  wanted tests && tests &
  wanted sanitizers && sanitizer memcheck &
  wanted sanitizers && sanitizer racecheck &
  wait
  wanted bench && bench
fi
pack
for how in "$work"/ended/*; do
  grep -qE '^(passed|skipped)' "$how" || exit 1
done

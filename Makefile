# The commands of the project. `make demo` and `make test` set up what they need on their own.
PYTHON ?= python3
TORCH ?= torch==2.13.0
WHEEL ?= dist/ikem_ext-*.whl
DEMO := runs/demo

BIN := .venv/bin
# Twice quiet: warnings, which some set-ups of pip print for every package, would bury what is being done; errors show.
INSTALL := $(BIN)/pip install --quiet --quiet --disable-pip-version-check
NATIVE := CMakeLists.txt $(shell find csrc cmake -type f)
FORMATTED_CPP = $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu')

.DEFAULT_GOAL := help
.PHONY: help setup build demo test docs bench bench-large lint format sdist wheel wheel-test cuda-report gpu-check clean

help: ## Shows this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: .venv/.built ## Makes .venv with PyTorch, everything the project needs, and the project itself, editable.

.venv/.packages: pyproject.toml
	@echo "setup 1/3: a virtual environment in .venv"
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "setup 2/3: $(TORCH) and the tools to build with"
	@$(INSTALL) $(TORCH) "scikit-build-core>=0.11" "pybind11>=2.13" build cmake ninja
	@touch $@

# An editable installation knows the modules by name: where one comes or goes, it is made anew.
.venv/.modules: FORCE | .venv/.packages
	@find ikem_ext python -name '*.py' | sort | { cmp -s - $@ || find ikem_ext python -name '*.py' | sort > $@; }
FORCE:

.venv/.built: .venv/.packages .venv/.modules $(NATIVE)
	@echo "setup 3/3: all other packages, and the native code (compiling takes a minute or two)"
	@$(INSTALL) --no-build-isolation --editable ".[dev]"
	@touch $@

build: setup ## Builds the native code again after a change of it.

demo: setup ## Runs the whole method on synthetic recordings; the report lands in runs/demo/report.md.
	$(BIN)/ikem synthesize $(DEMO)/recordings.npz --overwrite
	$(BIN)/ikem prepare npz $(DEMO)/recordings.npz $(DEMO)/data --frames 25 --overwrite
	$(BIN)/ikem pretrain --config demo --overwrite
	$(BIN)/ikem distill --config demo --overwrite
	$(BIN)/ikem evaluate --config demo
	$(BIN)/ikem report --config demo

test: setup ## Runs all tests; those that need real recordings look for them in IKEM_SHARED (default ../shared), those of pages for a browser.
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal -q -rs

# Twenty-five minutes are enough: left out is what says little beside the rest. Stage 1 differs from stage 2 by its loss,
# PYSKL's units are the originals' in other clothes, and losses without gradients are seldom asked for.
BENCH_CASES := ^(?!stage 1|pyskl |.*K=32768, forward$$)
BENCH_BFLOAT16_CASES := skeleton, 64.*backward|(64|256) channels.*backward|exchange.*backward|stage 2|ST-GCN.*training
BENCH_AUTOTUNED_CASES := skeleton, 64 to 64.*backward|exchange.*backward|ST-GCN.*training
BENCH_TABLES = $(BIN)/python -m ikem_ext.bench --rows results/bench-cpu.json results/bench-cpu-*.json \
	  --plot docs/images/performance.png --table docs/performance.md

bench: setup ## Measures everything against plain PyTorch and torch.compile, and renews docs/performance.md.
	$(BIN)/python -m ikem_ext.bench --scaling --cases '$(BENCH_CASES)' --json results/bench-cpu.json
	$(BIN)/python -m ikem_ext.bench graph_conv temporal_conv contrast step models --dtype bfloat16 \
	  --cases '$(BENCH_BFLOAT16_CASES)' --json results/bench-cpu-bfloat16.json
	$(BENCH_TABLES)

bench-large: setup ## Measures torch.compile's max-autotune, and whole models of 64 and 300 frames; an hour.
	$(BIN)/python -m ikem_ext.bench graph_conv contrast models --max-autotune --cases '$(BENCH_AUTOTUNED_CASES)' \
	  --json results/bench-cpu-max-autotune.json
	$(BIN)/python -m ikem_ext.bench large_models --json results/bench-cpu-large.json
	$(BENCH_TABLES)

docs: setup ## Builds the site, of docs/ and the docstrings, in build/docs/html; a warning is an error.
	$(BIN)/sphinx-build --conf-dir docs --fresh-env --fail-on-warning --keep-going --quiet \
	  --doctree-dir build/docs/doctrees . build/docs/html

lint: setup ## Checks style and types, and the workflows.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/actionlint
	$(BIN)/clang-format --dry-run --Werror $(FORMATTED_CPP)

format: setup ## Formats all code.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(FORMATTED_CPP)

sdist: .venv/.packages ## Makes the source distribution; it lands in dist/.
	@rm -rf dist
	$(BIN)/python -m build --sdist --no-isolation --skip-dependency-check

wheel: setup sdist ## Builds the source distribution and a wheel from it, as pip does for a user; repaired and checked, in dist/.
	@rm -rf build/wheel
	$(BIN)/pip wheel --quiet --quiet --no-deps --wheel-dir build/wheel dist/ikem_ext-*.tar.gz
	PATH="$(CURDIR)/$(BIN):$$PATH" tools/repair_wheel.sh build/wheel/ikem_ext-*.whl dist
	$(BIN)/python tools/check_wheel.py dist/ikem_ext-*.whl

wheel-test: ## Runs the tests of the operations on a wheel, WHEEL=<file> (that in dist/), under TORCH.
	PYTHON=$(PYTHON) tools/test_wheel.sh $(WHEEL) $(TORCH)

cuda-report: ## Registers, shared memory and spills of every CUDA kernel; ARCH="90 100" names architectures.
	$(PYTHON) tools/cuda_report.py $(ARCH)

gpu-check: ## Builds, tests and measures on this machine's GPU with the Python in use; results go to OUT=<folder>.
	PYTHON=$(PYTHON) tools/gpu_check.sh "$(OUT)"

clean: ## Removes what was built and what ran.
	rm -rf .venv build dist runs

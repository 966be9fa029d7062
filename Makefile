# `make help` lists what there is. Everything is installed below this folder: .venv/, and .uv/ if uv is missing.

PYTHON ?= >=3.10
PY := .venv/bin/python
STAMP := .venv/.installed
REQUIREMENTS := pyproject.toml $(wildcard third_party/detectron2/*.toml third_party/detectron2/*.py third_party/detectron2/*/*.py)

# A uv on the PATH is used if it runs; else one is installed into .uv/.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .uv/bin/uv)

# On a CI machine without a GPU some 1.1 GB of CUDA packages are left out.
ifeq ($(CI)$(wildcard /dev/nvidiactl /dev/dxg),true)
export UV_EXCLUDE := .ci/exclude-without-gpu.txt
endif

# The tests' tensors are tiny: more threads only wait for each other, minutes long on a busy machine.
test test-all check: export OMP_NUM_THREADS ?= 1

.PHONY: env demo test test-all check format help

env: $(STAMP)  ## Install everything into .venv (the default; does nothing if it is up to date)
	@echo "The environment in .venv is ready. 'make help' says what can be done."

demo: $(STAMP)  ## Train a teacher, distil a student on real photos, compare, export (about 10 minutes)
	$(PY) tools/run_recipe.py configs/demo/recipe.yaml

test: $(STAMP)  ## Run the fast tests
	$(PY) -m pytest -m "not slow"

test-all: $(STAMP)  ## Run all tests, the slow ones too
	$(PY) -m pytest

check: $(STAMP)  ## Check format, lint and types, then run the fast tests
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest -m "not slow"

format: $(STAMP)  ## Format the code and fix what the linter can fix
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

help:  ## Show this list
	@awk -F ':.*##' '/^[a-z-]+:.*##/ {printf "  make %-9s %s\n", $$1, $$2}' Makefile

$(STAMP): $(REQUIREMENTS) $(filter .uv/bin/uv,$(UV))
	@test -x $(PY) || $(UV) venv --python '$(PYTHON)' .venv
	$(UV) pip install --python $(PY) --editable '.[dev]'
	@touch $@

.uv/bin/uv:
	@command -v python3 >/dev/null || { echo "Python 3.10 or newer is needed, and there is no python3." >&2; exit 1; }
	@echo "Installing uv into .uv/ ..."
	@if python3 -m venv .uv >/dev/null 2>&1; then \
	  .uv/bin/python -m pip install --quiet --disable-pip-version-check uv; \
	else \
	  rm -rf .uv; python3 -m pip install --quiet --disable-pip-version-check --target .uv/lib uv \
	  && mkdir -p .uv/bin && ln -s ../lib/bin/uv .uv/bin/uv; \
	fi || { rm -rf .uv; \
	  echo "uv could not be installed. Either Python has neither venv nor pip (on Debian and Ubuntu:" >&2; \
	  echo "'sudo apt install python3-venv'), or the package index cannot be reached (see above)." >&2; exit 1; }

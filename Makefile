# One pinned environment, three jobs. `make` alone lists them.
# Another interpreter: `make test PYTHON=python3.12`. Nothing is written outside this folder.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ROOMS := physics architectures platform tune serve
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

# One stamp a Python version, so that a change of interpreter is noticed too.
PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
READY := $(VENV)/.ready-$(PYTHON_VERSION)
PEERS := $(READY)-peers
SITE := $(READY)-docs
GPU_PYTHON ?= 3.12
GPU_WHEELS := build/gpu-wheels

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow kills docs bench gpu-wheels lint types clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv and install the pinned environment (the other targets do it by themselves)

demo: $(READY) ## the whole product on small input: generate, train, sweep, scale, evaluate, serve
	$(BIN)/python -m neural_hamilton.platform demo

test slow kills: export RAY_AUTH_MODE := disabled
test slow kills: export RAY_USAGE_STATS_ENABLED := 0
test: lint types ## lint, type check, then every test but the slow ones
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

slow: $(READY) ## the slow tests: processes and nodes killed again and again, intervals over hundreds of studies (a quarter of an hour)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m slow

kills: $(READY) ## machines, drivers and workers lost a hundred times on simulated machines: Linux, as root (an hour)
	$(BIN)/python -m pytest -m kills --verbose

docs: $(SITE) ## the documentation site in build/site, after updating its generated tables
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/prepare.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site: build/site/index.html"

bench: $(PEERS) ## side-by-side benchmarks against peers
	$(BIN)/python -m benchmarks

# For another machine than this one: Python $(GPU_PYTHON), Linux on x86-64, unpacked so that PYTHONPATH is all it needs.
gpu-wheels: $(READY) ## what `python -m benchmarks.gpu` needs on a bare machine without a network, in build/gpu-wheels
	rm -rf $(GPU_WHEELS)
	$(PIP) install --target $(GPU_WHEELS) --no-deps --no-compile --only-binary=:all: --python-version $(GPU_PYTHON) --implementation cp \
	  --platform manylinux_2_17_x86_64 --constraint constraints.txt --requirement benchmarks/gpu/requirements.txt
	@du -sh $(GPU_WHEELS)

lint: $(READY) ## ruff: rules and layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## basedpyright
	$(BIN)/basedpyright

clean: ## remove the environment, build outputs and caches; keeps runs/ and data/
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .hypothesis .ruff_cache
	find $(ROOMS) tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and alone: its wheels may live on an index of their own.
$(READY): constraints.txt pyproject.toml
	@case "$(PYTHON_VERSION)" in 3.11|3.12|3.13) ;; *) \
	  echo "PYTHON=$(PYTHON) is Python '$(PYTHON_VERSION)'; Python 3.11, 3.12 or 3.13 is needed" >&2; exit 2;; esac
	@[ "$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$(PYTHON_VERSION)" ] \
	  || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing the pinned environment in $(VENV) (Python $(PYTHON_VERSION)); a few minutes the first time."
	$(PIP) install $$(grep '^torch==' constraints.txt)
	$(PIP) install --constraint constraints.txt setuptools
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[test,dev]'
	@touch $@

# What the benchmarks compare with, jax among it, is installed only when it is asked for.
$(PEERS): $(READY)
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[bench]'
	@touch $@

$(SITE): $(READY)
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[docs]'
	@touch $@

# Everything a developer types. `make` alone lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help venv check test test-fast demo control-plane bench format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## the project's own virtual environment, from locked and hashed packages

$(STAMP): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, %s is %s; name another: make PYTHON=python3.12" % (sys.executable, sys.version.split()[0]) if sys.version_info < (3, 11) else 0)'
	@echo "Setting up $(VENV): about 50 packages from requirements/dev.txt, checked against their hashes (20 s to 1 min, once)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

check: $(STAMP) ## format, lint, types, import contracts and the tests that need no server
	@$(BIN)/ruff format --check --quiet . || { echo "Some files are not formatted: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo | tail -n 3
	@$(MAKE) --no-print-directory test-fast

test-fast: $(STAMP)
	@$(BIN)/python -m pytest -q -m "not cluster and not registries"

test: check control-plane ## all checks and all tests, on a real control plane and real registries
	@$(BIN)/python -m pytest -q -m "cluster or registries"

control-plane: $(STAMP) ## build what tests and demo run on: Kubernetes, etcd, kwok, a registry (about 9 min on 2 cores, once)
	@$(BIN)/python -m dev.binaries

demo: control-plane ## from a manifest to a rollout on this machine, in under a minute; KEEP=1 leaves it running
	@$(BIN)/python -m dev.demo $(if $(KEEP),--keep)

bench: control-plane ## measured ratios to floors: how fast commands start, what a webhook adds
	@$(BIN)/python -m bench.cli_start
	@$(BIN)/python -m bench.admission

format: $(STAMP) ## put the code into its format
	@$(BIN)/ruff format --quiet . && $(BIN)/ruff check --quiet --fix .

lock: $(STAMP) ## resolve the dependencies anew, with hashes for every platform
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml -o requirements/run.txt --upgrade
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml --group dev -o requirements/dev.txt --upgrade

clean: ## remove what was made in this folder (the built control plane stays in the user's cache)
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

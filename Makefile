# Kinora: `make demo` runs the main job, `make test` the tests; both set everything up on first use.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
STAMP := $(VENV)/.installed
export OMP_WAIT_POLICY := passive

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-long check format lock clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(STAMP) ## make .venv and install the exact versions of requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $(STAMP)

demo: $(STAMP) ## footage to a promoted text-to-video model, on the synthetic world
	$(BIN)/kinora run

test: $(STAMP) ## the fast tests, one whole run on profile `test` among them
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not long and not gpu"

test-slow: $(STAMP) ## real kills of whole runs, real servers, a challenger beside a champion
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations 15 --durations-min 10 -m "slow and not long and not gpu"

test-long: $(STAMP) ## rarer failures of workers, much real footage
	$(BIN)/python -m pytest -m "long and not gpu"

check: $(STAMP) ## format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## resolve requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile --universal --quiet --no-header --no-annotate --extra dev --python-version 3.11 pyproject.toml -o requirements.lock

clean: ## remove the environment and all runs
	rm -rf $(VENV) runs

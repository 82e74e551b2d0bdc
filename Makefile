# Everything from a fresh clone: `make demo` and `make test` set up what they need first.
# PYTHON=/path/to/python3.12 chooses the interpreter (3.11 or newer, with headers).

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

ROOT := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
VENV := $(ROOT)/.venv
STAMP := $(VENV)/.set-up
# Tools of the environment (ninja, deepspeed) are looked up on the PATH by the libraries that start them.
export PATH := $(VENV)/bin:$(PATH)
IN_ROOT := cd '$(ROOT)' &&
PYTEST_ARGS ?=

.PHONY: help setup test test-slow test-deploy test-gpu demo check format bench lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' '$(ROOT)/Makefile'

setup: $(STAMP) ## create .venv with everything pinned in requirements*.txt

$(STAMP): $(ROOT)/requirements.txt $(ROOT)/requirements-dev.txt $(ROOT)/pyproject.toml
	@$(IN_ROOT) PYTHON='$(PYTHON)' bash tools/setup.sh '$(VENV)'
	@touch $@

demo: $(STAMP) ## train, publish, serve and ask two models; ends with a table
	@$(IN_ROOT) dlhpc demo

test: $(STAMP) ## the tests (under 15 minutes on two cores)
	$(IN_ROOT) python -m pytest $(PYTEST_ARGS)

test-slow: $(STAMP) ## long trainings, soak and overload
	$(IN_ROOT) python -m pytest -m slow $(PYTEST_ARGS)

test-deploy: $(STAMP) ## containers and servers of other makers
	$(IN_ROOT) python tools/environments.py object-stores azurite redis
	$(IN_ROOT) python -m pytest -m deploy $(PYTEST_ARGS)

test-gpu: $(STAMP) ## what needs an accelerator
	$(IN_ROOT) python -m pytest -m gpu $(PYTEST_ARGS)

check: $(STAMP) ## lint, formatting, types, pinned requirements
	$(IN_ROOT) ruff check .
	$(IN_ROOT) ruff format --check .
	$(IN_ROOT) mypy
	$(IN_ROOT) python tools/lock.py --check

format: $(STAMP) ## let ruff format and fix what it can
	$(IN_ROOT) ruff format .
	$(IN_ROOT) ruff check --fix .

bench: $(STAMP) ## measure the training loop's overhead on this machine
	$(IN_ROOT) dlhpc bench

lock: $(STAMP) ## write requirements*.txt from what is installed
	$(IN_ROOT) python tools/lock.py

clean: ## remove caches, .venv, and what the demo made; runs/ and registry/ stay
	$(IN_ROOT) rm -rf .venv demo build dist htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	$(IN_ROOT) find src tests benchmarks tools -name __pycache__ -prune -exec rm -rf {} +

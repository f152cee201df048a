# One rule makes the environment; every other target only uses it.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

ifndef PYTHON
PYTHON := $(shell for p in python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done)
endif

.PHONY: help install demo test lint format bench notebooks clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(STAMP) ## make .venv from requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "torusformer needs Python 3.11 and finds none: install it, or say make PYTHON=/path/to/python3.11" >&2; exit 2; fi
	@echo "Installing requirements.lock into $(VENV); the first time takes about 4 minutes and 6 GB."
	@"$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
	@echo "Installed."

demo: $(STAMP) ## train, compile and answer three encrypted digits; leaves runs/digits
	@$(BIN)/torusformer demo digits --preset digits-small --out runs/digits

test: lint ## lint, types and every test, real encryption included
	$(BIN)/python -m pytest

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## measure it all, about an hour: benchmarks/results.md; ONLY=part,part or QUICK=1 for less
	@$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick)

notebooks: $(STAMP) ## run the notebooks again and store their outputs
	$(BIN)/jupyter execute --inplace notebooks/*.ipynb

clean: ## remove caches, not .venv and not runs
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

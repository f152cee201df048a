# One rule makes the environment; every other target only uses it.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
STAMP := $(VENV)/.installed
WORKERS ?= 2# of `make test`; each takes a core and about 3 GiB

ifndef PYTHON
PYTHON := $(shell for p in python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done)
endif

# The first line of the lock: what of pyproject.toml it was resolved from.
SOURCE = \# Resolved by `make lock` from the dependencies in pyproject.toml: sha256 $(shell "$(PYTHON)" -c \
	'import hashlib, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	declared = [p[key] for key in ("requires-python", "dependencies", "optional-dependencies")]; \
	print(hashlib.sha256(repr(declared).encode()).hexdigest())')

.PHONY: help install lock is-locked demo test lint format fuzz bench notebooks clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(STAMP) ## make .venv from requirements.lock

# The lock's uv, by its hash: with a uv that is already here, or else with pip. It does the rest.
$(UV):
	@if [ -z "$(PYTHON)" ]; then \
		echo "torusformer needs Python 3.11 and finds none: install it, or say make PYTHON=/path/to/python3.11" >&2; exit 2; fi
	@echo "Making $(VENV) with $$("$(PYTHON)" --version)."
	@"$(PYTHON)" -m venv $(VENV)
	@if uv --version >/dev/null 2>&1; then get="uv pip install --python $(BIN)/python"; \
		else get="$(BIN)/python -m pip install --quiet --disable-pip-version-check"; fi; \
		sed -n '/^uv==/,/[^\\]$$/p' requirements.lock | $$get --quiet --no-deps --require-hashes -r /dev/stdin

$(STAMP): requirements.lock pyproject.toml | $(UV)
	@$(MAKE) --no-print-directory --silent is-locked 2>/dev/null || { \
		echo "The dependencies in pyproject.toml have changed since requirements.lock was resolved."; \
		if [ -n "$$CI" ]; then echo "Run make lock and commit requirements.lock." >&2; exit 2; fi; \
		$(MAKE) --no-print-directory lock; }
	@echo "Installing requirements.lock into $(VENV): 6 GB, the first time one to two minutes."
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@
	@echo "Installed."

lock: $(UV) ## resolve requirements.lock again; what is pinned there stays, UPGRADE=1 takes newer releases
	@echo "Resolving the dependencies in pyproject.toml."
	@$(UV) pip compile pyproject.toml --extra dev --quiet --python $(BIN)/python \
		--python-platform x86_64-manylinux_2_28 --generate-hashes --no-header \
		$(if $(UPGRADE),--upgrade) --output-file requirements.lock >/dev/null || { \
		echo "requirements.lock is as it was: mend pyproject.toml, or try again with a network." >&2; exit 2; }
	@sed -i '1i $(SOURCE)' requirements.lock
	@echo "Resolved: run make test, commit pyproject.toml and requirements.lock."

is-locked:
	@grep -qxF '$(SOURCE)' requirements.lock

demo: $(STAMP) ## train, compile and answer three encrypted digits; leaves runs/digits
	@$(BIN)/torusformer demo digits --preset digits-small --out runs/digits

test: lint ## lint, types and every test, real encryption included
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: $(STAMP) ## 20,000 hostile files and messages; CASES=n, KIND=name, SEED=n
	@$(BIN)/python -m tests.fuzz --cases $(or $(CASES),20000) --seed $(or $(SEED),0) $(if $(KIND),--kind $(KIND))

bench: $(STAMP) ## measure it all, about an hour: benchmarks/results.md; ONLY=part,part or QUICK=1 for less, DATA=names.txt for `names`, DATA=usps.npz for `usps`, DATA=folder for `sentences`
	@$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick) $(if $(DATA),--data $(DATA))

notebooks: $(STAMP) ## run the notebooks again and store their outputs
	$(BIN)/jupyter execute --inplace notebooks/*.ipynb

clean: ## remove caches, not .venv and not runs
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

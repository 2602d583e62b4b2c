# Every target sets up .venv first; all that is needed beforehand is Python (3.11 or newer) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SEED ?= 0
JOBS ?= 2

.PHONY: demo test lint format bench clean help

help:  ## Show the targets.
	@grep -hE '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 10

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

demo: $(READY)  ## Learn to swing up a MuJoCo cartpole from nothing (SEED=0).
	$(BIN)/mbrl demo --seed $(SEED)

test: $(READY)  ## Run the tests, in JOBS=2 processes.
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

lint: $(READY)  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## Rewrite the files in the project's style.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## Run the benchmarks that fit two CPU cores.
	$(BIN)/python -m benchmarks

clean:  ## Remove what the other targets made.
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

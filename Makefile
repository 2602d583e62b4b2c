# Every target sets up .venv first; all that is needed beforehand is Python (3.11 or newer) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SEED ?= 0
JOBS ?= 2
RUNS ?= runs
OUT ?= comparison

.PHONY: demo test test-slow lint format bench compare-smoke compare-small clean help

help:  ## Show the targets.
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 15

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

demo: $(READY)  ## Learn to swing up a MuJoCo cartpole from nothing (SEED=0).
	$(BIN)/mbrl demo --seed $(SEED)

test: $(READY)  ## Run the tests, in JOBS=2 processes, but for the slow ones.
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile -m "not slow"

test-slow: $(READY)  ## Run the slow tests, with Ray: tens of minutes.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,ray]"
	$(BIN)/python -m pytest -m slow

lint: $(READY)  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## Rewrite the files in the project's style.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## Run the benchmarks that fit two CPU cores.
	$(BIN)/python -m benchmarks

compare-smoke: $(READY)  ## Compare four algorithms on tiny budgets, in minutes (JOBS=2, RUNS=runs, OUT=comparison).
	$(BIN)/mbrl compare --study smoke --root $(RUNS) --out $(OUT)/smoke --jobs $(JOBS) --oracle-episodes 1

compare-small: $(READY)  ## Compare six algorithms on four tasks: hours, it can be stopped (JOBS=2, RUNS=runs, OUT=comparison).
	$(BIN)/mbrl compare --study small --root $(RUNS) --out $(OUT)/small --jobs $(JOBS) --oracle-episodes 2

clean:  ## Remove what the other targets made.
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

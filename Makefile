# Two commands do everything on a fresh machine: `make train` and `make test`.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test test-slow lint types clean

train: .venv/installed
	$(BIN)/python train.py configs/quickstart.yaml

test: .venv/installed-dev lint types
	$(BIN)/python -m pytest -n auto

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-dev
	$(BIN)/mypy

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed; name one with PYTHON="'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

# make quickstart, make test: everything else is made on the way, in .venv
PYTHON ?= python3
VENV ?= .venv
# installed before the package, so that the version is this one; TORCH= takes another, e.g. a CPU or CUDA build by its version label
TORCH ?= torch==2.13.0

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTABLE := $(VENV)/.testable

.PHONY: help install quickstart test lint types clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart  install into $(VENV), make a dataset, train and evaluate DAMO on it"
	@echo "make test        install what the tests need and run them"
	@echo "make lint        ruff; make types: mypy"
	@echo "make install     only install; PYTHON=python3.12, VENV=folder and TORCH=version override the choices"
	@echo "make clean       remove $(VENV), builds and caches (not log/ and quickstart/)"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "error: Python 3.10 or newer is needed, this is " + sys.version.split()[0] + "; give one with PYTHON=")'
	@$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip --version > /dev/null || { rm -rf $(VENV); echo "error: '$(PYTHON) -m venv' failed; on Debian or Ubuntu install python3-venv" >&2; exit 1; }

# the stamps make a second call quick; a changed setup.py or pyproject.toml installs again
$(INSTALLED): setup.py pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(TESTABLE): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	@touch $@

install: $(INSTALLED)

quickstart: $(INSTALLED)
	$(BIN)/python run_example/quickstart.py

test: $(TESTABLE)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(TESTABLE)
	$(BIN)/ruff check .

types: $(TESTABLE)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

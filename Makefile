# make quickstart   the whole pipeline on a CPU, in minutes       make test    the tests
# make install      only .venv and the packages                  make lint    ruff
# make config       config.json and docs/configuration.md anew   make clean   what the quickstart made, and .venv
#
# PYTHON       the Python that makes .venv, 3.11 or newer:    make quickstart PYTHON=python3.12
# TORCH_INDEX  index of PyTorch's CPU build, as PyTorch's own install page names it (several GB less to download)

PYTHON ?= python3
TORCH_INDEX ?=
TEST_WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet
INSTALLED := $(VENV)/.installed

.PHONY: help quickstart test test-slow lint config install clean

help:
	@sed -n '/^#/!q; s/^# //p' Makefile

quickstart: $(INSTALLED)
	@$(BIN)/python main.py quickstart

# One thread a worker: two workers with all threads each get in each other's way.
test: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_WORKERS)

test-slow: $(INSTALLED)
	@$(BIN)/python -m pytest -q -m slow

lint: $(INSTALLED)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

config: $(INSTALLED)
	@$(BIN)/python -m pipeline.configuration_docs

install: $(INSTALLED)

$(INSTALLED): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is missing or older than Python 3.11; run: make $(firstword $(MAKECMDGOALS) install) PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing into $(VENV), once; this takes a few minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) "$$(grep -o '^torch==[0-9.]*' requirements.txt)")
	@$(PIP) -r requirements-dev.txt
	@touch $@

clean:
	rm -rf quickstart $(VENV)

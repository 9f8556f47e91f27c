# make quickstart    the whole pipeline on a CPU, in minutes
# make test          the tests; also: test-slow (against other programs), test-faults (every file operation fails once)
# make mutants       mutation testing: 300 random one-token changes
# make lint          ruff and mypy
# make docs          the documentation site, into site/
# make config        rewrite config.json and docs/configuration.md
# make install       create .venv and install the packages
# make clean         remove quickstart output, the site, and .venv
#
# PYTHON       the Python for .venv, 3.11 or newer:    make quickstart PYTHON=python3.12
# TORCH_INDEX  index URL of PyTorch's CPU build, from PyTorch's install page (saves several GB of downloads)

PYTHON ?= python3
TORCH_INDEX ?=
TEST_WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet
INSTALLED := $(VENV)/.installed
DOCS_INSTALLED := $(VENV)/.docs-installed
SLOW_INSTALLED := $(VENV)/.slow-installed

.PHONY: help quickstart test test-slow test-faults lint docs mutants config install clean

help:
	@sed -n '/^#/!q; s/^# //p' Makefile

quickstart: $(INSTALLED)
	@$(BIN)/python main.py quickstart

# One thread per worker, because two workers with all threads would slow each other down.
test: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist worksteal

# LLM_REAL_DATA is a folder with real text; without it, or without Chromium, pytest skips some tests.
test-slow: $(SLOW_INSTALLED)
	@$(BIN)/python -m pytest -q -rs -m slow --timeout=1800

test-faults: $(INSTALLED)
	@$(BIN)/python -m tests.faults

lint: $(INSTALLED)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

docs: $(INSTALLED) $(DOCS_INSTALLED)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet && echo "the documentation is in site/index.html"

mutants: $(INSTALLED)
	@$(BIN)/python -m checks.mutants

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

$(DOCS_INSTALLED): requirements-docs.txt $(INSTALLED)
	@$(PIP) -r requirements-docs.txt
	@touch $@

$(SLOW_INSTALLED): requirements-slow.txt $(INSTALLED)
	@echo "Installing what the slow tests need, once; llama.cpp is compiled, which takes several minutes"
	@$(PIP) -r requirements-slow.txt
	@touch $@

clean:
	rm -rf quickstart site $(VENV)

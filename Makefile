# `make demo` and `make test` work on a machine that has Python 3.11 or newer and make, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := $(or $(DEMO),runs/demo-$(shell date -u +%Y%m%d-%H%M%S))

.PHONY: help demo test test-numeric test-matrix test-faults test-slow test-browser lint lock clean

help:
	@echo "make demo       meta-train a small learned optimizer and evaluate it at 4 to 16 times the width"
	@echo "make test       run the tests"
	@echo "make test-numeric  run a fixed set of tests of numbers, compiled as for users; minutes"
	@echo "make test-matrix  run the tests on each Python in PYTHONS that is installed"
	@echo "make test-faults  run the tests that kill processes of whole runs"
	@echo "make test-slow  run the tests that take minutes each, and those of numbers as users compile"
	@echo "make test-browser  run the tests of the report in Chromium (needs chromium)"
	@echo "make lint       run ruff"
	@echo "make clean      remove $(VENV)"

$(READY): requirements.lock setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mulo needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

# Half the meta-steps of the preset, so that training and evaluation take seven minutes on two slow cores.
demo: $(READY)
	$(BIN)/mulo-meta-train --preset quick --meta-steps 1000 --seed 0 --out $(DEMO)
	$(BIN)/mulo-eval --suite wide --optimizer $(DEMO) --num-steps 200 --out $(DEMO)/wide

test: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

# A fixed, small set, compiled as for users: recordings of the references, the estimators' statistics, jit
# against op by op, numbers of threads. All others of that kind are in test-slow.
test-numeric: $(READY)
	XLA_FLAGS= $(BIN)/python -m pytest -m numeric --numprocesses 2 --dist worksteal

# Each Python in its own folder, $(VENV)-3.12 and so on, with the versions that requirements.lock has for it.
# One that is not installed is left out, and said; at the end a line for each.
PYTHONS ?= 3.11 3.12 3.13
MATRIX_TARGET ?= test
test-matrix:
	@PYTHONS="$(PYTHONS)" VENV="$(VENV)" MAKE="$(MAKE)" tests/matrix.sh $(MATRIX_TARGET)

# The tests marked fault: whole runs and clusters whose processes are killed, compiled as for users.
test-faults: $(READY)
	XLA_FLAGS= $(BIN)/python -m pytest -m fault

# The tests marked slow, and those marked optimized once more, compiled as for users: see tests/conftest.py.
test-slow: $(READY)
	XLA_FLAGS= $(BIN)/python -m pytest -m 'slow or optimized'

# The tests marked browser, which need Debian's chromium or another one: CHROMIUM=path.
test-browser: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'playwright>=1.50'
	$(BIN)/python -m pytest -m browser

lint: $(READY)
	$(BIN)/ruff check .

# Exact versions for every supported Python, from the ranges in setup.cfg, and the SHA-256 of every file that
# pip may take: what is installed is what was locked, wherever it is fetched from.
lock: $(READY)
	{ head -1 requirements.lock; $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-package mulo --no-header --no-annotate --no-emit-index-url --no-emit-find-links requirements.in; \
	  } > requirements.new
	mv requirements.new requirements.lock

clean:
	rm -rf $(VENV)

# `make demo` and `make test` need Python 3.11 or later and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet
CODE := medseg tests $(wildcard benchmarks docs/examples)
TEXT := $(CODE) $(wildcard docs pipelines *.md Makefile)

# Tests run in as many processes as there are cores, with one thread each.
IN_PROCESSES := --numprocesses=auto --dist=loadgroup --no-loadscope-reorder
PYTEST_ARGS ?= $(IN_PROCESSES)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help demo test tests bundle coverage environments lint format constraints clean

help:
	@echo "make demo         train, segment and score on built-in phantoms"
	@echo "make test         lint, then all tests"
	@echo "                  (some of them: make test PYTEST_ARGS=\"-k geometry\"; other draws: --seed 7)"
	@echo "make bundle       the test of bundles in an environment of MONAI alone, which is made first"
	@echo "make coverage     all tests, and which lines and branches they reach; takes twice as long"
	@echo "make lint         ruff, mypy, import-linter, codespell"
	@echo "make format       let ruff correct what it can"
	@echo "make constraints  pin the newest versions that pyproject.toml allows"
	@echo "make clean        remove what the others made, the virtual environment included"

demo: $(VENV)/.installed-report
	$(BIN)/medseg demo --out demo

test: lint tests

tests: $(VENV)/.installed-test
	$(PYTEST) $(PYTEST_ARGS)

bundle: $(VENV)/.installed-test $(VENV)-monai/.installed
	MEDSEG_BUNDLE_PYTHON=$(CURDIR)/$(VENV)-monai/bin/python $(PYTEST) tests/integration/bundle -k monai_alone

environments: $(VENV)/.installed-test $(VENV)-monai/.installed

coverage: $(VENV)/.installed-test
	$(PYTEST) $(IN_PROCESSES) --cov=medseg --cov-report=term --cov-fail-under=90

lint: $(VENV)/.installed-test
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell $(TEXT)

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-report: $(BIN)/python pyproject.toml constraints.txt
	$(PIP_INSTALL) -c constraints.txt -e '.[report]'
	@touch $@

$(VENV)/.installed-test: $(BIN)/python pyproject.toml constraints.txt
	$(PIP_INSTALL) -c constraints.txt -e '.[all,test]'
	@touch $@

# What a bundle says that it needs, and what MONAI's verify_metadata takes.
$(VENV)-monai/.installed: constraints.txt
	$(PYTHON) -m venv $(VENV)-monai
	$(VENV)-monai/bin/python -m pip install --quiet -c constraints.txt monai torch nibabel pytorch-ignite fire PyYAML jsonschema
	@touch $@

# PyTorch alone stays as it is: its version is a decision.
constraints:
	rm -rf $(VENV)-newest
	$(PYTHON) -m venv $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --quiet $$(grep '^torch==' constraints.txt) -e '.[all,test]'
	grep '^#' constraints.txt > constraints.new
	$(VENV)-newest/bin/python -m pip freeze --all --exclude-editable --exclude pip | sed 's/+.*//' >> constraints.new
	mv constraints.new constraints.txt
	rm -rf $(VENV)-newest

clean:
	rm -rf $(VENV) $(VENV)-monai demo build dist .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find $(CODE) -name __pycache__ -prune -exec rm -rf {} +

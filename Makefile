# Two commands on a fresh machine: `make demo` and `make test`. Both do all their own set-up and may be run again.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed
TORCH ?= torch==2.13.0
export OMP_WAIT_POLICY = PASSIVE
export HF_HUB_OFFLINE = 1

.PHONY: help setup demo test lint types unit coverage docs benchmark clean

help:
	@echo "make demo       judge a healthy model and the founding incident; writes demo-out/"
	@echo "make test       lint, types and tests, as CI runs them"
	@echo "make coverage   the tests again, and which lines they run"
	@echo "make docs       the documentation site, strict; writes site/"
	@echo "make benchmark  figures of benchmarks/"

setup: $(INSTALLED)

# torch comes first and by its exact version: a later resolver would otherwise fetch a CUDA build.
$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/python -m tools.demo --out demo-out

test: lint types unit

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

unit: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Not part of `make test`: the tracer adds 60 % to the time of the tests.
coverage: $(INSTALLED)
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -n 2 --dist loadfile
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --fail-under=90

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

benchmark: $(INSTALLED)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/tensors.py --runs 3
	$(BIN)/python benchmarks/checkpoints.py --runs 3
	$(BIN)/python benchmarks/baselines.py --gigabytes 0.6
	$(BIN)/python benchmarks/trace.py --rounds 3

clean:
	rm -rf $(VENV) demo-out site .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*

# `make demo` runs the quickstart, `make test` the tests; both install what they need into .venv first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
WORKSPACE ?= .tuneflow
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo test check format bench clean

help:
	@echo "make demo     install, then fine-tune, evaluate and release a small model of our own"
	@echo "make test     install, then run every test"
	@echo "make install  make .venv with the locked versions"
	@echo "make check    ruff, mypy, import rules"
	@echo "make format   ruff format"
	@echo "make bench    where the demo's seconds go"

install: $(VENV)/installed-dev

# One lock for every machine: pip takes torch's CUDA build, or a CPU build where one is at hand.
$(VENV)/installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c requirements.lock -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c requirements.lock -e ".[dev]"
	@touch $@

demo: $(VENV)/installed
	$(BIN)/tuneflow run examples/quickstart.yaml --workspace $(WORKSPACE)

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/installed
	$(BIN)/python benchmarks/quickstart.py

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache

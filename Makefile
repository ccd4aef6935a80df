.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
PHANTOM ?= phantom/venv
# Tests of training that look at no number that a kernel computes.
ON_PHANTOM := checkpoint determinism discriminator environment evaluate graph loop own_network pipeline precision \
	run seeds selection trainer

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,docs,slurm]'
	mkdir -p .venv/src && ln -sfn ../.. .venv/src/ablate
	touch $@

help: ## Print this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-10s %s\n", $$1, $$2}'

install: .venv/installed ## Set up .venv with everything the tests need

demo: .venv/installed ## Run the demo study and print its report
	$(BIN)/ablate run --grid bidirectional,decoder4x,crossband
	$(BIN)/ablate report

quick: .venv/installed ## Run the fast tests
	$(BIN)/pytest -n auto --dist loadfile -m 'not slow'

test: .venv/installed ## Run every test
	$(BIN)/pytest -n auto --dist loadfile

lint: .venv/installed ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed ## Build the pages into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

pictures: demo ## Take the README's pictures of that (needs chromium)
	$(BIN)/python benchmarks/pictures.py

findings: .venv/installed ## Write docs/findings from the stored scores
	$(BIN)/python benchmarks/findings.py

gpu: ## Prove on this machine's GPU what the tests cannot prove without one
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -P benchmarks/gpu.py --json gpu.json

$(PHANTOM)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(PHANTOM)
	mkdir -p phantom
	grep -v -E '^(torch|triton)==' constraints.txt >phantom/constraints.txt
	$(PHANTOM)/bin/pip install -q torch==2.14.1
	$(PHANTOM)/bin/pip install -q -c phantom/constraints.txt -e '.[dev]'
	touch $@

phantom: $(PHANTOM)/installed ## Run the host's part of the CUDA path on a GPU that is not there
	tests/phantom/build.sh $(PHANTOM) phantom/build
	tests/phantom/run.sh $(PHANTOM) phantom/build -m pytest -q tests/phantom
	tests/phantom/run.sh $(PHANTOM) phantom/build -m pytest -q --device cuda -m 'not slow' $(ON_PHANTOM:%=tests/training/test_%.py)
	tests/phantom/run.sh $(PHANTOM) phantom/build tests/phantom/launches.py

.PHONY: help install demo quick test lint docs pictures findings gpu phantom

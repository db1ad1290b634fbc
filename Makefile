# Two commands matter: `make demo` and `make test`. Everything runs inside .venv, which the first of them makes.

PYTHON ?= python3
BIN := .venv/bin
# One core is the data loader's: threads that wait for each other on a core they share make a step several times slower.
THREADS := $(shell $(PYTHON) -c "import os; print(max(1, os.cpu_count() - 1))")
EXTRAS := parse,captions,eval,peft,demo,dev

.DEFAULT_GOAL := help
.PHONY: help install demo test check bench clean

help:  ## Say what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/make \1	\2/' | expand -t 16

install: .venv/installed  ## Make .venv with the exact versions of constraints.txt

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	@touch $@

data/scenes/triplets/.noun_phrases: .venv/installed
	$(BIN)/python datasets_scripts/build_scenes.py --output data/scenes
	$(BIN)/python datasets_scripts/add_noun_phrases.py data/scenes/triplets
	@touch $@

demo: data/scenes/triplets/.noun_phrases  ## Build scenes, train ConText-CIR on them, measure it, draw what it does
	rm -rf runs/demo
	$(BIN)/accelerate launch --num_cpu_threads_per_process $(THREADS) train.py configs/scenes_tiny.yaml
	$(BIN)/python benchmark.py --retriever runs/demo --benchmark scenes --data-root data/scenes --split test \
		--baselines --output runs/demo/metrics.json
	$(BIN)/python visualize.py --run runs/demo --data-root data/scenes --split test
	@echo; echo "Look at runs/demo: README.md (the card), metrics.json, and the pictures in figures/"

test: .venv/installed  ## Run the tests
	$(BIN)/python -m pytest

check: .venv/installed  ## Lint, format and the dependency rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest tests/test_architecture.py

bench: .venv/installed  ## Measure speed and memory
	$(BIN)/python bench.py --output docs/results/bench.json

clean:  ## Remove what can be made again
	rm -rf .venv data runs

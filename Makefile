# Two commands matter: `make demo` and `make test`. Everything runs inside .venv, which the first of them makes.

PYTHON ?= python3
BIN := .venv/bin
# Training on a CPU: processes, not threads, share the work. Threads on one small batch mostly wait for each other.
# To accelerate, several processes are --multi_gpu, on CPUs too; its --cpu would silently start one.
CORES := $(shell $(PYTHON) -c "import os; print(os.cpu_count() or 1)")
PROCESSES := $(shell $(PYTHON) -c "print(max(n for n in (1, 2, 4) if n <= $(CORES)))")
EXTRAS := parse,captions,eval,peft,demo,serve,lance,postgres,heif,sentence-transformers,mteb,onnx,docs,dev
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(CORES) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install demo demo-full test test-fast faults check docs docs-serve bench wheel release clean

help:  ## Say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1	\2/' | expand -t 16

install: .venv/installed  ## Make .venv with the exact versions of constraints.txt

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	@touch $@

# Data that another version of the code wrote are built again.
data/scenes/triplets/.grounded: .venv/installed $(wildcard contextcir/scenes/*.py) datasets_scripts/build_scenes.py
	$(BIN)/contextcir data scenes --output data/scenes
	$(BIN)/contextcir phrases data/scenes/triplets
	$(BIN)/contextcir ground data/scenes/triplets --clip_name_or_path checkpoints/scenes-clip-tiny --encode_images_once
	@touch $@

demo: .venv/installed  ## See it: search with a model that ships, train one for minutes, compare (five minutes)
	@$(BIN)/python -m research.demo

demo-full: data/scenes/triplets/.grounded  ## Build scenes, train a model like the one that ships, measure it, draw what it does
	rm -rf runs/demo
	ACCELERATE_USE_CPU=true $(BIN)/accelerate launch $(if $(filter-out 1,$(PROCESSES)),--multi_gpu) \
		--num_processes $(PROCESSES) --num_cpu_threads_per_process 1 \
		--num_machines 1 --mixed_precision no --dynamo_backend no \
		train.py configs/scenes_tiny.yaml --per_device_train_batch_size $$((128 / $(PROCESSES)))
	$(BIN)/contextcir benchmark --retriever runs/demo --benchmark scenes --data_root data/scenes --split test \
		--baselines --output runs/demo/metrics.json
	$(BIN)/contextcir visualize --run runs/demo --benchmark scenes --data_root data/scenes --split test
	@echo; echo "Look at runs/demo: README.md (the card), metrics.json, and the pictures in figures/"

test: .venv/installed  ## Run all tests
	$(PYTEST)

test-fast: .venv/installed  ## Run all tests but the slow ones
	$(PYTEST) -m "not slow"

faults: .venv/installed  ## Run the tests of what is promised when something goes wrong
	$(PYTEST) -m fault

check: .venv/installed  ## Lint, format, types and the dependency rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

# Not --quiet: it drops the warnings that are to end a strict build.
MKDOCS := NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/python -m mkdocs

docs: .venv/installed  ## Build the documentation site into site/: a dead link or reference is an error
	$(MKDOCS) build --strict

docs-serve: .venv/installed  ## Show the site on this machine, as you write it
	$(MKDOCS) serve

runs/demo/model.safetensors:
	$(MAKE) demo-full

bench: data/scenes/triplets/.grounded runs/demo/model.safetensors  ## Measure speed and memory
	$(BIN)/python -m research.bench.models --parts contextcir search ranking --output docs/results/bench.json
	$(BIN)/python -m research.bench.models --parts instructcir --output docs/results/bench_instructcir.json
	$(BIN)/python -m research.bench.data --output docs/results/bench_data.json
	$(BIN)/python -m research.bench.grad_cache --output docs/results/bench_grad_cache.json
	$(BIN)/python -m research.bench.training_steps --output docs/results/bench_training_steps.json
	$(BIN)/python -m research.bench.streams --output docs/results/bench_streams.json
	$(BIN)/python -m research.bench.galleries --output docs/results/bench_galleries.json
	$(BIN)/python -m research.bench.engines --output docs/results/bench_engines.json \
		--figure docs/figures/recall_by_latency.png
	$(BIN)/contextcir index data/scenes --config gallery --split test --model runs/demo --output runs/scenes-gallery
	$(BIN)/python -m research.bench.serve_load runs/scenes-gallery --output docs/results/bench_serve.json
	$(BIN)/python -m research.bench.onnx_speed --model runs/demo --data_root data/scenes --output docs/results/bench_onnx.json
	$(BIN)/python -m research.bench.captions --output docs/results/bench_captions.json
	$(BIN)/python -m research.bench.imagescope --figure docs/figures/imagescope_errors.png
	$(BIN)/python -m research.bench.imagescope_speed --split test --latency 0.4

wheel: .venv/installed  ## Build dist/*.whl
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

release: .venv/installed  ## Build and check what a release consists of, into dist/; RELEASE="--url ... --tour_on ..."
	$(BIN)/python -m research.release $(RELEASE)

clean:  ## Remove what install and demo have made
	rm -rf .venv dist site data/scenes data/scenes_short runs/demo runs/demo-short runs/tour

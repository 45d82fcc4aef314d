# `make` lists the targets. Everything runs from .venv, which the first target that needs it makes.

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed

# Workers import after the fork: without bytecode each of them would compile everything again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install run test long check style types bench etcdctl clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

install: $(INSTALLED) ## make .venv and install everything from PyPI (PYTHON=python3.12 chooses another Python)

run: $(INSTALLED) ## start the gateway with an etcd, an upstream and a route to look at; Ctrl-C ends it
	@$(VENV)/bin/python -m conf.demo.run

test: $(INSTALLED) ## run the tests (ARGS="-k watch" chooses)
	@$(VENV)/bin/pytest -n 2 --dist worksteal $(ARGS)

long: $(INSTALLED) ## the tests that take minutes: two hundred reloads under load
	@PROPYLON_LONG_TESTS=1 $(VENV)/bin/pytest tests/integration/reloads -k two_hundred $(ARGS)

check: style types ## style and types

style: $(INSTALLED) ## ruff: rules and format
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check

types: $(INSTALLED) ## mypy --strict
	@$(VENV)/bin/mypy

bench: $(INSTALLED) ## measure against nginx and HAProxy (ARGS=--quick; needs wrk, nginx, haproxy)
	@$(VENV)/bin/python -m benchmarks.load $(ARGS)

etcdctl: export PROPYLON_ARGS = $(value ARGS)
etcdctl: $(INSTALLED) ## etcdctl on the gateway's etcd: make etcdctl ARGS='put /apisix/routes/1 {"uri": "/x"}'
	@$(VENV)/bin/python -m conf.demo.etcdctl

clean: ## remove .venv, caches and the runtime directory, the demo's routes with it
	rm -rf $(VENV) build run *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# SPDX-License-Identifier: GPL-3.0-or-later
# Each target prepares what it needs on a bare Debian or Ubuntu. All that is generated lives in .build/.

VENV := .build/venv/bin
# Real worker processes that wait for their time limits: not what one wants to wait for after each line.
# Some of their tests look at the clock, so nothing that computes runs beside them.
WAITING := tests/runtime/node/test_worker_process.py
# Test classes side by side, each lane with a SLURM of its own: they mostly wait.
LANES ?= 4
RELEASE ?= forky
# What demo, tests and linters need of Ansible's settings; nothing is asked of the user's own configuration.
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/.build/collections
export ANSIBLE_LOCALHOST_WARNING := false
export ANSIBLE_INVENTORY_UNPARSED_WARNING := false
export ANSIBLE_DEPRECATION_WARNINGS := false

.PHONY: help demo demo-server demo-clean test test-unit test-worker test-integration test-slurm test-in test-tasks test-fractal-server test-fractal-servers test-golden test-oldest fuzz molecule molecule-all lint hooks sanity bench docs release

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 26

demo: ## a plate of images, measured on a real SLURM as two different users
	@tools/bootstrap run
	@tools/as-root tools/demo

demo-server: ## a real fractal-server: a plate by its own runner, with the hook and on the engine
	@tools/bootstrap run
	@tools/as-root tools/demo-server

demo-clean: ## take away all that the demos made
	@tools/bootstrap run
	@tools/as-root tools/demo --clean

test: test-unit test-worker test-integration ## all tests

test-unit: ## the tests that need no SLURM
	@tools/bootstrap
	$(VENV)/python -m pytest -q -n 2 --cov --cov-config tools/coverage.ini --cov-report json:.build/coverage.json \
	    tests/runtime tests/unit tests/project examples benchmarks --ignore $(WAITING)
	@$(VENV)/python tools/coverage .build/coverage.json

test-worker: ## real worker processes, without a SLURM around them
	@tools/bootstrap
	$(VENV)/python -m pytest -q -n 2 $(WAITING)

test-integration: ## the tests on a real SLURM of their own
	@tools/bootstrap
	tools/as-root $(VENV)/python -m pytest -q -n $(LANES) --dist loadscope tests/slurm tests/collection

test-slurm: ## those of them that need a SLURM, without Ansible
	@tools/bootstrap
	tools/as-root $(VENV)/python -m pytest -q -n $(LANES) --dist loadscope tests/slurm

test-in: ## the demo and the tests in another release: make test-in RELEASE=forky
	tools/as-root tools/test-in $(RELEASE)

test-tasks: ## real Fractal tasks, in new processes and in forks
	tools/test-tasks

test-fractal-server: ## fractal-server's own tests on the engine: CHECKOUT=DIR of its repository, PYTHON=... for it
	@tools/bootstrap run
	tools/as-root tools/test-fractal-server $(or $(CHECKOUT),$(error CHECKOUT is missing: a checkout of fractal-server))

test-fractal-servers: ## the shape of each version of fractal-server that is supported, by its wheel: PYTHON=... for them
	tools/test-fractal-servers

test-golden: ## a real fractal-server: the same workflows on its own runner and on the engine, and a crash: PYTHON=... for it
	@tools/bootstrap
	tools/as-root $(VENV)/python -m pytest -q -rs tests/server

test-oldest: ## the collection on the oldest ansible-core that it allows
	@tools/bootstrap
	tools/as-root tools/test-oldest

fuzz: ## inputs that nobody thought of, SECONDS of them for each reader of others' texts
	@tools/bootstrap fuzz
	$(VENV)/python tests/fuzz --seconds $(or $(SECONDS),10)

molecule: ## the collection on clusters of containers
	tools/as-root tools/molecule --jobs 2 default cluster

molecule-all: ## every scenario, on Debian 12 and 13
	tools/as-root tools/molecule --jobs 2 --release bookworm --release trixie --all

lint: ## ruff, mypy, floors, changelog, yamllint, ansible-lint
	@tools/bootstrap
	tools/lint

hooks: ## the same checks at each commit, where their files change, and a check of its message
	@tools/bootstrap
	$(VENV)/pre-commit install

sanity: ## Ansible's own checks: ansible-test sanity and units
	@tools/bootstrap
	tools/ansible-test

bench: ## figures beside their peers'
	@tools/bootstrap
	tools/as-root $(VENV)/python -m benchmarks

docs: ## the documentation as pages, into .build/docs/html
	@tools/bootstrap docs
	tools/docs

release: ## make release VERSION=x.y.z: artifact and wheel, built and checked; DRY=1 keeps nothing
	@tools/bootstrap
	$(VENV)/python tools/release $(if $(DRY),--dry-run) '$(VERSION)'

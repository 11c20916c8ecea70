# Every program is run as `python -m`: a script's first line (#!) breaks in a path with a space.
# Every path is relative, for the same reason. The stamps in .venv make a second run install nothing.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --editable
TRAIN ?= examples/ppo.py --curve runs/CartPole-v1.png --require 475
ARGS ?=

.PHONY: help run run-ray test check bench train docs test-train test-ray clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

run: $(VENV)/.installed-cli  ## collect 50 rollouts from 16 CartPoles
	$(PY) -m vecsess collect --env CartPole-v1 -n 16 --workers auto --horizon 128 --rollouts 50 $(ARGS)

run-ray: $(VENV)/.installed-ray  ## collect on a local cluster of Ray, and kill a node in the middle
	$(PY) examples/many_machines.py $(ARGS)

test: check  ## style, types, layers, tests; those that train are skipped where torch is missing
	$(PY) -m pytest -n 2 --dist worksteal $(ARGS)

check: $(VENV)/.installed-dev  ## style, types, layers
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PY) -c 'from importlinter.cli import lint_imports_command as lint; lint()' --no-logo

bench: $(VENV)/.installed-bench  ## measure, beside other libraries
	$(PY) -m vecsess.bench $(ARGS)

train: $(VENV)/.installed-train  ## train PPO on CartPole-v1 to 475 (TRAIN='examples/ppo.py ...')
	$(PY) $(TRAIN) $(ARGS)

test-train: $(VENV)/.installed-dev $(VENV)/.installed-train  ## the tests that need torch
	$(PY) -m pytest -n 2 --dist worksteal tests/train $(ARGS)

test-ray: $(VENV)/.installed-dev $(VENV)/.installed-ray  ## the tests that need ray: one cluster, so one at a time
	$(PY) -m pytest tests/ray $(ARGS)

docs: $(VENV)/.installed-docs  ## the pages of docs/ and the API, in build/site
	$(PY) -m mkdocs build --strict --quiet $(ARGS)

clean:  ## remove what was built or cached; keeps .venv
	rm -rf build dist ./*.egg-info .coverage htmlcov .hypothesis
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "vecsess needs Python 3.11 or newer, and $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." \
	  % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed-cli: pyproject.toml | $(VENV)/.created
	@echo 'installing vecsess[cli] ...'
	$(INSTALL) '.[cli]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed-cli
	@echo 'installing vecsess[dev] ...'
	$(INSTALL) '.[dev]'
	@touch $@

$(VENV)/.installed-train: pyproject.toml $(VENV)/.installed-cli
	@echo 'installing vecsess[train,sb3] ...'
	$(INSTALL) '.[train,sb3]'
	@touch $@

$(VENV)/.installed-bench: pyproject.toml $(VENV)/.installed-cli
	@echo 'installing vecsess[bench] ...'
	$(INSTALL) '.[bench]'
	@touch $@

$(VENV)/.installed-ray: pyproject.toml $(VENV)/.installed-cli
	@echo 'installing vecsess[ray] ...'
	$(INSTALL) '.[ray]'
	@touch $@

$(VENV)/.installed-docs: pyproject.toml $(VENV)/.installed-cli
	@echo 'installing vecsess[docs] ...'
	$(INSTALL) '.[docs]'
	@touch $@

# Everything runs from .venv, which any target makes or updates when it must.

VENV    ?= .venv
EXTRAS  ?= samples,export,dev
METHOD  ?= all
PYTEST  ?=
JOBS    ?= 2
export PYTHON

BIN     := $(VENV)/bin
comma   := ,
# One stamp per set of extras: a change of setup.py or the constraints installs again.
STAMP   := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))

.PHONY: help run test lint setup constraints clean
.DEFAULT_GOAL := help

help:
	@echo "make run [METHOD=deep_k_means]   the tour: short real experiments, then report/index.html"
	@echo "make test [PYTEST='-k name']     style, floors, tables, then all tests"
	@echo "make lint                        style, floors and tables only"
	@echo "make setup                       only make or update $(VENV)"
	@echo "make clean                       remove $(VENV), caches, runs/tour and report"
	@echo "Variables: EXTRAS=$(EXTRAS)  VENV=$(VENV)  PYTHON=(python3, 3.11 or newer)"
	@echo "           JOBS=$(JOBS) (processes of the tests; 0 for one with live output)"

run: $(STAMP)
	@$(BIN)/python -m experiments.tour --method=$(METHOD)

# pytest comes last: its closing line is what a CI reads.
test: lint
	@$(BIN)/python -m pytest -q -n $(JOBS) --doctest-modules zoo_jax experiments/_report tests/conftest.py
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow and not network and not gpu" $(PYTEST)

lint: $(STAMP)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "ruff format: run $(BIN)/ruff format ." >&2; exit 1; }
	@$(BIN)/lint-imports
	@$(BIN)/python -m experiments.results.render --check

setup: $(STAMP)

$(STAMP): setup.py constraints/install.sh $(wildcard constraints/*.txt)
	@bash constraints/install.sh "$(VENV)" "$(EXTRAS)"
	@touch $@

constraints:
	constraints/freeze.sh python3.11 samples,export,dev,torch torch==2.13.0
	constraints/freeze.sh python3.12

clean:
	@test ! -e "$(VENV)" -o -f "$(VENV)/pyvenv.cfg" -o -f "$(VENV)/.installing" || \
	  { echo "error: $(VENV) is not a virtual environment; nothing removed" >&2; exit 2; }
	rm -rf "$(VENV)" .cache .pytest_cache .ruff_cache .import_linter_cache runs/tour report zoo_jax.egg-info

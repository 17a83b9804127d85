# Needs: GNU make, git, and python3 (3.11 or newer) with its venv module. Everything else goes into .venv.
# Another interpreter: make install PYTHON=python3.12. Options of the demo: make demo ARGS="--speed 900 --keep".
# Tests that need no cluster and no GPU run in so many processes: make test WORKERS=8.

PYTHON ?= python3
ARGS ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint unit bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## Make .venv with the pinned, tested versions

# Written last, so that an interrupted install is done again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "'$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true); eco_ray needs Python 3.11 or newer:" >&2; \
	  echo "install one, then run: make install PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' has no venv module; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

demo: install ## Install, then run the demo: real jobs on a real Ray cluster of this machine, about 90 s
	$(BIN)/eco-ray demo $(ARGS)

lint: install ## Style, format, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: install ## Unit tests only: no Ray, four minutes on two cores
	$(BIN)/python -m pytest tests/unit -m "not slow" -n $(WORKERS) --dist worksteal

test: lint unit ## Lint, then all tests except the slow ones
	$(BIN)/python -m pytest tests/contract tests/reference tests/k8s -m "not slow" -n $(WORKERS) --dist worksteal
	$(BIN)/python -m pytest tests/gpu tests/ray tests/e2e -m "not slow" --durations=15

test-all: test ## The same, then the long tests and a soak of three minutes
	$(BIN)/python -m pytest tests -m slow
	$(BIN)/python benchmarks/soak.py --minutes 3 --no-save

bench: install ## Run the scripts in benchmarks/, one after the other
	@set -e; for script in $$(grep -l __main__ benchmarks/*.py); do \
	  echo "== $$script"; $(BIN)/python "$$script"; done

clean: ## Remove caches, build products and reports; .venv stays
	rm -rf build dist *.egg-info eco-ray-demo eco-ray-report
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +

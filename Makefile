# Each target sets up what it needs: on a fresh clone, `make demo` or `make test` is the only command.
# PYTHON chooses the interpreter (3.10 or newer), PIP_ARGS are further arguments of `pip install`.

PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin
STAMP := .venv/.installed
TOO_OLD := "Worldline needs Python 3.10 or newer. Name one: make $(MAKECMDGOALS) PYTHON=python3.12"

# One thread each: the test processes share the cores, and the numbers do not depend on how many there are.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
WORKERS ?= 2

.PHONY: setup demo test test-slow soak check format bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and $(TOO_OLD))'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e '.[dev]' -c constraints.txt
	touch $@

# Again, it goes on where it was stopped, or shows its result. `rm -r runs/demo` begins anew.
demo: setup
	$(BIN)/worldline demo --resume

test: check
	$(ONE_THREAD) $(BIN)/pytest -n $(WORKERS) --cov --cov-report=term:skip-covered --cov-fail-under=90

test-slow: setup
	$(ONE_THREAD) $(BIN)/pytest -m slow

# 200 runs that are killed at random instants: how many of them end with the same bytes.
soak: setup
	$(ONE_THREAD) $(BIN)/pytest -m soak

# What needs no running code: format, lint, types, who imports whom, sizes.
check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_sizes.py

# Also writes the tree in README.md.
format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python tools/write_tree.py

bench: setup
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf .venv build dist htmlcov .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

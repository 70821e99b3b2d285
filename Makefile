PYTHON ?= python3
BIN := .venv/bin
# Most tests wait for processes: one more than the smallest machine has processors.
WORKERS ?= 3
# What `make soak` and `make fuzz` do, and for how long.
SECONDS ?= 600
SEED ?= 1
SCRIPTS := gen_certs.sh .ci/packages .ci/run bench/packages tests/security/packages tests/vm/packages $(wildcard docs/*.sh)

# Thousands of processes would compile what they import, each anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-v2 check bench soak fuzz security clean

help:
	@echo 'make demo      run the demonstration: a daemon, a few jobs, what they print'
	@echo 'make test      run the tests; ARGS="-k history" is passed on to pytest'
	@echo 'make test-v2   run the tests of limits in a virtual machine with cgroup version 2'
	@echo 'make check     format, lint, types, layers, spelling, shell scripts'
	@echo 'make bench     measure beside OpenSSH, write bench/results.md; ARGS=--quick tries it'
	@echo 'make soak      break the daemon in all ways and check what comes of it; SECONDS=600 SEED=1'
	@echo 'make fuzz      give all that reads the bytes of others anything at all; SECONDS=600 SEED=1'
	@echo 'make security  have testssl look at the port of a daemon'
	@echo 'make clean     remove what these made, .venv included; certs/ stays'
	@echo
	@echo 'Each sets up what it needs. PYTHON=python3.12 chooses the interpreter.'

# The stamp, and not the directory, is the target: a set-up that was interrupted has none.
.venv/installed: setup.cfg pyproject.toml
	@.ci/packages $(PYTHON)
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "TeleWorker needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ": name another with PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: .venv/installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" docs/demo.sh

test: .venv/installed
	@$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

test-v2: .venv/installed
	@tests/vm/packages
	@$(BIN)/python -m tests.vm $(ARGS)

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/shellcheck $(SCRIPTS)

bench: .venv/installed
	@bench/packages
	@$(BIN)/python -m bench $(ARGS)

soak: .venv/installed
	@$(BIN)/python -m tests.chaos --seconds $(SECONDS) --seed $(SEED)

fuzz: .venv/installed
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --seed $(SEED)

security: .venv/installed
	@tests/security/packages
	@$(BIN)/python -m tests.security

clean:
	rm -rf .venv build dist *.egg-info .coverage .coverage.* .hypothesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find teleworkerd twctl tests bench -name __pycache__ -prune -exec rm -rf {} +

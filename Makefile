PYTHON ?= python3
# Any requirement that pip understands: another build of PyTorch, or the path of a wheel.
TORCH ?= torch==2.13.*
OUT ?= out
JOBS ?= 2

VENV := .venv
PEERS := .venv-bench
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --quiet --disable-pip-version-check
# Conformance suites are modules of tests/conformance that can be run on a folder of cases.
SUITES := sbml
SUITE ?= $(SUITES)
# One process on one core: the small tensors of a fit gain nothing from threads, and lose where other work shares the
# cores, because threads wait for each other.
ONE_THREAD := OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint conformance bench notebooks docs clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12   the interpreter to build .venv from (3.11 or newer)"
	@echo "  TORCH=...           the PyTorch to install: a version, or the path of a wheel"
	@echo "  OUT=out             where demo, notebooks and conformance with CASES write"

demo: $(VENV)/.package  ## fit and simulate a hybrid model end to end, and write out/
	@$(ONE_THREAD) $(BIN)/kinetwin demo --out "$(OUT)"

test: $(VENV)/.tools  ## run every test on JOBS=2 processes
	@$(ONE_THREAD) $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal --durations 10

lint: $(VENV)/.tools  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

conformance: $(VENV)/.tools  ## run public test suites: SUITE=sbml, CASES=FOLDER
	@set -e; for suite in $(SUITE); do $(ONE_THREAD) $(BIN)/python -m tests.conformance.$$suite --out "$(OUT)" $(CASES); done

bench: $(VENV)/.package $(PEERS)/.peers  ## measure beside other tools: ONLY=ROW, QUICK=1, PAGE=1 writes docs/performance.md
	@$(ONE_THREAD) $(BIN)/python -m benchmarks --peers $(PEERS)/bin/python --out "$(OUT)" \
		$(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick) $(if $(PAGE),--page)

notebooks: $(VENV)/.tools  ## execute notebooks/*.ipynb into out/notebooks
	@$(ONE_THREAD) $(BIN)/python -m tests.notebooks "$(OUT)/notebooks"

docs: $(VENV)/.tools  ## build the documentation into docs/_build/html
	@$(BIN)/sphinx-build -W --keep-going --quiet -b html docs docs/_build/html
	@echo "documentation: docs/_build/html/index.html"

clean:  ## remove everything that this file builds
	rm -rf $(VENV) $(PEERS) out docs/_build build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Rebuilt from nothing whenever a dependency may have changed, so that no environment depends on its own past.
$(VENV)/.package: pyproject.toml
	@command -v $(PYTHON) >/dev/null || \
		{ echo "There is no interpreter '$(PYTHON)'. Name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Kinetwin needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1 | head -n 1). Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "[1/2] building $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv --clear $(VENV)
	@echo "[2/2] installing kinetwin and what it needs (about a minute, plus downloads)"
	@$(PIP) "$(TORCH)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.tools: $(VENV)/.package
	@echo "[+] installing what tests, notebooks and documentation need"
	@$(PIP) --editable ".[dev,docs]"
	@touch $@

# What needs a compiler may fail to install: its rows then say so.
$(PEERS)/.peers: benchmarks/requirements.txt
	@echo "[+] building $(PEERS), where the tools that we compare with are installed"
	@$(PYTHON) -m venv --clear $(PEERS)
	@while read -r peer; do case "$$peer" in ""|"#"*) ;; *) \
		$(PEERS)/bin/pip install --quiet --quiet --disable-pip-version-check "$$peer" || \
		echo "$$peer cannot be installed; its rows will say so" >&2 ;; esac; done < $<
	@touch $@

# Everything made here stays inside the checkout, and nothing needs root.

VENV    := .venv
PY      := $(VENV)/bin/python
PIP     := $(PY) -m pip install -q --disable-pip-version-check --no-input
PYTHON  ?= python3.11 python3.12 python3
PROMPT  ?= In the beginning
WORKERS ?= 2
ARGS    ?=

# The least number of tests that must pass at each level: a suite that silently stops running a level
# fails. A selection with ARGS is not counted.
EXPECT  ?= --expect fl=5651 --expect cl=1458 --expect rtl=298 --expect verilog=1790

# Nothing is fetched at run time, and no cache lands in the home folder (pip's own stays where it is).
export HF_HUB_OFFLINE       := 1
export TRANSFORMERS_OFFLINE := 1
export HF_HOME              := $(CURDIR)/.cache/huggingface
CACHED := XDG_CACHE_HOME="$(CURDIR)/.cache"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup run test test-all published lint bench docs clean

help:      ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup:     $(VENV)/.setup ## make .venv and install the project into it
	@echo "$(VENV) is ready"

run:       $(VENV)/.setup ## set up, then generate from a prompt (PROMPT="...", ARGS="...")
	@$(CACHED) $(VENV)/bin/npu run --prompt "$(PROMPT)" $(ARGS)
	@printf '%s\n' '' 'Next:' \
	  '  make run PROMPT="A hacker is" ARGS="--temperature 0.8 --top-k 40 --seed 7"' \
	  '  $(VENV)/bin/npu run path/to/your/Qwen2-checkpoint --prompt "Hello"' \
	  '  $(VENV)/bin/npu compile tiny -o tiny.npu && $(VENV)/bin/npu disasm tiny.npu | head' \
	  '  $(VENV)/bin/npu --help; make test; docs/architecture.md'

test:      $(VENV)/.test ## run the tests (WORKERS=2, ARGS="--level=cl -k mac_array")
	$(CACHED) $(PY) -m pytest -n $(WORKERS) $(if $(ARGS),,$(EXPECT)) $(ARGS)

test-all:  $(VENV)/.test ## run all tests, check generated pages, break the RTL on purpose, try published weights
	$(CACHED) $(PY) -m pytest -n $(WORKERS) --nightly $(if $(ARGS),,$(EXPECT)) $(ARGS)
	$(CACHED) $(PY) -m npu.tools.docs --check
	$(CACHED) $(PY) -m tests.cycles --check
	$(CACHED) $(PY) -m tests.cycles --check --level verilog
	$(CACHED) $(PY) -m tests.mutations --workers $(WORKERS)
	$(MAKE) published

published: $(VENV)/.test ## fetch a published model (491 MB) and compare it with Hugging Face; writes build/published.json
	$(CACHED) $(VENV)/bin/npu fetch qwen2.5-coder-0.5b
	$(CACHED) $(PY) -m pytest tests/published --published $(ARGS)

lint:      $(VENV)/.lint ## check style (ruff), types (mypy) and layers (import-linter)
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --cache-dir .cache/import-linter

bench:     $(VENV)/.setup ## measure speed and cycle counts
	$(CACHED) $(PY) -m npu.tools.bench $(ARGS)

docs:      $(VENV)/.setup ## regenerate the generated parts of the documentation
	$(CACHED) $(PY) -m npu.tools.docs $(ARGS)

clean:     ## remove caches and build products (.venv stays)
	rm -rf build dist *.egg-info .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps lie inside .venv, so that they go when it goes; a changed setup.cfg or pyproject.toml
# outdates them.

$(VENV)/.setup: setup.cfg pyproject.toml
	@$(PY) -m pip --version > /dev/null 2>&1 || { \
	  for python in $(PYTHON) ""; do \
	    [ -z "$$python" ] || ! "$$python" -c \
	      'import sys; sys.exit( not ( 3, 11 ) <= sys.version_info[:2] <= ( 3, 12 ) )' > /dev/null 2>&1 || break; \
	  done; \
	  [ -n "$$python" ] || { \
	    echo "make: Python 3.11 or 3.12 is needed (PyMTL3's translation to Verilog does not work on 3.13);" \
	         "tried: $(PYTHON) (name one with PYTHON=...)" >&2; exit 1; }; \
	  "$$python" -c 'import ensurepip, venv' 2> /dev/null || { \
	    echo "make: $$python has no ensurepip, so it cannot make $(VENV)" \
	         "(Debian and Ubuntu: the package python3-venv)" >&2; exit 1; }; \
	  "$$python" -m venv $(VENV); }
	@echo "installing into $(VENV)"
	@$(PIP) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.setup
	@echo "installing the test tools into $(VENV) (torch is large)"
	@$(PIP) -e '.[test]'
	@touch $@

$(VENV)/.lint: $(VENV)/.setup
	@echo "installing the lint tools into $(VENV)"
	@$(PIP) -e '.[dev]'
	@touch $@

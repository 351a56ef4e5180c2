# make demo   install, then the whole pipeline on a CPU with a tiny model (no network beyond pip)
# make test   install, then every test that needs no GPU
# make check  lint, format, types and the direction of imports
# make generate  write again what comes from the table of flags (a test says when that is due)
# make clean  remove what the three above made
# The newest of those that can make an environment: a pyenv shim may lead nowhere, and Debian's python3 may lack venv.
FITS   := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))
PYTHON ?= $(shell for p in $$(bash -c 'type -ap python3.12 python3.11 python3'); do "$$p" -c '$(FITS)' 2>/dev/null && echo "$$p" && break; done)
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test check generate clean install
.DELETE_ON_ERROR:

install: $(VENV)/installed

$(VENV)/installed: SHELL := bash
$(VENV)/installed: requirements.txt constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or 3.12 with venv found: install one (Debian: python3-venv too), or make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@command -v "$(PYTHON)" >/dev/null || { echo "PYTHON=$(PYTHON) not found: give the path of a Python 3.11 or 3.12" >&2; exit 2; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "installing into $(VENV): some 230 packages, 3 GB with torch's CPU build"
	@set -o pipefail; $(BIN)/pip install --disable-pip-version-check --no-compile --progress-bar off -r requirements.txt \
		| $(BIN)/python tools/pip_progress.py $(VENV)/lib/python3.*/site-packages
	@echo "compiling them"
	@# pip would compile on one core, for a minute; what a package keeps for another Python does not compile, as with pip
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	$(BIN)/pip check
	@touch $@

demo: install
	$(BIN)/python -m tools.demo

test: install
	$(BIN)/python -m pytest -m "not gpu and not soak" --durations=15 -n 2

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# what is written from a table of the code: Settings, the pages of flags
generate: install
	$(BIN)/python -m tools.generate_settings
	$(BIN)/python -m tools.generate_flag_docs
	$(BIN)/python -m tools.generate_checks_doc

clean:
	rm -rf $(VENV) demo_output .pytest_cache .mypy_cache .ruff_cache

# make demo   install, then the whole pipeline on a CPU with a tiny model (no network beyond pip)
# make test   install, then every test that needs no GPU
# make check  lint, format and types
# make clean  remove what the three above made
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test check clean install
.DELETE_ON_ERROR:

install: $(VENV)/installed

$(VENV)/installed: requirements.txt constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11, or make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): some 230 packages, 3 GB with torch's CPU build; minutes without a word"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
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

clean:
	rm -rf $(VENV) demo_output .pytest_cache .mypy_cache .ruff_cache

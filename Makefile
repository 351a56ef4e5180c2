# make install  what running needs, in .venv; make install-gpu the same for NVIDIA GPUs (CUDA 13)
# make demo   install, then the whole pipeline on a CPU with a tiny model (no network beyond pip)
# make test   install, then the tests for every change: a quarter of an hour
# make test-thorough  install, then the rest of those that need no GPU: what changes with the libraries and releases
# make test-all  both
# make test-fast  install, then the tests that take no seconds each: under a minute
# make mutants  whether the fast tests notice changes of a module (benchmarks/mutation.md)
# make check  lint, format, types and the direction of imports
# make generate  write again what comes from the table of flags (a test says when that is due)
# make matrix  try the library versions of NVIDIA's containers (minutes), and write docs/versions.md
# make outdated  what is newer than the pins, and known vulnerabilities
# make clean  remove what the others made
# make help   these lines
# The newest of those that can make an environment: a pyenv shim may lead nowhere, and Debian's python3 may lack venv.
FITS   := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))
PYTHON ?= $(shell for p in $$(bash -c 'type -ap python3.12 python3.11 python3'); do "$$p" -c '$(FITS)' 2>/dev/null && echo "$$p" && break; done)
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: help demo test test-thorough test-all test-fast mutants check generate clean install install-dev install-gpu matrix outdated
.DELETE_ON_ERROR:

install: $(VENV)/installed

install-dev: $(VENV)/installed-dev

# pip with one line on how far it is
PIP := $(BIN)/pip install --disable-pip-version-check --no-compile --progress-bar off
FAR := $(BIN)/python tools/pip_progress.py $(VENV)/lib/python3.*/site-packages

$(VENV)/installed $(VENV)/installed-dev install-gpu: SHELL := bash
$(VENV)/python-is-there:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or 3.12 with venv found: install one (Debian: python3-venv too), or make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@command -v "$(PYTHON)" >/dev/null || { echo "PYTHON=$(PYTHON) not found: give the path of a Python 3.11 or 3.12" >&2; exit 2; }
	@"$(PYTHON)" tools/check_platform.py
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@touch $@

$(VENV)/installed: requirements.txt requirements/common.txt constraints.txt | $(VENV)/python-is-there
	@echo "installing into $(VENV): some 180 packages, 2.6 GB with torch's CPU build, 6.4 GB with its CUDA build"
	@set -o pipefail; $(PIP) -r requirements.txt | $(FAR)
	@echo "compiling them: a minute or two"
	@# pip would compile on one core, for a minute; what a package keeps for another Python does not compile, as with pip
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib nemo_workflow >/dev/null 2>&1 || true
	$(BIN)/pip check
	@# `python -m nemo_workflow.runs` from any folder, once the environment is active
	@echo "$(CURDIR)" > "$$(echo $(VENV)/lib/python3.*/site-packages)/nemo_workflow_here.pth"
	@# Ctrl-C while this Python starts one of our commands; the name has it read before other packages' files
	@cp tools/ctrl_c.pth "$$(echo $(VENV)/lib/python3.*/site-packages)/_nemo_workflow_ctrl_c.pth"
	@touch $@

$(VENV)/installed-dev: requirements/dev.txt requirements/docs.txt $(VENV)/installed
	@echo "and what tests, checks and pages need"
	@set -o pipefail; $(PIP) -r requirements.txt -r requirements/dev.txt -r requirements/docs.txt | $(FAR)
	@touch $@

# Where the toolkit lies, as nvcc says: the nvcc in PATH may be a script of a module system, and its folder not the toolkit's.
# torch's packages lack some of CUDA's headers (crt/), so that the toolkit's own must be found, and before them.
TOOLKIT = nvcc="$$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)"; "$$nvcc" --dryrun -x cu -c /dev/null 2>&1 | sed -n 's|^.*_HERE_=\(.*\)/bin$$|\1|p' | head -1

# torch first: Transformer Engine's torch part is compiled against it, with nvcc and a C++ compiler; the headers of cuDNN, NCCL,
# cuBLAS and cuSPARSE come with torch's packages, for a toolkit may be nvcc alone
install-gpu: | $(VENV)/python-is-there
	@command -v nvcc >/dev/null || test -x "$${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" || { echo "nvcc not found: install NVIDIA's CUDA 13 toolkit, or set CUDA_HOME to it" >&2; exit 2; }
	@command -v g++ >/dev/null || { echo "g++ not found: install a C++ compiler" >&2; exit 2; }
	@echo "installing into $(VENV) for NVIDIA GPUs: some 210 packages; then Transformer Engine is compiled, which takes minutes"
	@set -o pipefail; $(PIP) -c constraints-gpu.txt -r requirements/gpu-build.txt -r requirements/common.txt | $(FAR)
	home="$${CUDA_HOME:-$$($(TOOLKIT))}"; test -z "$$home" || export CUDA_HOME="$$home"; \
	CPLUS_INCLUDE_PATH="$$(echo $${home:+"$$home"/include} $(abspath $(VENV))/lib/python3.*/site-packages/nvidia/{cudnn,nccl,cu13}/include | tr ' ' :)$${CPLUS_INCLUDE_PATH:+:$$CPLUS_INCLUDE_PATH}" \
		$(BIN)/pip install --disable-pip-version-check --no-build-isolation -r requirements-gpu.txt
	$(BIN)/pip check

demo: install
	$(BIN)/python -m tools.demo

test: install-dev
	$(BIN)/python -m pytest -m "not thorough and not gpu and not soak" --durations=15 -n 2

test-thorough: install-dev
	$(BIN)/python -m pytest -m "thorough and not gpu and not soak" --durations=15 -n 2

test-all: test
	$(MAKE) test-thorough

# three processes on two cores: some of the tests wait
test-fast: install-dev
	$(BIN)/python -m pytest -m "not e2e and not slow and not slurm and not gpu and not soak" -q -n 3 --ignore tests/e2e

# beside the environment, not in it: its own dependencies are not the project's
mutants: install-dev
	test -d .mutmut || $(BIN)/pip install --disable-pip-version-check --no-deps --target .mutmut -r requirements/mutants.txt
	PYTHONPATH=$(CURDIR)/.mutmut $(BIN)/python -m mutmut run --max-children 2
	PYTHONPATH=$(CURDIR)/.mutmut $(BIN)/python -m mutmut results

check: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# what is written from a table of the code: Settings, the pages of flags and checks, the README's plans, the lists of models
generate: install
	$(BIN)/python -m tools.generate_settings
	$(BIN)/python -m tools.generate_ctrl_c
	$(BIN)/python -m tools.generate_flag_docs
	$(BIN)/python -m tools.generate_checks_doc
	$(BIN)/python -m tools.generate_plan_table
	$(BIN)/python -m tools.generate_supported

matrix: install-dev
	$(BIN)/python -m tools.version_matrix

outdated: install-dev
	$(BIN)/python -m tools.outdated

clean:
	rm -rf $(VENV) .mutmut mutants demo_output .pytest_cache .mypy_cache .ruff_cache

help:
	@sed -n 's/^# \(make [a-z-]*\) */\1  /p' $(firstword $(MAKEFILE_LIST))

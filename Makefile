# make demo     search the simulated sample scan          make check    style and types
# make test     all tests, two at a time (PYTEST="-k volume" for some, PYTEST="-n 0" one by one)
# make bench    time and memory, into docs/performance.md; make bench-quick prints those of the search alone
# make screenshots     the panel and its slice views, into build/screenshots and docs/images
#
# make demo PYTHON=python3.12     another Python (3.10 to 3.13); VENV=folder keeps its environment apart
# make demo TORCH_INDEX=          take torch from your usual package index and nowhere else

PYTHON ?= python3
VENV ?= .venv
PYTEST ?=
SAMPLE = $(patsubst %/,%,$(dir $(firstword $(wildcard Resources/SampleData/*/swi.nii.gz))))
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# On Linux the usual torch brings gigabytes of CUDA libraries; without an NVIDIA driver they are of no use.
ifeq ($(shell uname)$(shell command -v nvidia-smi),Linux)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
endif

BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt
.DELETE_ON_ERROR:
.PHONY: demo test check bench bench-quick screenshots clean

demo: $(VENV)/.ready
	$(BIN)/python -m CMBDetectorLib detect --swi $(SAMPLE)/swi.nii.gz --phase $(SAMPLE)/phase.nii.gz \
	    --out demo --overwrite --with-images
	@echo; echo "The results are in $(CURDIR)/demo:"; ls demo

# Two processes, one core each: threads of both on the same cores would wait for each other.
test: $(VENV)/.ready-to-test
	@.ci/system-libraries
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(PYTEST)

check: $(VENV)/.ready-to-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/.ready-to-compare
	$(BIN)/python -m Testing.benchmark

bench-quick: $(VENV)/.ready
	$(BIN)/python -m Testing.benchmark --quick

screenshots: $(VENV)/.ready-to-test
	@.ci/system-libraries
	$(BIN)/python -m Testing.window.screenshots build/screenshots
	cp build/screenshots/window.png build/screenshots/detecting.png docs/images/

clean:
	rm -rf "$(VENV)" demo build *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
	    echo "CMBDetector needs Python 3.10 to 3.13; $(PYTHON) is $$($(PYTHON) --version 2>&1 | tail -n 1)."; \
	    echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV); the first time takes a few minutes"
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq \
	    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null; } || { \
	    echo "$(PYTHON) has no venv module. On Debian or Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@test -z "$(TORCH_INDEX)" || $(INSTALL) --no-deps --retries 0 --index-url "$(TORCH_INDEX)" torch 2>/dev/null \
	    || echo "$(TORCH_INDEX) cannot be reached; taking torch from your usual package index (may be several GB)"
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.ready-to-compare: $(VENV)/.ready
	@$(INSTALL) --editable '.[benchmark]'
	@touch $@

$(VENV)/.ready-to-test: $(VENV)/.ready
	@$(INSTALL) --editable '.[dev]'
	@touch $@

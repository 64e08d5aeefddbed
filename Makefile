# Two commands: `make demo` and `make test`. Everything they need is set up in .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo demo-clean test test-fsdp check conformance findings

setup: .venv/ready

# moshi pins old versions of what it needs: it is installed last and without its requirements.
.venv/ready: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11)' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "venv is missing. On Debian or Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[demo,live,trackers,dev]'
	$(BIN)/pip install --quiet --no-deps moshi==0.2.13
	@touch $@

demo: setup
	$(BIN)/python scripts/demo.py

demo-clean:
	rm -rf runs/demo

test: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile

# Two processes on CPUs with real FSDP2 over gloo; a part of `make test`.
test-fsdp: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 0 tests/training/test_fsdp.py

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

conformance: setup
	OMP_NUM_THREADS=1 $(BIN)/python scripts/run_conformance.py

# Surprises of the libraries, each in a folder of its own that pip fills; minutes each, not a part of CI.
findings:
	@for script in findings/*.sh; do echo "$$script"; PYTHON=$(PYTHON) sh $$script || exit 1; done

# make demo    built-in corpus to WER table        make lint     style and types
# make test    lint, then the tests                make clean    remove .venv and caches
# make soak    the tests that take minutes, then the fuzzer: make soak SECONDS=1800 KILLS=1000
# The first call creates .venv and installs into it. If it is interrupted, the next call starts the installation again.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
SECONDS ?= 1800
KILLS ?= 1000
# Modules are compiled once, at installation: with PYTHONDONTWRITEBYTECODE, every command would compile them again.
# The file's name holds a checksum: a changed dependency or a moved checkout starts a new installation.
INSTALLED := .venv/installed-$(shell (pwd; cat pyproject.toml constraints.txt) | cksum | cut -d' ' -f1)
VERSION_CHECK := import sys; v = sys.version_info; (3, 11) <= v < (3, 14) or sys.exit( \
	"make: $(PYTHON) is Python " + sys.version.split()[0] + " but asr_kd needs 3.11 to 3.13." \
	" Choose another one: make test PYTHON=python3.12")

.PHONY: demo test soak lint install clean

demo: install
	recipes/digits/run.sh --small

test: install
	@$(MAKE) --no-print-directory --jobs=2 --output-sync lint .venv/kenlm
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m "not soak"

soak: install
	$(BIN)/python -m pytest -m soak
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)
	$(BIN)/python -m tests.fuzz.kills --kills $(KILLS)

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

install: $(INSTALLED)

$(INSTALLED):
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) here; install Python 3.11 to 3.13" >&2; exit 1; }
	@$(PYTHON) -c '$(VERSION_CHECK)'
	@if test -e .venv/installing; then echo "The last installation was cut short: starting again."; rm -rf .venv; fi
	@mkdir -p .venv && touch .venv/installing
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt --compile-bytecode --editable '.[dev]'
	$(BIN)/python -m compileall -q asr_kd
	@rm -f .venv/installing .venv/installed-*
	@touch $@

# Some tests of language models compare with kenlm, which has no wheel. If it cannot be built, they are skipped.
.venv/kenlm: | install
	@echo "Building kenlm, once (about a minute)."
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt kenlm || \
		echo "No kenlm here (it needs a C++ compiler): the tests that compare with it are skipped."
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find asr_kd tests recipes -name __pycache__ -prune -exec rm -rf {} +

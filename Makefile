# Needs Python 3.11 or later, make and git. Everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help setup demo test check bench soak test-gpu clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: $(INSTALLED) ## make .venv and install everything into it

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Trillium needs Python 3.11 or later; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { echo "cannot make a virtual environment: on Debian and Ubuntu, install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev,offline,media,interop,games]'
	@touch $@

demo: $(INSTALLED) ## train a captioner, a text GAN and a policy, small, and write a report
	$(BIN)/trillium demo

test: $(INSTALLED) ## run the tests
	$(BIN)/python -m pytest

check: $(INSTALLED) ## style, types, imports, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

bench: $(INSTALLED) ## run the benchmarks behind benchmarks/RESULTS.md (long); TEXT=FILE adds tinyshakespeare
	$(BIN)/python benchmarks/training_speed.py small
	$(BIN)/python benchmarks/training_speed.py large
	$(BIN)/python benchmarks/generation_speed.py
	$(BIN)/python benchmarks/generation_speed.py --batch 1
	$(BIN)/python benchmarks/smollm2_parity.py
	$(BIN)/python benchmarks/captioner_speed.py
	$(BIN)/python benchmarks/captioner_memory.py
	$(BIN)/python benchmarks/caption_metrics.py
	$(BIN)/python benchmarks/text_gan_speed.py
	@test -z "$(TEXT)" || $(BIN)/python benchmarks/shakespeare.py "$(TEXT)"

soak: $(INSTALLED) ## run the long tests
	$(BIN)/python -m pytest -m soak

test-gpu: $(INSTALLED) ## run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

clean: ## remove what the tools left; keep .venv and runs
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -type d -prune -exec rm -rf {} +

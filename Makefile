# Everything a newcomer types. Runs in .venv, which is made and kept up to date as needed.
# Another Python than the first that fits: make install PYTHON=/usr/bin/python3.12

FITS = 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	"$$p" -c $(FITS) 2>/dev/null && echo "$$p" && break; done)
BIN = .venv/bin

export PYTHONDONTWRITEBYTECODE =  # kept: the tests start Python some hundred times

.PHONY: help install test pytest test-portable lint quickstart clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1|/' | \
		while IFS='|' read -r target purpose; do printf '%-22s %s\n' "$$target" "$$purpose"; done

install: .venv/.installed  ## make .venv and install the pinned versions into it

quickstart: install  ## train, score and merge on the embedded model and speech
	$(BIN)/lora-whisper train experiment=quickstart overwrite=true
	$(BIN)/lora-whisper merge run=outputs/quickstart overwrite=true

# Ruff's cache does not notice that a module which a file imports has come or gone.
lint: install  ## ruff and mypy
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy lora_whisper

test: install  ## lint and all tests, beside each other
	@$(MAKE) --no-print-directory -j2 lint pytest

pytest: install
	$(BIN)/pytest -q -n 2 --dist worksteal

# What computes; the other tests are alike on every processor.
NUMERICAL = tests/model tests/lora tests/training tests/evaluation tests/export tests/quickstart \
	$(addprefix tests/cli/test_,adapter_kinds.py deltas.py \
	launch.py merge.py resume.py search.py train.py)
# Kernels of older processors, more threads, and all of it at once. One at a time is enough: each
# picks among kernels that are called in the same order, so that only the rounding differs.
SETTINGS = ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 \
	LORA_WHISPER_TEST_THREADS=2 LORA_WHISPER_TEST_THREADS=4 \
	ATEN_CPU_CAPABILITY=default,ONEDNN_MAX_CPU_ISA=AVX2,LORA_WHISPER_TEST_THREADS=4

test-portable: install  ## the tests that compute, as other processors compute
	@failed=; for setting in $(SETTINGS); do \
		echo "$$setting"; env $$(echo "$$setting" | tr , ' ') \
			$(BIN)/pytest -q -n 2 --dist worksteal $(NUMERICAL) || failed="$$failed $$setting"; \
	done; test -z "$$failed" || { echo "Failed with:$$failed"; exit 1; }

clean:  ## remove .venv, builds and caches; outputs/ stays
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# -qq: errors only; pip says nothing for the minutes that this takes.
.venv/.installed: pyproject.toml constraints.txt | .venv/bin/pip
	@echo "Installing into .venv; the first time takes a few minutes."
	$(BIN)/python -m pip install -qq -e '.[dev]' -c constraints.txt
	@touch $@

.venv/bin/pip:
	@"$(PYTHON)" -c $(FITS) 2>/dev/null || { \
		echo "Found no Python 3.11 or newer with venv (PYTHON=$(PYTHON))."; \
		echo "Debian and Ubuntu: apt install python3-venv. Elsewhere: make PYTHON=/path/to/python3"; \
		exit 1; }
	"$(PYTHON)" -m venv .venv
